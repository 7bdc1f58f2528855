"""The gradient of a recurrent layer by time step: loss, gain, horizon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradwatch.records import StepRecord, TimeProfile

#: Fewest time steps that make a profile.
MIN_STEPS = 4
#: log10 of the smallest normal float32, below which a gradient underflows to zero.
_SMALLEST_NORMAL = math.log10(1.1754944e-38)
#: Decades a profile must fall before zeros at its far end count as underflow and not
#: as padding or a detached state (chosen: float16 alone spans 7).
_UNDERFLOW_FALL = 3.0
#: Share of the peak that counts as being level with it (chosen).
_LEVEL = 0.5


@dataclass(frozen=True, slots=True)
class TimeChange:
    """How a gradient changes on its way back through time.

    Attributes:
        decades: Decades lost (fading) or gained (growing), at least zero.
        start: Index of the time step it comes from: the last one with at least half of
            the peak, or the last read one.
        end: Index of the time step it ends at, towards the first.
        underflow: Whether the far end is exactly zero, so that `decades` is a least
            value.
        steps: Time steps of the profile without padding.
    """

    decades: float
    start: int
    end: int
    underflow: bool
    steps: int

    @property
    def per_step(self) -> float:
        """Decades per time step."""
        return self.decades / max(1, self.start - self.end)


def trimmed(norms: Sequence[float]) -> list[float]:
    """Return the profile without the zeros after its last non-zero step (padding)."""
    values = [norm if math.isfinite(norm) else 0.0 for norm in norms]
    while values and values[-1] <= 0.0:
        values.pop()
    return values


def fading(norms: Sequence[float]) -> TimeChange | None:
    """Return what the gradient loses from its peak to the far end of its reach.

    The pair of a peak and a lower step before it that are furthest apart counts. A dip
    of one single step is no far end: a closed gate or an empty input makes one. The way
    begins at the last step with at least half of the peak: a gradient that stays level
    for long and then falls has come all that way.

    Args:
        norms: Norms in the order in which the recurrence runs.

    Returns:
        The loss; None with fewer than 4 time steps.
    """
    values = trimmed(norms)
    if len(values) < MIN_STEPS:
        return None
    zeros = next(i for i, value in enumerate(values) if value > 0.0)
    log = [math.log10(v) if v > 0 else -math.inf for v in values]
    decades, peak, end = 0.0, zeros, zeros
    lowest, at = log[zeros], zeros
    for j in range(zeros + 1, len(log)):
        if log[j] - lowest > decades:
            decades, peak, end = log[j] - lowest, j, at
        around = max(log[j - 1 : j + 2])
        if -math.inf < around < lowest:
            lowest, at = around, j
    steps, level = len(values), _LEVEL * values[peak]
    start = max(i for i in range(peak, steps) if values[i] >= level)
    if zeros and log[peak] - log[zeros] >= _UNDERFLOW_FALL:
        least = log[peak] - _SMALLEST_NORMAL
        return TimeChange(max(decades, least), start, zeros - 1, True, steps)
    return TimeChange(decades, start, end, False, steps)


def growing(norms: Sequence[float]) -> TimeChange | None:
    """Return what the gradient gains from the last read step back through time.

    Args:
        norms: Norms in the order in which the recurrence runs.

    Returns:
        The gain over the value at the last read step; None with fewer than 4 steps.
    """
    values = trimmed(norms)
    if len(values) < MIN_STEPS:
        return None
    last = len(values) - 1
    peak = max(range(len(values)), key=values.__getitem__)
    decades = math.log10(values[peak] / values[last])
    return TimeChange(decades, last, peak, False, len(values))


def horizon(norms: Sequence[float], share: float) -> float | None:
    """Return the time steps until `share` of the peak is left.

    Where the profile falls that far, it says so itself, interpolated between steps in
    log space; a dip of one single step does not count. Where it does not, its mean
    slope down to its first step is carried on beyond that step.

    Args:
        norms: Norms in the order in which the recurrence runs.
        share: Share of the gradient that is left at the horizon.

    Returns:
        Time steps; None if the gradient does not fade.
    """
    change = fading(norms)
    if change is None or change.decades <= 0.0 or not 0.0 < share < 1.0:
        return None
    values, wanted = trimmed(norms), -math.log10(share)
    first = next(i for i, value in enumerate(values) if value > 0.0)
    first -= change.underflow
    peak = max(values[max(change.end, 0) : change.start + 1])
    lost = [_decades_below(peak, value) for value in values]
    for at in range(change.start - 1, first - 1, -1):
        if min(lost[at], lost[max(at - 1, first)]) < wanted:
            continue
        back = change.start - at
        if math.isinf(lost[at]):
            return back - 0.5
        before = lost[at + 1]
        if before >= wanted:  # a share above that of level steps
            return back - 1.0
        return back - 1 + (wanted - before) / (lost[at] - before)
    if lost[first] <= 0.0:
        return None
    return wanted * (change.start - first) / lost[first]


def _decades_below(peak: float, value: float) -> float:
    return math.log10(peak / value) if value > 0.0 else math.inf


def judged_profiles(record: StepRecord) -> list[TimeProfile]:
    """Return the recurrent profiles with at least 4 time steps."""
    return [p for p in record.time_profiles if len(trimmed(p.norms)) >= MIN_STEPS]


def time_unmet(record: StepRecord) -> str | None:
    """Say why no recurrent layer can be judged; None if one can."""
    if not record.time_profiles:
        return "no recurrent layer was observed"
    if not judged_profiles(record):
        return f"fewer than {MIN_STEPS} time steps with a gradient"
    return None
