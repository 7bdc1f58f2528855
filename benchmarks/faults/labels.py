"""The rule that labels a set-up by how its training ended (facts B2)."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.faults.setups import HEALTHY, SetUp

SEEDS = (0, 1, 2)
#: Losses at the end that are averaged.
LAST = 20
#: Progress below which a run failed, and above which it succeeded (facts B2).
FAILED, SUCCEEDED = 0.3, 0.7
#: A loss this many times that of chance has diverged. Chosen, not measured; progress is
#: negative long before, so that it decides nothing but the reason given.
DIVERGED = 10.0
PATH = Path(__file__).with_name("labels.json")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The label of one set-up.

    Attributes:
        label: `healthy`, `sick`, `borderline` or `latent`; the last two are not scored.
        reason: Why, in words.
        progress: Progress of each seed; None where the loss was not finite.
        final_losses: Mean of the last losses of each seed, to compare runs with.
    """

    label: str
    reason: str
    progress: tuple[float | None, ...]
    final_losses: tuple[float | None, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether gradwatch's verdict on it counts."""
        return self.label in ("healthy", "sick")


def final_loss(losses: Sequence[float]) -> float | None:
    """Return the mean of the last losses, or None if any loss was not finite."""
    if not losses or not all(math.isfinite(loss) for loss in losses):
        return None
    return statistics.fmean(losses[-LAST:])


def progress(final: float | None, chance: float, reference: float) -> float | None:
    """Return the share of the way from chance to the best healthy reference."""
    if final is None:
        return None
    return (chance - final) / (chance - reference)


def judge(intended: str, values: Sequence[float | None], worst: float) -> Outcome:
    """Label a set-up by the progress of its seeds.

    Args:
        intended: What theory says of it.
        values: Progress of each seed, None where the loss was not finite.
        worst: Largest final loss as a multiple of chance's.

    Returns:
        The label; latent where outcome and theory disagree.
    """
    need = len(values) // 2 + 1
    failed = sum(value is None or value < FAILED for value in values)
    succeeded = sum(value is not None and value > SUCCEEDED for value in values)
    broken = sum(value is None for value in values)
    rounded = tuple(None if value is None else round(value, 4) for value in values)
    if failed >= need:
        if broken >= need:
            reason = f"loss not finite in {broken} of {len(values)} seeds"
        elif worst > DIVERGED:
            reason = "the loss diverged"
        else:
            reason = f"progress below {FAILED} in {failed} of {len(values)} seeds"
        outcome = "sick"
    elif succeeded >= need:
        reason = f"progress above {SUCCEEDED} in {succeeded} of {len(values)} seeds"
        outcome = "healthy"
    else:
        return Outcome("borderline", "neither failed nor succeeded", rounded)
    if (outcome == "healthy") != (intended == HEALTHY):
        return Outcome("latent", f"intended {intended}, but {reason}", rounded)
    return Outcome(outcome, reason, rounded)


def label_all(
    setups: Sequence[SetUp],
    losses: dict[str, list[float | None]],
    chances: dict[str, float],
) -> dict[str, Outcome]:
    """Label all set-ups from the final loss of each seed.

    The reference of a task is the best, over its set-ups that are meant to be healthy,
    of the median final loss.
    """
    references: dict[str, float] = {}
    for setup in setups:
        finals = [loss for loss in losses[setup.name] if loss is not None]
        if setup.intended == HEALTHY and finals:
            middle = statistics.median(finals)
            best = references.get(setup.task, math.inf)
            references[setup.task] = min(best, middle)
    outcomes = {}
    for setup in setups:
        chance = chances[setup.task]
        ends = losses[setup.name]
        values = [progress(end, chance, references[setup.task]) for end in ends]
        worst = max((end / chance for end in ends if end is not None), default=0.0)
        outcome = judge(setup.intended, values, worst)
        outcomes[setup.name] = replace(outcome, final_losses=tuple(ends))
    return outcomes


def save(outcomes: dict[str, Outcome], versions: dict[str, str]) -> None:
    """Write the labels beside this file."""
    document = {
        "versions": versions,
        "labels": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    PATH.write_text(json.dumps(document, indent=1) + "\n")


def load() -> dict[str, Outcome]:
    """Read the frozen labels."""
    document = json.loads(PATH.read_text())
    return {
        name: Outcome(
            entry["label"],
            entry["reason"],
            tuple(entry["progress"]),
            tuple(entry["final_losses"]),
        )
        for name, entry in document["labels"].items()
    }
