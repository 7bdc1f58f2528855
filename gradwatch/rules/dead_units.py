"""GW103: units that are never active."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.layer_signals import (
    dead_shares,
    hidden_activations,
    sample_signals,
)
from gradwatch.rules.weight_updates import weights
from gradwatch.rules.wording import because, named, plural
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


class DeadUnits(Rule):
    """Most units of a layer are never active, so no gradient passes them.

    What it does:
        Counts, for ReLU-like hidden activations, the units that were zero for every
        sample of every probe of the window. Output activations and gates are left
        out, and so are experts that were not called.

        A dead layer is a warning if the net suffers from it: half of the weight
        tensors get an exactly zero gradient, or the last hidden layer no longer
        depends on the input. Otherwise dead units are a note.

    Why it matters:
        A unit that is never active gets no gradient and stays dead. A layer of them
        cuts off everything below it.

    Evidence:
        - Share of a layer's units never active, unit share, limit `dead_unit_share`; a
          note from `dead_note_share`, once the window spans `dead_window` probes.
        - Share of weight tensors with an exactly zero gradient, unit share, limit
          `dead_zero_grad_share`. It does not count while a weight above is all zero.
        - Sample signal of the last hidden layer, no unit, limit `min_sample_signal`.

    Remedies:
        Dead from the start: reset the biases to zero and use He initialisation, or
        LeakyReLU. Dead during training: lower the learning rate and revive the units;
        a new initialisation alone does not help then.

    References:
        - Lu et al. (2019). Dying ReLU and initialization. arXiv:1903.06733.
        - He et al. (2015). Delving deep into rectifiers. arXiv:1502.01852.
    """

    code: ClassVar[str] = "GW103"
    name: ClassVar[str] = "dead-units"
    summary: ClassVar[str] = "Most units of a layer are never active."
    health: ClassVar[Health] = Health.DEAD
    remedies: ClassVar[tuple[str, ...]] = (
        "revive-units",
        "initialise-weights",
        "swap-activation",
        "adjust-learning-rate",
        "add-normalisation",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "dead_unit_share",
        "dead_note_share",
        "dead_zero_grad_share",
        "dead_window",
        "min_sample_signal",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if not dead_shares(history.latest):
            return "no hidden activation with an off state was observed"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        shares = dead_shares(record)
        window = {a.layer: a.window_probes for a in hidden_activations(record)}
        dead = [name for name in shares if shares[name] >= settings.dead_unit_share]
        reasons, context = consequence(record, structure, settings, dead)
        if dead and reasons:
            sick = dead
            whole = any(shares[name] >= 1.0 for name in dead)
            severity = Severity.CRITICAL if whole else Severity.WARNING
            limit = settings.dead_unit_share
        else:
            sick = [
                name
                for name in shares
                if shares[name] >= settings.dead_note_share
                and window[name] >= settings.dead_window
            ]
            severity = Severity.NOTE
            limit = settings.dead_note_share
        if not sick:
            return None
        sick.sort(key=shares.__getitem__, reverse=True)
        worst = sick[0]
        probes = max(window[name] for name in sick)
        count = plural(probes, "probe")
        return self.finding(
            severity=severity,
            message=(
                f"{shares[worst]:.0%} of the units of {named(worst)} were never active "
                f"over {count}{_others(sick)}{because(reasons)}."
            ),
            help=(
                f"Look at the biases and the inputs of {named(worst)}: are they far "
                "below zero, and was the learning rate high before they got there?"
            ),
            evidence=(
                Evidence(
                    "share of units never active",
                    shares[worst],
                    limit,
                    "share",
                    history.window(probes),
                    worst,
                ),
                *context,
            ),
            layers=tuple(sick),
            origin=min(sick, key=list(shares).index),
        )


def _others(sick: list[str]) -> str:
    others = len(sick) - 1
    return f" (and most of those of {plural(others, 'more layer')})" * (others > 0)


def consequence(
    record: StepRecord,
    structure: Structure,
    settings: Settings,
    dead: list[str],
) -> tuple[list[str], list[Evidence]]:
    """Return what follows from dead layers, in words and as evidence.

    Args:
        record: The probe.
        structure: The network.
        settings: The limits.
        dead: Layers whose units are dead.

    Returns:
        Clauses for the message, and the evidence measured, decisive or not.
    """
    steps = (record.step, record.step)
    reasons: list[str] = []
    evidence: list[Evidence] = []
    norms = [p.grad_norm for p in weights(record, structure) if p.grad_norm is not None]
    if norms and not record.zero_init_downstream:
        share = sum(norm == 0.0 for norm in norms) / len(norms)
        limit = settings.dead_zero_grad_share
        evidence.append(
            Evidence(
                "share of weights with zero gradient", share, limit, "share", steps
            )
        )
        if share >= limit:
            reasons.append(f"{share:.0%} of the weights get an exactly zero gradient")
    cuts = any(structure.role(name) is not Role.BRANCH for name in dead)
    last = structure.last_hidden
    signal = sample_signals(record).get(last) if last is not None else None
    if signal is not None and last is not None and cuts:
        limit = settings.min_sample_signal
        evidence.append(Evidence("sample signal", signal, limit, "", steps, last))
        if signal <= limit:
            reasons.append(f"{named(last)} no longer depends on the input")
    return reasons, evidence
