"""One cheap look at all gradients: global norm, finiteness, clip factor, zero runs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.ledger import Ledger, Pending
from gradwatch.statistics import (
    foreach_norms,
    l2_norm,
    plain,
    rescue,
)

#: Small tensors whose norms are read again at the step: after over before is the clip
#: factor, which is one factor for all of them.
_NUM_REREAD = 4
#: Relative spread of those factors beyond which the gradients changed otherwise.
_SAME_FACTOR = 1e-2


@dataclass(slots=True)
class PulseReading:
    """Tickets of one pulse.

    Attributes:
        ledger: Where they are booked.
        total: Ticket of the global norm at the end of backward.
        before: Tickets of the re-read tensors at the end of backward.
        after: Tickets of the same at the step.
        at_step: Whether `total` was read at the step, for want of an earlier reading.
    """

    ledger: Ledger
    total: int | None
    before: list[int]
    after: list[int]
    at_step: bool = False
    pending: Pending | None = None
    scale: int | None = None
    loss: int | None = None
    found_inf: int | None = None
    unscales_inside: bool = False
    num_backwards: int = 0

    def norms(self) -> tuple[float | None, float | None, float | None]:
        """Return (norm at backward's end, norm at the step, factor between them).

        The first and last are None where the two readings do not differ by one factor,
        as when a nested backward was seen.
        """
        assert self.pending is not None
        total = self.pending.get(self.total)
        if self.at_step or total is None:
            return total, total, None
        ratios = []
        for first, second in zip(self.before, self.after, strict=False):
            old, new = self.pending.get(first), self.pending.get(second)
            if old and new is not None:
                ratios.append(new / old)
        if not ratios:
            return total, None, None
        factor = sorted(ratios)[len(ratios) // 2]
        if max(ratios) - min(ratios) > _SAME_FACTOR * max(abs(factor), 1e-30):
            return None, None, None
        return total, total * factor, factor


class PulseReader:
    """Reads pulses of a fixed list of parameters.

    Args:
        parameters: Trainable parameters, in the order of `named_parameters()`.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        # Weak: a watch keeps no parameter alive.
        self._parameters = [weakref.ref(parameter) for parameter in parameters]
        self._small = _spread_small(parameters)
        self.zero_run: Tensor | None = None
        self._waiting: tuple[Ledger, int | None, dict[int, int]] | None = None
        self._norms: dict[int, Tensor] = {}

    def read_backward_end(self) -> None:
        """Read the gradients before anybody clips them; the last reading counts."""
        ledger = Ledger()
        indices, norms = self._read_norms()
        if not indices:
            self._waiting = None
            return
        total = ledger.add(torch.linalg.vector_norm(_joined(norms)))
        small = {i: n for i, n in zip(indices, norms, strict=True) if i in self._small}
        tickets = {}
        for index, norm in small.items():
            ticket = ledger.add(norm)
            if ticket is not None:
                tickets[index] = ticket
        self._norms = dict(zip(indices, norms, strict=True))
        self._waiting = (ledger, total, tickets)

    @property
    def waiting(self) -> bool:
        """Whether an end of backward was read and no step has used it yet."""
        return self._waiting is not None

    def drop(self) -> None:
        """Forget the reading: the step it was for did not come."""
        self._waiting = None
        self._norms = {}

    def read_step(self) -> PulseReading | None:
        """Finish the pulse just before the optimizer updates.

        Returns:
            The reading; None without any gradient.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return self._read_at_step()
        ledger, total, before = waiting
        self._count_zero_runs()
        reading = PulseReading(ledger, total, [], [])
        for index, ticket in before.items():
            grad = self._grad(index)
            if grad is None:
                continue
            after = ledger.add(l2_norm(grad))
            if after is not None:
                reading.before.append(ticket)
                reading.after.append(after)
        return reading

    def _read_at_step(self) -> PulseReading | None:
        ledger = Ledger()
        indices, norms = self._read_norms()
        if not indices:
            return None
        self._norms = dict(zip(indices, norms, strict=True))
        self._count_zero_runs()
        total = ledger.add(torch.linalg.vector_norm(_joined(norms)))
        return PulseReading(ledger, total, [], [], at_step=True)

    def _read_norms(self) -> tuple[list[int], list[Tensor]]:
        indices, grads = [], []
        for index in range(len(self._parameters)):
            grad = self._grad(index)
            if grad is not None:
                indices.append(index)
                grads.append(grad)
        norms = foreach_norms(grads)
        if norms and all(norm.device.type == "cpu" for norm in norms):
            # Already on the host: mend what may have left the range of float32.
            values = _joined(norms).tolist()
            norms = [
                norm if 1e-12 < value < 1e12 else rescue(grad, norm)
                for grad, norm, value in zip(grads, norms, values, strict=True)
            ]
        return indices, norms

    def _grad(self, index: int) -> Tensor | None:
        parameter = self._parameters[index]()
        grad = None if parameter is None else parameter.grad
        return None if grad is None else plain(grad)

    def _count_zero_runs(self) -> None:
        """Count steps in a row whose gradient norm is exactly zero, on the device."""
        norms, self._norms = self._norms, {}
        if not norms:
            return
        zero = _joined(list(norms.values())) == 0
        if self.zero_run is None or self.zero_run.device != zero.device:
            self.zero_run = torch.zeros(
                len(self._parameters), dtype=torch.int32, device=zero.device
            )
        if len(norms) == len(self._parameters):
            self.zero_run = torch.where(zero, self.zero_run + 1, 0)
        else:
            index = torch.tensor(list(norms), device=zero.device)
            counted = torch.where(zero, self.zero_run[index] + 1, 0)
            self.zero_run = torch.zeros_like(self.zero_run).index_copy_(
                0, index, counted.to(torch.int32)
            )


def _joined(norms: Sequence[Tensor]) -> Tensor:
    """Stack 0-dim norms of any device; a sharded model keeps them on its first one."""
    device = norms[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([norm.to(device=device, dtype=wide) for norm in norms])


def _spread_small(parameters: Sequence[Tensor]) -> set[int]:
    """Choose small tensors from the start, middle and end of the network."""
    count = len(parameters)
    chosen = set()
    for part in range(_NUM_REREAD):
        first, last = part * count // _NUM_REREAD, (part + 1) * count // _NUM_REREAD
        indices = range(first, last)
        if indices:
            chosen.add(min(indices, key=lambda i: parameters[i].numel()))
    return chosen
