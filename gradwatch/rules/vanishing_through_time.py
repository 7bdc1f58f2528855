"""GW102: the gradient of a recurrent layer fades over time."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import TimeProfile
from gradwatch.rules.base import Rule
from gradwatch.rules.layer_signals import sample_signals
from gradwatch.rules.loss_curve import is_flat
from gradwatch.rules.time_profiles import TimeChange, fading, horizon, time_unmet
from gradwatch.rules.weight_updates import outside_workable_range
from gradwatch.rules.wording import (
    because,
    named,
    plural,
    relative,
    share_left,
    unique,
)
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Multiple of the limit from which the finding is critical (chosen, not measured).
_SEVERE = 2.0


class VanishingThroughTime(Rule):
    """The gradient of a recurrent layer fades on its way back through time.

    What it does:
        Follows the gradient from its peak over time (the last step with at least half
        of it) to the far end of the peak's reach, for each direction of each recurrent
        layer, and states the horizon: the time steps after which `horizon_share` of the
        peak is left, read from the profile; only where the profile does not fall that
        far is its mean slope carried on beyond it. Steps after the last non-zero one
        are padding. An exact zero at the end of a falling profile is
        underflow and counts, at least, as the way to the smallest float.

        A faded profile alone is a note. A default LSTM or GRU loses 3 decades in 16
        steps; that is fatal where the task needs the far steps and harmless where it
        does not, and the profile is the same in both. So a warning asks for a
        consequence: the loss stays flat although the updates have a workable size, or
        the layer's output hardly depends on its input. Where the loss is not known,
        the second alone can decide.

    Why it matters:
        What happened before the horizon cannot be learned: the network behaves as if
        its sequences were that short.

    Evidence:
        - Gradient lost from the peak over time, unit decades, limit
          `vanishing_time_decades`. Critical from twice that.
        - Horizon, unit time steps, at `horizon_share` of the peak.
        - Newest loss over first loss, no unit, limit `flat_loss_ratio`, where the loss
          is known over `time_flat_loss_steps` and the update ratios are between
          `min_update_ratio` and `max_update_ratio`.
        - Sample signal of the layer, no unit, limit `weak_signal`.
        - Spectral radius and largest singular value of the recurrent weight, as
          context: they do not decide.

    Remedies:
        A gated cell whose gate bias is about log T; a default LSTM is not enough.
        Orthogonal recurrent initialisation for moderate lengths. Shorter sequences,
        truncated backpropagation or attention.

    References:
        - Pascanu et al. (2012). On the difficulty of training recurrent neural
          networks. arXiv:1211.5063.
        - Tallec & Ollivier (2018). Can recurrent neural networks warp time?
          arXiv:1804.11188.
        - Chen et al. (2018). Dynamical isometry and a mean field theory of RNNs.
          arXiv:1806.05394.
        - Le et al. (2015). A simple way to initialize recurrent networks of rectified
          linear units. arXiv:1504.00941.
    """

    code: ClassVar[str] = "GW102"
    name: ClassVar[str] = "vanishing-through-time"
    summary: ClassVar[str] = "The gradient of a recurrent layer fades over time."
    health: ClassVar[Health] = Health.VANISHING
    remedies: ClassVar[tuple[str, ...]] = (
        "gated-cell",
        "orthogonal-recurrence",
        "attention-or-truncation",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "vanishing_time_decades",
        "horizon_share",
        "flat_loss_ratio",
        "time_flat_loss_steps",
        "weak_signal",
        "min_update_ratio",
        "max_update_ratio",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        return time_unmet(history.latest)

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        faded: list[tuple[TimeProfile, TimeChange]] = []
        for profile in record.time_profiles:
            change = fading(profile.norms)
            if change and change.decades >= settings.vanishing_time_decades:
                faded.append((profile, change))
        if not faded:
            return None
        layers = unique([p.layer for p, _ in faded])
        worst, change = max(faded, key=lambda pair: pair[1].decades)
        reasons, context = consequence(history, structure, settings, layers)
        severity = Severity.NOTE
        if reasons:
            severe = change.decades >= _SEVERE * settings.vanishing_time_decades
            severity = Severity.CRITICAL if severe else Severity.WARNING
        steps = (record.step, record.step)
        reach = horizon(worst.norms, settings.horizon_share)
        least = "at least " if change.underflow else ""
        way = " in the reverse direction" if worst.direction == "reverse" else ""
        text = (
            f"The gradient of {named(worst.layer)} loses {least}{change.decades:.1f} "
            f"decades over {plural(change.start - change.end, 'time step')}{way}"
        )
        if reach is not None:
            left, after = share_left(settings.horizon_share, reach)
            text += f"; {left} of it is left after {after}"
        decides = Evidence(
            "gradient lost through time",
            change.decades,
            settings.vanishing_time_decades,
            "decades",
            steps,
            worst.layer,
            note="at least: underflow" if change.underflow else "",
        )
        return self.finding(
            severity=severity,
            message=f"{text}{because(reasons)}.",
            help=_help(reasons, reach),
            evidence=(
                decides,
                *_horizon(reach, worst, steps),
                *context,
                *recurrent_context(worst, steps),
            ),
            layers=layers,
            origin=worst.layer,
        )


def _help(reasons: list[str], reach: float | None) -> str:
    far = "that" if reach is None else plural(max(1, round(reach)), "step")
    if reasons:
        return f"Ask whether the task needs more than {far} back; if so, gate the cell."
    return (
        f"Harmless if the task needs no more than {far} back; nothing measured says "
        "that it needs more."
    )


def _horizon(
    reach: float | None, profile: TimeProfile, steps: tuple[int, int]
) -> tuple[Evidence, ...]:
    if reach is None:
        return ()
    return (Evidence("horizon", reach, None, "time steps", steps, profile.layer),)


def recurrent_context(
    profile: TimeProfile, steps: tuple[int, int]
) -> tuple[Evidence, ...]:
    """Return spectral radius and singular value as evidence that does not decide.

    Args:
        profile: The recurrent layer.
        steps: Window of optimizer steps.

    Returns:
        The values that were measured.
    """
    values = (
        ("spectral radius of the recurrent weight", profile.spectral_radius),
        ("largest singular value of the recurrent weight", profile.singular_value),
    )
    return tuple(
        Evidence(name, value, None, "", steps, profile.layer, "context only")
        for name, value in values
        if value is not None
    )


def consequence(
    history: History,
    structure: Structure,
    settings: Settings,
    layers: tuple[str, ...],
) -> tuple[list[str], list[Evidence]]:
    """Return what follows from the faded gradient, in words and as evidence.

    The profile cannot tell a task that needs the far steps from one that does not;
    the outcome can. The loss counts only where the learning rate is not to blame, and
    only after `time_flat_loss_steps`, because recurrent networks start slowly.

    Args:
        history: What was measured.
        structure: The network.
        settings: The limits.
        layers: Recurrent layers whose gradient fades.

    Returns:
        Clauses for the message, and the evidence measured, decisive or not.
    """
    record = history.latest
    assert record is not None
    steps = (record.step, record.step)
    reasons: list[str] = []
    evidence: list[Evidence] = []
    flat = is_flat(history, settings, settings.time_flat_loss_steps)
    if flat is not None:
        ratio = history.loss_ratio() or 0.0
        limit = settings.flat_loss_ratio
        evidence.append(Evidence("newest loss over first", ratio, limit, "", steps))
        if flat and not outside_workable_range(record, structure, settings):
            reasons.append(f"the loss is still at {relative(ratio, 'its first value')}")
    signals = sample_signals(record)
    for layer in layers:
        if layer in signals and signals[layer] <= settings.weak_signal:
            limit = settings.weak_signal
            evidence.append(
                Evidence("sample signal", signals[layer], limit, "", steps, layer)
            )
            reasons.append(f"the outputs of {named(layer)} hardly depend on the input")
    return reasons, evidence
