"""GW203: the forward signal grows over depth."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.rules.base import Rule
from gradwatch.rules.layer_signals import (
    forward_growth,
    hidden_chain_layers,
    output_rms,
)
from gradwatch.rules.wording import amount, named
from gradwatch.settings import Settings
from gradwatch.structure import Structure


class ExplodingActivation(Rule):
    """The outputs of the layers grow by orders of magnitude over depth.

    What it does:
        Compares the largest output RMS along the trunk with that of its first layer,
        or with 1 if that layer's is smaller.

    Why it matters:
        The loss starts far above chance, updates scale with the signal, and half
        precision overflows at 65,504. Where the gradient grows as well, the two are
        reported as one finding.

    Evidence:
        - Growth of the forward RMS = log10(largest / max(first, 1)), unit decades,
          limit `exploding_activation_decades`; critical from `severe_decades`.
        - Layers whose RMS lies above the limit are listed. Branches, embeddings and
          the head are left out.

    Remedies:
        The initialisation that fits the activation; scaled or zero-initialised
        residual branches; layer norm; an activation without exponential growth;
        inputs of unit scale.

    References:
        - He et al. (2015). Delving deep into rectifiers. arXiv:1502.01852.
        - Mishkin & Matas (2015). All you need is a good init. arXiv:1511.06422.
        - Zhang et al. (2019). Fixup initialization. arXiv:1901.09321.
    """

    code: ClassVar[str] = "GW203"
    name: ClassVar[str] = "exploding-activation"
    summary: ClassVar[str] = "The forward signal grows over depth."
    health: ClassVar[Health] = Health.EXPLODING
    remedies: ClassVar[tuple[str, ...]] = (
        "initialise-weights",
        "add-residual",
        "add-normalisation",
        "swap-activation",
        "normalise-data",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "exploding_activation_decades",
        "severe_decades",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if forward_growth(history.latest, structure) is None:
            return "fewer than 3 layers with a measured output"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        growth = forward_growth(record, structure) if record is not None else None
        if record is None or growth is None:
            return None
        decades, first, largest = growth
        if decades < settings.exploding_activation_decades:
            return None
        rms = output_rms(record)
        limit = max(rms[first], 1.0) * 10**settings.exploding_activation_decades
        along = [name for name in hidden_chain_layers(record, structure) if name in rms]
        sick = tuple(name for name in along if rms[name] >= limit)
        severe = decades >= settings.severe_decades
        steps = (record.step, record.step)
        return self.finding(
            severity=Severity.CRITICAL if severe else Severity.WARNING,
            message=(
                f"The outputs grow {decades:.1f} decades over depth, from RMS "
                f"{amount(rms[first])} at {named(first)} to {amount(rms[largest])} at "
                f"{named(largest)}."
            ),
            help=(
                f"Look at the weight scale before {named(sick[0])}, and at sums that "
                "add up without a norm or a scale."
            ),
            evidence=(
                Evidence(
                    "forward growth",
                    decades,
                    settings.exploding_activation_decades,
                    "decades",
                    steps,
                    largest,
                ),
            ),
            layers=sick,
            origin=sick[0],
        )
