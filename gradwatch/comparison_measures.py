"""The numbers that a comparison of two runs puts side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from statistics import median

from gradwatch.comparison_parts import Measure
from gradwatch.history import History
from gradwatch.report import Report
from gradwatch.runlog import Run

#: Known losses up to a step whose median stands for it: one batch says little (chosen).
_LAST_LOSSES = 5


def measures_of(before: Report | Run, after: Report | Run) -> Iterator[Measure]:
    """Yield the numbers that at least one of the runs has."""
    old, new = report_of(before), report_of(after)
    pairs = [
        ("D", "decades", _depth(old), _depth(new)),
        ("lost through time", "decades", _time(old), _time(new)),
        ("update ratio, median", "", _update(old), _update(new)),
        ("dead units, worst layer", "share", _dead(old), _dead(new)),
        ("saturated, worst layer", "share", _saturated(old), _saturated(new)),
        ("loss, first", "", old.run.first_loss, new.run.first_loss),
        ("loss, last", "", old.run.last_loss, new.run.last_loss),
        *_common_loss(before, after),
        ("overhead", "share", old.overhead.share, new.overhead.share),
    ]
    for quantity, unit, first, second in pairs:
        if first is not None or second is not None:
            yield Measure(quantity=quantity, unit=unit, before=first, after=second)


def report_of(source: Report | Run) -> Report:
    """Return the report of a run, or the report itself."""
    return source.report if isinstance(source, Run) else source


def _depth(report: Report) -> float | None:
    known = [chain.decades for chain in report.chains if chain.decades is not None]
    return max(known, key=abs, default=None)


def _time(report: Report) -> float | None:
    lost = [profile.decades_lost for profile in report.time_profiles]
    return max((value for value in lost if value is not None), default=None)


def _update(report: Report) -> float | None:
    ratios = [layer.update_ratio for layer in report.layers]
    known = [value for value in ratios if value is not None and math.isfinite(value)]
    return median(known) if known else None


def _dead(report: Report) -> float | None:
    shares = [layer.dead_share for layer in report.layers]
    return max((share for share in shares if share is not None), default=None)


def _saturated(report: Report) -> float | None:
    shares = [layer.saturated_share for layer in report.layers]
    return max((share for share in shares if share is not None), default=None)


def _common_loss(
    before: Report | Run, after: Report | Run
) -> list[tuple[str, str, float | None, float | None]]:
    """Return the loss at the last step that both know: runs differ in length."""
    if not isinstance(before, Run) or not isinstance(after, Run):
        return []
    curves = [list(run.history.losses()) for run in (before, after)]
    if not all(curves):
        return []
    step = min(curve[-1][0] for curve in curves)
    old, new = (_loss_at(run.history, step) for run in (before, after))
    return [(f"loss, around step {step:,}", "", old, new)]


def _loss_at(history: History, step: int) -> float | None:
    """Return the median of the last known losses up to a step, none of them old."""
    known = [loss for at, loss in history.losses() if 2 * step <= 3 * at <= 3 * step]
    return median(known[-_LAST_LOSSES:]) if known else None


def loss_clause(measures: Iterable[Measure]) -> str:
    """Return the losses in words: health is not all that counts."""
    losses = [
        m for m in measures if m.quantity.startswith(("loss, last", "loss, around"))
    ]
    known = [m for m in losses if m.before is not None and m.after is not None]
    if not known:
        return ""
    measure = known[-1]
    what = measure.quantity.replace(", ", " ").capitalize()
    return f" {what}: {measure.before:.3g} → {measure.after:.3g}."
