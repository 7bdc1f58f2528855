"""What a trial's numbers say: helped, no change, or hurt. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from gradwatch.recommendations import (
    ProfileSeen,
    Recommendation,
    TrialResult,
    Verdict,
)
from gradwatch.settings import Settings

#: Decades below which two replays do not differ: a replay with a captured or random
#: cotangent is off by up to 0.47 to 0.48 at the 90th percentile (facts A6).
_DECADES = 0.5
#: The same of a share of units (chosen, not measured: one unit in ten).
_SHARE = 0.1
#: The same of log10 of the sample signal (chosen, not measured: a factor of two).
_SIGNAL = 0.3
#: Share of the steps at the end that are compared.
_TAIL = 0.2
#: Fewest steps from which anything is said of a training trial (chosen: the tail is
#: then two steps).
MIN_STEPS = 10
#: Share of the first loss by which two ends must differ (chosen: networks that do not
#: learn end within 1 % of each other, those that begin to learn within 100 steps leave
#: them by 10 % and more).
_LOSS_SHARE = 0.05
#: Standard errors by which they must differ as well: 3 are one false word in 370.
_ERRORS = 3.0
#: Median absolute deviation to standard deviation, and from there to the standard
#: error of a median, for normal noise.
_MAD, _OF_MEDIAN = 1.4826, 1.2533
_RANK = {
    Verdict.HELPED: 0,
    None: 1,
    Verdict.NO_CHANGE: 2,
    Verdict.HURT: 3,
    Verdict.FAILED: 4,
}


@dataclass(frozen=True, slots=True)
class _Symptom:
    """One quantity of a profile, turned so that larger is worse."""

    name: str
    before: float | None
    after: float | None
    limit: float
    margin: float
    words: str

    def sick_before(self) -> bool:
        return self.before is not None and self.before > self.limit

    def sick_after(self) -> bool:
        return self.after is not None and self.after > self.limit

    def change(self) -> float:
        """Return how much worse it got, in margins."""
        if self.after is None:
            return 0.0
        start = self.limit if self.before is None else self.before
        return (self.after - start) / self.margin


#: Quantities in which each finding shows.
_SHOWS_IN: dict[str, tuple[str, ...]] = {
    "GW101": ("fades",),
    "GW102": ("fades in time",),
    "GW103": ("dead",),
    "GW104": ("saturated",),
    "GW105": ("signal",),
    "GW201": ("explodes", "growth"),
    "GW202": ("explodes in time",),
    "GW203": ("growth",),
}


def judge_replay(
    before: ProfileSeen,
    after: ProfileSeen,
    codes: Iterable[str],
    settings: Settings,
) -> tuple[Verdict, str]:
    """Return what one replayed batch says of a treatment, and the numbers.

    HELPED: what the finding is about was beyond its limit, no longer is, and moved by
    more than a replay's error; everything is finite and nothing else got sick. HURT:
    something became non-finite, got sick, or got worse where it was sick.

    Args:
        before: Profile of the untreated copy.
        after: Profile of the treated copy.
        codes: Findings that the treatment answers.
        settings: The limits.

    Returns:
        The verdict and one sentence.
    """
    codes = tuple(codes)
    if before.finite and not after.finite:
        return (
            Verdict.HURT,
            "The treated copy gives NaN or Inf, the untreated does not.",
        )
    if not after.finite:
        return Verdict.NO_CHANGE, "Both copies give NaN or Inf on this batch."
    if not before.finite:
        return Verdict.HELPED, "NaN or Inf before, all finite after."
    symptoms = tuple(_symptoms(before, after, settings))
    new = [s for s in symptoms if s.sick_after() and not s.sick_before()]
    new = [s for s in new if s.change() > 1.0]
    if new:
        return Verdict.HURT, f"It makes something else sick: {new[0].words}."
    wanted = {name for code in codes for name in _SHOWS_IN.get(code, ())}
    if not wanted:
        told = ", ".join(codes) or "this"
        return Verdict.NO_CHANGE, f"One replayed batch cannot show {told}."
    own = [s for s in symptoms if s.name in wanted]
    sick = [s for s in own if s.sick_before()]
    if not sick:
        return Verdict.NO_CHANGE, _not_sick(own)
    words = ", ".join(s.words for s in sick)
    if any(s.after is None for s in sick):
        return Verdict.NO_CHANGE, f"Not measured after the treatment: {words}."
    if all(not s.sick_after() and s.change() < -1.0 for s in sick):
        return Verdict.HELPED, f"{_capital(words)}."
    if any(s.change() > 1.0 for s in sick):
        return Verdict.HURT, f"It got worse: {words}."
    better = any(s.change() < -1.0 for s in sick)
    ending = "better, but still beyond the limit" if better else "hardly a change"
    return Verdict.NO_CHANGE, f"{_capital(words)}: {ending}."


def _not_sick(own: Sequence[_Symptom]) -> str:
    known = [s.words for s in own if s.before is not None]
    if not known:
        return "What the finding is about could not be measured on this batch."
    return f"On this batch the untreated copy is not sick: {', '.join(known)}."


def _symptoms(
    before: ProfileSeen, after: ProfileSeen, limits: Settings
) -> Iterator[_Symptom]:
    for name, field, sign, limit in (
        ("fades", "decades", 1.0, limits.vanishing_decades),
        ("explodes", "decades", -1.0, limits.exploding_decades),
        ("fades in time", "time_decades", 1.0, limits.vanishing_time_decades),
        ("explodes in time", "time_decades", -1.0, limits.exploding_time_decades),
        ("growth", "output_growth", 1.0, limits.exploding_activation_decades),
    ):
        old, new = getattr(before, field), getattr(after, field)
        what = {"decades": "D", "time_decades": "lost through time"}.get(
            field, "growth"
        )
        words = (
            f"{what} {_value(old)} -> {_value(new)} decades (limit {sign * limit:g})"
        )
        yield _Symptom(
            name, _times(sign, old), _times(sign, new), limit, _DECADES, words
        )
    for name, field, limit in (
        ("dead", "dead_share", limits.dead_unit_share),
        ("saturated", "saturated_share", limits.saturated_share),
    ):
        old, new = getattr(before, field), getattr(after, field)
        words = f"{name} {_percent(old)} -> {_percent(new)} (limit {limit:.0%})"
        yield _Symptom(name, old, new, limit, _SHARE, words)
    old, new = before.sample_signal, after.sample_signal
    limit = limits.min_sample_signal
    words = f"sample signal {_small(old)} -> {_small(new)} (limit {limit:g})"
    yield _Symptom("signal", _lack(old), _lack(new), -math.log10(limit), _SIGNAL, words)


def _times(sign: float, value: float | None) -> float | None:
    return None if value is None else sign * value


def _lack(signal: float | None) -> float | None:
    return None if signal is None else -math.log10(max(signal, 1e-30))


def _value(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0%}"


def _small(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def judge_training(
    control: Sequence[float], treated: Sequence[float]
) -> tuple[Verdict, str]:
    """Return what two loss curves over the same batches say, and the numbers.

    Compared are the medians over the last fifth of the steps, step by step, because
    both copies saw the same batch. They must differ by 5 % of the smaller of the two
    first losses *and* by 3 standard errors of that paired difference. The smaller one,
    because a cured explosion starts far below the sick one, whose first loss would
    swallow every difference. HELPED also asks that the treated copy's own loss falls:
    to stay flat below a curve that diverges is no cure. All of it is linear in the
    loss, so a loss in other units gives the same verdict.

    Args:
        control: Losses of the untreated copy; one that ended early became non-finite.
        treated: Losses of the treated copy, in the same unit.

    Returns:
        The verdict and one sentence.
    """
    ends = [_first_bad(control), _first_bad(treated)]
    if ends[0] is not None and ends[1] is not None:
        return Verdict.NO_CHANGE, (
            f"Both became NaN or Inf, the untreated copy at step {ends[0]}, the "
            f"treated one at step {ends[1]}."
        )
    if ends[1] is not None:
        return Verdict.HURT, f"The treated copy became NaN or Inf at step {ends[1]}."
    first, last = treated[0] if treated else math.nan, _tail_median(treated)
    if ends[0] is not None:
        words = (
            f"untreated became NaN or Inf at step {ends[0]}; treated {first:.4g} -> "
            f"{last:.4g}"
        )
        if first - last > max(_LOSS_SHARE * abs(first), _error(treated)):
            return Verdict.HELPED, f"{_capital(words)} and falls."
        return Verdict.NO_CHANGE, f"{_capital(words)}: finite, but not falling."
    count = min(len(control), len(treated))
    if count < MIN_STEPS:
        return Verdict.NO_CHANGE, (
            f"Only {count} steps fitted into the time limit; {MIN_STEPS} are needed."
        )
    control, treated = control[:count], treated[:count]
    gaps = [b - a for a, b in zip(control, treated, strict=True)]
    gap, scale = _tail_median(gaps), min(abs(control[0]), abs(treated[0]))
    margin = max(_LOSS_SHARE * scale, _error(gaps))
    words = (
        f"Loss over the last {_tail(count)} of {count} steps: untreated "
        f"{_tail_median(control):.4g} (from {control[0]:.4g}), treated {last:.4g} "
        f"(from {first:.4g})"
    )
    if gap > margin:
        return Verdict.HURT, f"{words}: worse by more than {margin:.2g}."
    if gap >= -margin:
        return Verdict.NO_CHANGE, f"{words}: no further apart than {margin:.2g}."
    if first - last <= _LOSS_SHARE * abs(first):
        return Verdict.NO_CHANGE, f"{words}: lower, but it does not fall."
    return Verdict.HELPED, f"{words}: better by more than {margin:.2g}."


def _first_bad(losses: Sequence[float]) -> int | None:
    return next((k for k, loss in enumerate(losses) if not math.isfinite(loss)), None)


def _tail(count: int) -> int:
    return max(1, round(_TAIL * count))


def _tail_median(values: Sequence[float]) -> float:
    return median(values[-_tail(len(values)) :]) if values else math.nan


def _error(values: Sequence[float]) -> float:
    """Return 3 standard errors of the median over the tail."""
    tail = values[-_tail(len(values)) :]
    middle = median(tail)
    spread = _MAD * median(abs(value - middle) for value in tail)
    return _ERRORS * _OF_MEDIAN * spread / math.sqrt(len(tail))


def place_after_trial(item: Recommendation) -> tuple[float, bool, float]:
    """Return what recommendations are sorted by: the verdict, then the end loss.

    What healed the profile but did not learn within the trial's few steps goes before
    what was not tried: the gradient gets through now, and learning may take longer.
    """
    result = item.trial
    if result is None:
        return _RANK[None], False, 0.0
    rank: float = _RANK[result.verdict]
    if result.verdict is Verdict.NO_CHANGE and _healed(item, result):
        rank = _RANK[None] - 0.5
    losses = [loss for loss in result.losses_after if math.isfinite(loss)]
    end = median(losses[-max(1, len(losses) // 5) :]) if losses else math.inf
    return rank, result.how != "training", end


def _healed(item: Recommendation, result: TrialResult) -> bool:
    if result.before is None or result.after is None:
        return False
    verdict, _ = judge_replay(result.before, result.after, item.answers, Settings())
    return verdict is Verdict.HELPED
