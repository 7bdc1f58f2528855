"""Numbers of many tensors in one host transfer, not waited for on an accelerator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class Ledger:
    """Collects 0-dim and small tensors and brings them to the host in one transfer."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._spans: list[tuple[int, int]] = []
        self._size = 0

    def add(self, tensor: Tensor | None) -> int | None:
        """Book a tensor; return its ticket, or None for None."""
        if tensor is None:
            return None
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor.dim():
            tensor = tensor.reshape(-1)
        self._tensors.append(tensor)
        first = self._size
        self._size = first + tensor.numel()
        self._spans.append((first, self._size))
        return len(self._spans) - 1

    def transfer(self) -> Pending:
        """Start the transfer of everything booked so far."""
        return Pending.start(self._tensors, self._spans)


class Pending:
    """Numbers on their way to the host."""

    def __init__(self, spans: list[tuple[int, int]], parts: list[_Part]) -> None:
        self._spans = spans
        self._parts = parts
        self._values: list[float] | None = None

    @classmethod
    def start(cls, tensors: list[Tensor], spans: list[tuple[int, int]]) -> Pending:
        """Concatenate per device and copy, without waiting for an accelerator."""
        groups: dict[torch.device, dict[tuple[torch.dtype, bool], list[int]]] = {}
        for index, tensor in enumerate(tensors):
            by_kind = groups.setdefault(tensor.device, {})
            by_kind.setdefault((tensor.dtype, tensor.dim() == 0), []).append(index)
        parts = []
        for by_kind in groups.values():
            # One conversion a dtype, not one a number; single numbers, nearly all of
            # them, are stacked without a view of each.
            wide = [
                torch.stack([tensors[i] for i in indices]).to(torch.float64)
                if single
                else torch.cat([tensors[i] for i in indices]).to(torch.float64)
                for (_, single), indices in by_kind.items()
            ]
            order = [i for indices in by_kind.values() for i in indices]
            parts.append(_Part.copy(torch.cat(wide), [spans[i] for i in order]))
        return cls(spans, parts)

    @property
    def on_host(self) -> bool:
        """Whether the numbers were on the host from the start."""
        return all(part.from_host for part in self._parts)

    def ready(self) -> bool:
        """Whether the numbers have arrived."""
        return all(part.ready() for part in self._parts)

    def get(self, ticket: int | None) -> float | None:
        """Return the number behind a ticket, waiting for it if necessary."""
        values = self.get_all(ticket)
        return values[0] if values else None

    def get_all(self, ticket: int | None) -> list[float]:
        """Return all numbers behind a ticket; empty for None."""
        if ticket is None:
            return []
        if self._values is None:
            self._values = [0.0] * (self._spans[-1][1] if self._spans else 0)
            for part in self._parts:
                part.write(self._values)
        first, last = self._spans[ticket]
        return self._values[first:last]


@dataclass(slots=True)
class _Part:
    host: Tensor
    spans: list[tuple[int, int]]
    event: torch.cuda.Event | None
    from_host: bool = False

    @classmethod
    def copy(cls, joined: Tensor, spans: list[tuple[int, int]]) -> _Part:
        if joined.device.type != "cuda":
            return cls(joined.cpu(), spans, None, joined.device.type == "cpu")
        host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        host.copy_(joined, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(joined.device))
        return cls(host, spans, event)

    def ready(self) -> bool:
        return self.event is None or bool(self.event.query())

    def write(self, values: list[float]) -> None:
        if self.event is not None:
            self.event.synchronize()
        numbers = self.host.tolist()
        position = 0
        for first, last in self.spans:
            values[first:last] = numbers[position : position + last - first]
            position += last - first
