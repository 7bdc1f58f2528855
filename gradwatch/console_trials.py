"""What a trial measured, in words: untreated, treated, and whether it helped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from rich.text import Text

from gradwatch.console_text import decades, inert, number, percent
from gradwatch.recommendations import ProfileSeen, TrialResult, Verdict
from gradwatch.report_words import count

VERDICT_WORDS = {
    Verdict.HELPED: "HELPED",
    Verdict.NO_CHANGE: "no change",
    Verdict.HURT: "HURT",
    Verdict.FAILED: "could not be tried",
}
VERDICT_STYLES = {
    Verdict.HELPED: "bold green",
    Verdict.NO_CHANGE: "yellow",
    Verdict.HURT: "bold red",
    Verdict.FAILED: "yellow",
}
#: Share of the steps at the end whose median is shown, as in `verdicts.py`.
_END_SHARE = 0.2
#: Steps from which a training says anything, and share of a loss that is no gain: below
#: these a verdict needs its reason (those of `verdicts.py`).
_FEWEST, _NEAR = 10, 0.05
#: What each finding is about: field of a profile, its name, how its value reads.
_ABOUT = {
    "GW101": ("decades",),
    "GW102": ("time_decades",),
    "GW103": ("dead_share",),
    "GW104": ("saturated_share",),
    "GW105": ("sample_signal", "decades"),
    "GW201": ("decades", "output_growth"),
    "GW202": ("time_decades",),
    "GW203": ("output_growth", "decades"),
}


def trial_text(trial: TrialResult, codes: tuple[str, ...] = ()) -> Text:
    """Return what a trial measured, such as `D 6.2 → 0.3 decades: HELPED`.

    What did not help keeps its reason: one batch may not be able to show it.

    Args:
        trial: The result.
        codes: Findings that the remedy answers: they say which numbers matter.

    Returns:
        Untreated and treated, and the verdict in words.
    """
    word = VERDICT_WORDS[trial.verdict]
    trained = trial.how == "training"
    if trial.verdict is Verdict.NO_CHANGE and trained:
        word = "did not help"
    verdict = (word, VERDICT_STYLES[trial.verdict])
    numbers = [*_profiles(trial, codes), *_losses(trial)]
    if numbers and _is_plain(trial):
        return Text.assemble(f"{'; '.join(numbers)}: ", verdict)
    # The reason of a replay holds its numbers, that of a training the losses.
    seen = "; ".join(_profiles(trial, codes)) if trained else ""
    return Text.assemble(
        seen, "; " if seen else "", verdict, f": {inert(trial.reason)}"
    )


def _is_plain(trial: TrialResult) -> bool:
    """Whether the numbers alone show why the verdict is what it is."""
    if trial.verdict is Verdict.HELPED:
        return True
    curves = (trial.losses_before, trial.losses_after)
    if trial.verdict is Verdict.FAILED or min(map(len, curves)) < _FEWEST:
        return False
    old, new = map(_end, curves)
    return math.isfinite(old) and math.isfinite(new) and new >= (1 - _NEAR) * old


def _profiles(trial: TrialResult, codes: tuple[str, ...]) -> Iterator[str]:
    before, after = trial.before, trial.after
    if before is None or after is None:
        return
    if before.finite != after.finite:
        yield f"{_finite(before)} → {_finite(after)}"
    fields = [name for code in codes for name in _ABOUT.get(code, ())]
    for name in dict.fromkeys(fields or ["decades"]):
        old, new = getattr(before, name), getattr(after, name)
        if old is None or new is None:
            continue
        text = _pair(name, old, new)
        # From the weights of the beginning, many a defect is not there yet.
        same = _pair(name, old, old) == text
        if not (same and trial.losses_after):
            yield text
    # Of a training trial the curves say more than one batch.
    known = before.loss is not None and after.loss is not None
    if known and not trial.losses_after and (before.finite and after.finite):
        yield f"loss {_loss(before.loss)} → {_loss(after.loss)}"


def _finite(profile: ProfileSeen) -> str:
    return "finite" if profile.finite else "NaN or Inf"


def _pair(name: str, old: float, new: float) -> str:
    if name == "dead_share":
        return f"dead units {percent(old)} → {percent(new)}"
    if name == "saturated_share":
        return f"saturated outputs {percent(old)} → {percent(new)}"
    if name == "sample_signal":
        return f"sample signal {number(old)} → {number(new)}"
    what = {"decades": "D", "time_decades": "lost through time"}.get(name, "growth")
    return f"{what} {_decades(old)} → {_decades(new)} decades"


def _decades(value: float) -> str:
    return decades(value).removeprefix("+")


def _losses(trial: TrialResult) -> Iterator[str]:
    if trial.losses_before and trial.losses_after:
        old, new = _end(trial.losses_before), _end(trial.losses_after)
        steps = count(trial.steps or len(trial.losses_after), "step")
        yield f"loss after {steps} {_loss(old)} → {_loss(new)}"


def _end(losses: tuple[float, ...]) -> float:
    if not math.isfinite(losses[-1]):
        return losses[-1]
    last = losses[-max(1, round(_END_SHARE * len(losses))) :]
    return median(last)


def _loss(loss: float | None) -> str:
    if loss is not None and 0.005 <= loss < 100:
        return f"{loss:.2f}"
    return number(loss)
