"""From verdicts and labels to counts: precision, recall, right kind, flips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.faults.labels import FAILED, SUCCEEDED, Outcome
from benchmarks.faults.setups import SetUp

#: Factors on the loss under which no scale-free verdict may change.
FACTORS = (1e-3, 1e3)
Key = tuple[str, int]


def wilson(hits: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a share, 95 % by default.

    References:
        Wilson, E. B. (1927). Probable inference, the law of succession, and statistical
        inference. JASA 22, 209-212.
    """
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    scale = 1 + z * z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a tool said of one run: the kinds of its alarms; none for no alarm."""

    setup: SetUp
    seed: int
    outcome: Outcome
    kinds: frozenset[str]

    @property
    def scored(self) -> bool:
        """Whether the run counts.

        A seed whose own outcome is the opposite of its set-up's label is left out: it
        can be neither a miss nor a false alarm.
        """
        if not self.outcome.scored:
            return False
        progress = self.outcome.progress[self.seed]
        if self.sick:
            return progress is None or progress <= SUCCEEDED
        return progress is not None and progress >= FAILED

    @property
    def sick(self) -> bool:
        """Whether the set-up is labelled sick."""
        return self.outcome.label == "sick"

    @property
    def alarmed(self) -> bool:
        """Whether the tool raised any alarm."""
        return bool(self.kinds)

    @property
    def right(self) -> bool:
        """Whether an alarm names an accepted kind."""
        return bool(self.kinds & self.setup.accepted)


@dataclass(frozen=True, slots=True)
class Score:
    """Counts over runs."""

    sick: int
    healthy: int
    found: int
    right: int
    false: int

    @property
    def precision(self) -> tuple[int, int]:
        """Return found and all alarms."""
        return self.found, self.found + self.false

    @property
    def recall(self) -> tuple[int, int]:
        """Return found and all sick runs."""
        return self.found, self.sick

    @property
    def right_kind(self) -> tuple[int, int]:
        """Return sick runs with an alarm of the right kind, and all sick runs."""
        return self.right, self.sick


def score(verdicts: Iterable[Verdict]) -> Score:
    """Count over the scored ones of some verdicts."""
    chosen = [verdict for verdict in verdicts if verdict.scored]
    sick = [verdict for verdict in chosen if verdict.sick]
    healthy = [verdict for verdict in chosen if not verdict.sick]
    return Score(
        sick=len(sick),
        healthy=len(healthy),
        found=sum(verdict.alarmed for verdict in sick),
        right=sum(verdict.right for verdict in sick),
        false=sum(verdict.alarmed for verdict in healthy),
    )


def flips(
    plain: Mapping[Key, frozenset[str]],
    scaled: Mapping[float, Mapping[Key, frozenset[str]]],
) -> list[tuple[Key, float, frozenset[str], frozenset[str]]]:
    """Return the runs whose verdict differs under a factor, with both verdicts."""
    return [
        (key, factor, plain[key], verdict)
        for factor, verdicts in scaled.items()
        for key, verdict in verdicts.items()
        if plain[key] != verdict
    ]
