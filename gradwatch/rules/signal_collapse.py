"""GW105: the outputs no longer depend on the inputs."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.layer_signals import hidden_chain_layers, sample_signals
from gradwatch.rules.loss_curve import is_learning
from gradwatch.rules.wording import named, only
from gradwatch.settings import Settings
from gradwatch.structure import Structure


class SignalCollapse(Rule):
    """The last hidden layer gives every sample the same output.

    What it does:
        Takes the standard deviation over samples, relative to the RMS, at the weight
        layer below the head. It is a note if the loss is falling all the same, or if
        the first layer shows as little: then the data hardly varies, as raw inputs
        with a large mean do.

    Why it matters:
        What does not depend on the input cannot be classified by it. The network can
        only learn the mean of the targets.

    Evidence:
        - Sample signal at the last hidden layer = standard deviation over samples /
          RMS, no unit, limit `min_sample_signal`.
        - Sample signal at the first layer, as context, with the same limit.
        - Newest loss over first loss, no unit, limit `learning_loss_ratio`.

    Remedies:
        The initialisation that fits the activation (weights too small against the
        biases), residual connections, normalisation of layers or of the data.

    References:
        - Poole et al. (2016). Exponential expressivity in deep neural networks through
          transient chaos. arXiv:1606.05340.
        - Schoenholz et al. (2017). Deep information propagation. arXiv:1611.01232.
    """

    code: ClassVar[str] = "GW105"
    name: ClassVar[str] = "signal-collapse"
    summary: ClassVar[str] = "The outputs no longer depend on the inputs."
    health: ClassVar[Health] = Health.STALLED
    remedies: ClassVar[tuple[str, ...]] = (
        "initialise-weights",
        "normalise-data",
        "add-residual",
        "add-normalisation",
        "swap-activation",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "min_sample_signal",
        "learning_loss_ratio",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if structure.last_hidden is None:
            return "the last hidden layer is not known"
        if structure.last_hidden not in sample_signals(history.latest):
            return "no dimension of samples was recognised, or the batch holds one"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record, last = history.latest, structure.last_hidden
        if record is None or last is None:
            return None
        signals = sample_signals(record)
        limit = settings.min_sample_signal
        if last not in signals or signals[last] > limit:
            return None
        steps = (record.step, record.step)
        evidence = [Evidence("sample signal", signals[last], limit, "", steps, last)]
        first = _first(record, structure, signals)
        same_from_start = False
        if first is not None and first != last:
            same_from_start = signals[first] <= limit
            evidence.append(
                Evidence(
                    "sample signal at the first layer",
                    signals[first],
                    limit,
                    "",
                    steps,
                    first,
                    "context only",
                )
            )
        learning = is_learning(history, settings)
        where = (
            f"and at {named(first or '')} already, so the data itself hardly varies"
            if same_from_start
            else f"although they differ by {signals[first]:.1%} at {named(first)}"
            if first is not None and first != last
            else "so the head sees the same for every sample"
        )
        quiet = learning or same_from_start
        return self.finding(
            severity=Severity.NOTE if quiet else Severity.WARNING,
            message=(
                f"The outputs of {named(last)} differ between samples by "
                f"{only(signals[last])} of their size, {where}."
            ),
            help=(
                "Look at the mean and the scale of the inputs."
                if same_from_start
                else f"Look where the signal is lost between the input and "
                f"{named(last)}: small weights, large biases, dead units."
            ),
            evidence=tuple(evidence),
            layers=(last,),
            origin=last,
        )


def _first(
    record: StepRecord, structure: Structure, signals: dict[str, float]
) -> str | None:
    along = [name for name in hidden_chain_layers(record, structure) if name in signals]
    return along[0] if along else None
