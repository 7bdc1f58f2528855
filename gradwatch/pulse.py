"""One cheap look at all gradients: global norm, finiteness, clip factor, zero runs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.ledger import Ledger, Pending
from gradwatch.statistics import (
    PLAIN_DTYPES,
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
        before: Ticket of all norms at the end of backward.
        places: Places among them of the re-read tensors.
        after: Tickets of those at the step.
        at_step: Whether `total` was read at the step, for want of an earlier reading.
    """

    ledger: Ledger
    total: int | None
    before: int | None
    places: list[int]
    after: list[int]
    at_step: bool = False
    pending: Pending | None = None
    scale: int | None = None
    loss: int | None = None
    found_inf: int | None = None
    unscales_inside: bool = False
    num_backwards: int = 0

    def is_broken(self, *, wait: bool) -> bool:
        """Whether the gradients are not finite, and no scaler will skip the step.

        Args:
            wait: Whether to wait for an accelerator; without it only the host is asked.

        Returns:
            False where that is not known.
        """
        pending = self.pending
        if pending is None or not (pending.on_host or wait):
            return False
        total = pending.get(self.total)
        if total is None or total - total == 0:  # finite
            return False
        return not pending.get(self.found_inf)

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
        norms = self.pending.get_all(self.before)
        for place, second in zip(self.places, self.after, strict=True):
            old, new = norms[place], self.pending.get(second)
            if old and new is not None:
                ratios.append(new / old)
        if not ratios:
            return total, None, None
        factor = sorted(ratios)[len(ratios) // 2]
        if max(ratios) - min(ratios) > _SAME_FACTOR * max(abs(factor), 1e-30):
            return None, None, None
        return total, total * factor, factor


@dataclass(slots=True)
class _Norms:
    """Norms of the parameters that have a gradient, by their indices."""

    indices: list[int]
    norms: Tensor


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
        self._waiting: _Norms | None = None

    def read_backward_end(self) -> None:
        """Read the gradients before anybody clips them; the last reading counts."""
        self._waiting = self._read_norms()

    @property
    def waiting(self) -> bool:
        """Whether an end of backward was read and no step has used it yet."""
        return self._waiting is not None

    def drop(self) -> None:
        """Forget the reading: the step it was for did not come."""
        self._waiting = None

    def read_step(self, elapsed: int = 1) -> PulseReading | None:
        """Finish the pulse just before the optimizer updates.

        Args:
            elapsed: Steps since the last pulse.

        Returns:
            The reading; None without any gradient.
        """
        read, self._waiting = self._waiting, None
        if read is None:
            read = self._read_norms()
            return None if read is None else self._reading(read, elapsed, at_step=True)
        reading = self._reading(read, elapsed, at_step=False)
        ledger = reading.ledger
        for place, index in enumerate(read.indices):
            if index not in self._small:
                continue
            grad = self._grad(index)
            after = None if grad is None else ledger.add(l2_norm(grad))
            if after is not None:
                reading.places.append(place)
                reading.after.append(after)
        return reading

    def read_backward_only(self, elapsed: int = 1) -> PulseReading | None:
        """Finish the pulse of a step that is over.

        Args:
            elapsed: Steps since the last pulse.

        Returns:
            What the end of backward gave; None if it was not read.
        """
        read, self._waiting = self._waiting, None
        return None if read is None else self._reading(read, elapsed, at_step=False)

    def _reading(self, read: _Norms, elapsed: int, *, at_step: bool) -> PulseReading:
        self._count_zero_runs(read, elapsed)
        ledger = Ledger()
        total = ledger.add(torch.linalg.vector_norm(read.norms))
        reading = PulseReading(ledger, total, None, [], [], at_step)
        if not at_step:
            reading.before = ledger.add(read.norms)
        return reading

    def _read_norms(self) -> _Norms | None:
        indices, grads = [], []
        for index in range(len(self._parameters)):
            grad = self._grad(index)
            if grad is not None:
                indices.append(index)
                grads.append(grad)
        if not grads:
            return None
        norms = _joined(foreach_norms(grads))
        if all(grad.device.type == "cpu" for grad in grads):
            # Already on the host: mend what may have left the range of float32.
            for place, value in enumerate(norms.tolist()):
                if not 1e-12 < value < 1e12:
                    norms[place] = rescue(grads[place], norms[place])
        return _Norms(indices, norms)

    def _grad(self, index: int) -> Tensor | None:
        parameter = self._parameters[index]()
        grad = None if parameter is None else parameter.grad
        if (
            type(grad) is Tensor
            and grad.dtype in PLAIN_DTYPES
            and grad.layout is torch.strided
            and not grad.is_meta
            and grad.numel()
        ):
            return grad  # nothing to unwrap; only read
        return None if grad is None else plain(grad)

    def _count_zero_runs(self, read: _Norms, elapsed: int) -> None:
        """Count steps in a row whose gradient norm is exactly zero, on the device.

        Between two pulses that found zero the steps count as zero too; before the first
        one they do not.
        """
        zero = read.norms == 0
        if self.zero_run is None or self.zero_run.device != zero.device:
            self.zero_run = torch.zeros(
                len(self._parameters), dtype=torch.int32, device=zero.device
            )
        if len(read.indices) == len(self._parameters):
            self.zero_run = _longer(self.zero_run, zero, elapsed)
        else:
            index = torch.tensor(read.indices, device=zero.device)
            counted = _longer(self.zero_run[index], zero, elapsed)
            self.zero_run = torch.zeros_like(self.zero_run).index_copy_(
                0, index, counted.to(torch.int32)
            )


def _longer(run: Tensor, zero: Tensor, elapsed: int) -> Tensor:
    """Return the lengths of runs after another pulse; 0 where it was not zero."""
    if elapsed == 1:
        return torch.where(zero, run + 1, 0)
    since = torch.where(run > 0, elapsed, 1).to(run.dtype)
    return torch.where(zero, run + since, 0)


def _joined(norms: Sequence[Tensor]) -> Tensor:
    """Stack 0-dim norms of any device; a sharded model keeps them on its first one."""
    device = norms[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    if all(norm.device == device for norm in norms):
        return torch.stack(list(norms)).to(wide)
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
