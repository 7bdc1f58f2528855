"""GW302: the weights hardly move."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.depth_profile import depth_profiles
from gradwatch.rules.update_too_large import TARGET_RATIO
from gradwatch.rules.weight_updates import update_ratios
from gradwatch.rules.wording import amount, relative
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Share of the largest learning rate below which a schedule has run down (chosen).
_RUN_DOWN = 0.5


class UpdateTooSmall(Rule):
    """The gradients are healthy, but the steps are too small to get anywhere.

    What it does:
        Takes the largest update ratio over all layers. It speaks only if the depth
        profile is healthy, the learning rate neither rises (warm-up) nor has run down
        (schedule), no probe so far saw a larger update, and the loss, where it is
        known, is still above half of its first value. Where the loss falls, if
        slowly, it is a note.

    Why it matters:
        At 1e-5 a step, a thousand steps move the weights by one percent.

    Evidence:
        - Largest |dW| / |W| over layers, no unit, limit `min_update_ratio`.
        - Newest loss over first loss, no unit, limits `learning_loss_ratio` and, for
          a warning, `flat_loss_ratio`.
        - Judged from `flat_loss_steps` on. `D` must be within `vanishing_decades` and
          `exploding_note_decades`.

    Remedies:
        Multiply the learning rate by 1e-3 / measured ratio.

    References:
        - Karpathy, A. CS231n, notes on babysitting the learning process.
    """

    code: ClassVar[str] = "GW302"
    name: ClassVar[str] = "update-too-small"
    summary: ClassVar[str] = "The steps are too small to get anywhere."
    health: ClassVar[Health] = Health.STALLED
    remedies: ClassVar[tuple[str, ...]] = ("adjust-learning-rate", "change-optimizer")
    settings_used: ClassVar[tuple[str, ...]] = (
        "min_update_ratio",
        "learning_loss_ratio",
        "flat_loss_ratio",
        "flat_loss_steps",
        "vanishing_decades",
        "exploding_note_decades",
    )
    scale_free: ClassVar[bool] = False

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        record = history.latest
        if record is None:
            return "no probe yet"
        if not update_ratios(record, structure):
            return "no applied update was measured"
        if record.step < settings.flat_loss_steps:
            return f"fewer than {settings.flat_loss_steps} steps"
        if record.lr == 0.0:
            return "the learning rate is zero"
        if _is_warming_up(history, record):
            return "the learning rate is rising"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None or self.unmet(history, structure, settings) is not None:
            return None
        ratios = update_ratios(record, structure)
        largest = max(ratios.values())
        limit = settings.min_update_ratio
        if largest > limit or not _profile_is_healthy(record, settings):
            return None
        if _moved_before(history, structure, limit) or _has_run_down(history, record):
            return None
        loss = history.loss_ratio()
        if loss is not None and loss <= settings.learning_loss_ratio:
            return None
        if all(p.grad_norm in (None, 0.0) for p in record.parameters):
            return None
        steps = (record.step, record.step)
        evidence = [Evidence("largest update ratio", largest, limit, "", steps)]
        text = "the loss is not known"
        flat = True
        if loss is not None:
            flat = loss > settings.flat_loss_ratio
            text = f"the loss is at {relative(loss, 'its first value')}"
            evidence.append(
                Evidence(
                    "newest loss over first", loss, settings.flat_loss_ratio, "", steps
                )
            )
        rate = ""
        if record.lr and largest > 0:
            usual = record.lr * TARGET_RATIO / largest
            rate = f" of {record.lr:.2g}; about {usual:.2g} would be usual"
        return self.finding(
            severity=Severity.WARNING if flat else Severity.NOTE,
            message=(
                f"No weight moves by more than {amount(largest, 1)} of its size a step "
                f"(healthy: 1e-4 to 3e-2), and {text}."
            ),
            help=f"Look at the learning rate{rate}, and at clipping that shrinks it.",
            evidence=tuple(evidence),
            layers=tuple(ratios),
        )


def _is_warming_up(history: History, record: StepRecord) -> bool:
    """Whether the learning rate has risen since the probe before."""
    probes = history.recent(2)
    if len(probes) < 2 or record.lr is None or probes[0].lr is None:
        return False
    return record.lr > probes[0].lr


def _has_run_down(history: History, record: StepRecord) -> bool:
    """Whether a schedule has lowered the learning rate."""
    if record.lr is None or not history.max_lr:
        return False
    return record.lr < _RUN_DOWN * history.max_lr


def _moved_before(history: History, structure: Structure, limit: float) -> bool:
    """Whether an earlier probe saw a clearly larger update: then it has converged."""
    return any(
        ratio > 10.0 * limit
        for probe in history.probes
        for ratio in update_ratios(probe, structure).values()
    )


def _profile_is_healthy(record: StepRecord, settings: Settings) -> bool:
    return all(
        -settings.exploding_note_decades < profile.decades < settings.vanishing_decades
        for profile in depth_profiles(record, settings)
    )
