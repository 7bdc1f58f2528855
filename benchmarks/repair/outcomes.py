"""What counts as repaired: how a training ended, on its task's scale (facts C)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.faults import labels, tasks
from benchmarks.faults.catalogue import SETUPS
from benchmarks.faults.setups import HEALTHY

#: Share of the way from chance to the reference that a repaired run has gone, and share
#: of the gap between the sick run and the reference that it has closed (facts C).
MIN_PROGRESS, MIN_GAP_CLOSED = 0.7, 0.8
#: Progress that a treated healthy run may lose before it counts as made worse: as much
#: as the seeds of the healthy set-ups differ from each other. Chosen, not measured.
WORSE_BY = 0.1


@dataclass(frozen=True, slots=True)
class Scale:
    """A task's loss of chance, and that of the best well-initialised network."""

    chance: float
    reference: float

    def progress(self, final: float | None) -> float | None:
        """Return the share of the way from chance to the reference."""
        return labels.progress(final, self.chance, self.reference)

    def repaired(self, before: float | None, after: float | None) -> bool:
        """Whether a treatment repaired a run; both are final losses.

        A run that was not finite before has an infinite gap: progress alone decides.
        """
        progress = self.progress(after)
        if after is None or progress is None or progress < MIN_PROGRESS:
            return False
        if before is None or not math.isfinite(before):
            return True
        gap = before - self.reference
        return gap <= 0 or (before - after) / gap >= MIN_GAP_CLOSED

    def worse(self, before: float | None, after: float | None) -> bool:
        """Whether a treatment made a run clearly worse."""
        old, new = self.progress(before), self.progress(after)
        if old is None:
            return False
        return new is None or new < old - WORSE_BY


@lru_cache(maxsize=1)
def scales() -> dict[str, Scale]:
    """Return the scale of every task, from the frozen labels of the fault bench.

    The reference is the best, over the set-ups meant to be healthy, of the median final
    loss over seeds, as in `labels.label_all`.
    """
    frozen = labels.load()
    references: dict[str, float] = {}
    for setup in SETUPS:
        ends = [v for v in frozen[setup.name].final_losses if v is not None]
        if setup.intended == HEALTHY and ends:
            middle = statistics.median(ends)
            references[setup.task] = min(references.get(setup.task, math.inf), middle)
    return {
        task: Scale(tasks.chance(task), reference)
        for task, reference in references.items()
    }
