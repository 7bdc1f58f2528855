"""How the ranks agree, without waiting, from which step on they sum what they measure.

Every rank adds one to a count in the store that torch.distributed keeps anyway, under a
name that only ranks with the same model, settings, step and gradient have. When the
count is full, rank 0 writes a step a little ahead; who reads it in time adds one to a
second count; at that step the ranks join if this one is full as well.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import torch

#: Steps after the first probe within which all ranks must have told of themselves.
_PATIENCE = 16
#: Steps from rank 0's word to the step at which the ranks join. None that reduces
#: gradients ends a step before all have begun it: all read the word at the end of the
#: next step, so have answered when any of them ends the one after; and one to spare.
_MARGIN = 3
#: Handshakes that this process began, by what they are about: each has a name of its
#: own.
_begun: dict[str, int] = {}


class Handshake:
    """One rank's part of a handshake.

    Args:
        facts: What must be equal on all ranks, as values whose `repr` tells them apart.
        step: The step that ends.
        rank: Which rank this is.
        ranks: Number of ranks.

    Attributes:
        store: The part of torch's store that belongs to this handshake.
        joined: Whether the ranks have agreed, and this is the step.
        why_not: Why they will not; empty while that is open.
    """

    def __init__(
        self, facts: Sequence[object], step: int, rank: int, ranks: int
    ) -> None:
        distributed: Any = torch.distributed
        self._name = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
        number = _begun.get(self._name, 0) + 1
        store = distributed.distributed_c10d._get_default_store()
        key = f"gradwatch/{self._name}/{number}"
        self.store: Any = distributed.PrefixStore(key, store)
        self.store.add("watching", 1)
        _begun[self._name] = number
        self.joined = False
        self.why_not = ""
        self._began = step
        self._rank, self._ranks = rank, ranks
        self._start: int | None = None
        self._answered = False

    def end_step(self, step: int) -> None:
        """Go on at the end of a step. Never waits.

        Args:
            step: The step that ends.
        """
        try:
            self._go_on(step)
        except Exception as error:  # the store is gone: training will tell
            self.why_not = f"the ranks' store failed ({type(error).__name__})"

    def withdraw(self) -> None:
        """Take this rank's word back, unless rank 0 has answered it."""
        if self.joined or self._start is not None:
            return
        _begun[self._name] -= 1
        with contextlib.suppress(Exception):
            self.store.add("watching", -1)

    def _go_on(self, step: int) -> None:
        if self._start is None:
            self._start = self._agree_on_start(step)
        if self._start is None:
            limit = _PATIENCE + (0 if self._rank == 0 else _MARGIN)
            if step - self._began > limit:
                self.why_not = (
                    "not every rank watches this model from the same step on and with "
                    "the same settings"
                )
        elif not self._answered:
            if step > self._start - 2:
                self.why_not = "the ranks are too many steps apart"
                return
            self.store.add("answered", 1)
            self._answered = True
        elif step >= self._start:
            self.joined = self.store.add("answered", 0) == self._ranks
            if not self.joined:
                self.why_not = "not every rank answered in time"

    def _agree_on_start(self, step: int) -> int | None:
        """Return the step from which on collectives may run, once rank 0 said it."""
        if self._rank != 0:
            word = self.store.check(["start"])
            return int(self.store.get("start")) if word else None
        if self.store.add("watching", 0) != self._ranks:
            return None
        self.store.set("start", str(step + _MARGIN))
        return step + _MARGIN
