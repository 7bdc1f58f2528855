"""Which optimizers own the watched parameters, and which of them is the clock."""

from __future__ import annotations

import sys
import weakref
from types import FrameType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.watched_model import WatchedModel

#: Steps a watch waits for its clock optimizer before another one becomes the clock.
_CLOCK_PATIENCE = 3


class OptimizerRoles:
    """Optimizers seen so far, held weakly.

    Args:
        watched: Whose parameters count.

    Attributes:
        seen: Optimizers that stepped and own watched parameters.
        foreign: Class names of optimizers that stepped and own nothing here.
        in_optimizer: Identities of parameters that some optimizer owns or owned.
    """

    def __init__(self, watched: WatchedModel) -> None:
        self._watched = watched
        self.seen: list[weakref.ref[Optimizer]] = []
        self.foreign: set[str] = set()
        self.in_optimizer: set[int] = set()
        self._ids: frozenset[int] = frozenset()
        self._owned: dict[int, tuple[weakref.ref[Optimizer], int, frozenset[int]]] = {}
        self._kinds: dict[str, None] = {}
        self._clock: weakref.ref[Optimizer] | None = None
        self._clock_missed = 0

    @property
    def clock(self) -> Optimizer | None:
        """The optimizer whose steps are the watch's."""
        return self._clock() if self._clock is not None else None

    @property
    def alive(self) -> list[Optimizer]:
        """The optimizers that stepped and are still there, the clock first."""
        clock = self.clock
        alive = [o for o in (ref() for ref in self.seen) if o is not None]
        return sorted(alive, key=lambda optimizer: optimizer is not clock)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names of the optimizers that stepped, the clock first."""
        alive = self.alive
        if not alive:  # the function that made them has returned
            return tuple(self._kinds)
        return tuple(type(optimizer).__name__ for optimizer in alive)

    def owned(self, optimizer: Optimizer) -> frozenset[int]:
        """Return the identities of the watched parameters of an optimizer."""
        if self._ids is not self._watched.ids:
            self._ids = self._watched.ids
            self._owned.clear()
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._owned.get(id(optimizer))
        if known is not None and known[0]() is optimizer and known[1] == count:
            return known[2]
        ids = frozenset(
            id(p) for group in optimizer.param_groups for p in group["params"]
        )
        mine = ids & self._ids
        reference = weakref.ref(optimizer)
        self._owned[id(optimizer)] = (reference, count, mine)
        if mine:
            self.in_optimizer |= mine
            self._kinds.setdefault(type(optimizer).__name__)
            if not any(ref() is optimizer for ref in self.seen):
                # Not in place: a loop may be walking through it.
                alive = [ref for ref in self.seen if ref() is not None]
                self.seen = [*alive, reference]
        return mine

    def owned_or_free(self, optimizer: Optimizer) -> set[int]:
        """Return an optimizer's watched parameters and those that no other one owns."""
        owned = self.owned(optimizer)
        others: frozenset[int] = frozenset()
        for ref in self.seen:
            other = ref()
            if other is not None and other is not optimizer:
                others |= self.owned(other)
        return set(owned | (self._watched.ids - owned - others))

    def is_clock(self, optimizer: Optimizer) -> bool:
        """Whether a stepping optimizer is the one with the most watched parameters."""
        clock = self.clock
        if clock is optimizer:
            self._clock_missed = 0
            return True
        if clock is not None:
            mine, theirs = len(self.owned(optimizer)), len(self.owned(clock))
            self._clock_missed += 1
            stale = self._clock_missed > _CLOCK_PATIENCE and mine >= theirs
            if mine <= theirs and not stale:
                return False
        self._clock = weakref.ref(optimizer)
        self._clock_missed = 0
        return True


def largest_lr(optimizer: Optimizer) -> float | None:
    """Return the largest learning rate of the parameter groups, if it is a number."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    numbers = [r for r in rates if isinstance(r, float | int)]
    return float(max(numbers)) if numbers else None


def found_inf(optimizer: Optimizer | None) -> Tensor | None:
    """Return the flag by which a scaler tells such an optimizer to skip its step."""
    found = getattr(optimizer, "found_inf", None)
    return found.double() if isinstance(found, Tensor) else None


def unscales_inside(optimizer: Optimizer | None) -> bool:
    """Whether a fused optimizer divides by the loss scale inside its own step."""
    return getattr(optimizer, "grad_scale", None) is not None


def find_scaler() -> Any:
    """Return the gradient scaler among the calling frames of an optimizer step.

    Only frames of torch's scaler are looked into: before Python 3.13 a look at the
    locals of a frame keeps them, the user's batch and outputs too, as long as it lives.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(40):
        if frame is None:
            return None
        if "grad_scaler" in frame.f_globals.get("__name__", ""):
            candidate = frame.f_locals.get("self")
            if hasattr(candidate, "_scale") and hasattr(candidate, "unscale_"):
                return candidate
        frame = frame.f_back
    return None
