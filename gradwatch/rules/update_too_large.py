"""GW301: one step changes the weights by a large share of their size."""

from __future__ import annotations

from statistics import median
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.loss_curve import (
    has_jumped,
    has_risen,
    is_flat,
    is_learning,
)
from gradwatch.rules.weight_updates import kept_update, median_update, update_ratios
from gradwatch.rules.wording import relative_step
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Update ratio that healthy training centres on (Karpathy, cs231n; facts B3).
TARGET_RATIO = 1e-3
#: Steps in which Adam moves every weight by about its learning rate, however small the
#: gradient, because its first moment (1 / (1 - beta1) = 10 steps long) holds little but
#: the first gradient. A ratio just above the limit says little there unless the loss
#: jumps: recurrent nets with small weights pass it and learn.
_FIRST_STEPS = 5
#: Multiple of the limit from which the finding is critical (chosen, not measured).
_SEVERE = 10.0


class UpdateTooLarge(Rule):
    """One optimizer step changes the weights by a large share of their size.

    What it does:
        Takes, for every weight matrix, the norm of the change that the optimizer
        really made over the norm of the weight, and the median over layers. That is
        right for any optimizer, schedule and clipping. Weights that start at zero,
        biases, gains and embeddings are left out. While the loss falls all the same,
        and in the first five steps unless the loss doubles, it is a note. It stands
        after the ratio has fallen: while the loss has not halved, if it was beyond the
        limit at several probes; while the loss is flat, if it was ten times the limit
        once, or beyond the limit and the loss has doubled.

    Why it matters:
        A few such steps forget the initialisation: units die or saturate, the loss
        jumps, and weights may overflow. Healthy training lies between 1e-4 and 3e-2.

    Evidence:
        - Median over layers of |dW| / |W|, no unit, limit `max_update_ratio`;
          critical from ten times that.
        - Newest loss over first loss, no unit, limit `learning_loss_ratio`.

    Remedies:
        Multiply the learning rate by 1e-3 / measured ratio; that cured nine of nine.
        Warm-up for post-norm transformers. Not another initialisation, not clipping.

    References:
        - Karpathy, A. CS231n, notes on babysitting the learning process.
        - Xiong et al. (2020). On layer normalization in the transformer architecture.
          arXiv:2002.04745.
    """

    code: ClassVar[str] = "GW301"
    name: ClassVar[str] = "update-too-large"
    summary: ClassVar[str] = "One step changes the weights by much of their size."
    health: ClassVar[Health] = Health.UNSTABLE
    remedies: ClassVar[tuple[str, ...]] = (
        "adjust-learning-rate",
        "change-optimizer",
        "revive-units",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "max_update_ratio",
        "learning_loss_ratio",
    )
    scale_free: ClassVar[bool] = False

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if not update_ratios(history.latest, structure):
            return "no applied update was measured"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        limit = settings.max_update_ratio
        record, ratios = _judged(history, structure, settings)
        if record is None:
            return None
        update = median(ratios.values())
        sick = sorted(
            (name for name in ratios if ratios[name] >= limit),
            key=ratios.__getitem__,
            reverse=True,
        )
        severity = Severity.WARNING
        note = ""
        when = "One step changes"
        if record is not history.latest:
            when = f"Step {record.step} changed"
            note = ", and the loss has not recovered since"
        if is_learning(history, settings):
            severity, note = Severity.NOTE, ", while the loss falls all the same"
        elif update >= _SEVERE * limit:
            severity = Severity.CRITICAL
        elif record.step < _FIRST_STEPS and not has_jumped(history):
            severity, note = Severity.NOTE, ", as first steps of Adam do"
        rate = ""
        if record.lr:
            usual = record.lr * TARGET_RATIO / update
            rate = f" of {record.lr:.2g}; about {usual:.2g} would be usual"
        return self.finding(
            severity=severity,
            message=(
                f"{when} the median weight by {relative_step(update)} "
                f"(healthy: 0.01% to 3%){note}."
            ),
            help=f"Look at the learning rate{rate}.",
            evidence=(
                Evidence(
                    "median update ratio",
                    update,
                    limit,
                    "",
                    (record.step, record.step),
                ),
            ),
            layers=tuple(sick),
        )


def _judged(
    history: History, structure: Structure, settings: Settings
) -> tuple[StepRecord | None, dict[str, float]]:
    """Return the probe that shows too large an update, and its ratios.

    That is the newest one. Or, since an adaptive optimizer blows the weights up in its
    first steps, after which the same rate moves them relatively little: while the loss
    is known not to have halved, the last of several beyond the limit; while it is flat,
    one that replaced the weights by its size, or just passed the limit before the loss
    doubled.
    """
    latest = history.latest
    if latest is None:
        return None, {}
    limit = settings.max_update_ratio
    if (median_update(latest, structure) or 0.0) >= limit:
        return latest, update_ratios(latest, structure)
    flat = is_flat(history, settings, settings.flat_loss_steps)
    if flat is None or is_learning(history, settings):
        return None, {}
    earlier = [(p, kept_update(p, history, structure) or 0.0) for p in history.probes]
    begun = 0 if has_jumped(history) else _FIRST_STEPS
    lasting = [p for p, u in earlier if u >= limit and p.step >= begun]
    if len(lasting) >= settings.confirm_probes:
        return lasting[-1], update_ratios(lasting[-1], structure)
    enough = limit if has_risen(history) else _SEVERE * limit
    single = [p for p, u in earlier if flat and u >= enough]
    return (single[-1], update_ratios(single[-1], structure)) if single else (None, {})
