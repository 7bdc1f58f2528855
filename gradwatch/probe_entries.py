"""What one probe books: tickets into its ledger, by layer, activation, parameter."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradwatch.graph_nodes import Node
from gradwatch.layers import ModuleFacts
from gradwatch.statistics import Sampled


class UnitMemory:
    """How many probes in a row each unit of an activation has been inactive.

    The only tensors that outlive a probe: one byte a unit.
    """

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str, int], tuple[Tensor, int]] = {}

    def update(
        self, key: tuple[str, str, int], active: Tensor, window: int
    ) -> tuple[Tensor, int]:
        """Count a probe; return (whether units idled all the window, probes in it)."""
        idle, seen = self._idle.get(key, (None, 0))
        if idle is None or idle.shape != active.shape or idle.device != active.device:
            idle, seen = torch.zeros_like(active, dtype=torch.uint8), 0
        idle = torch.where(active, 0, (idle + 1).clamp_max(200)).to(torch.uint8)
        seen = min(seen + 1, window)
        self._idle[key] = (idle, seen)
        return idle >= seen, seen


@dataclass(eq=False, slots=True)
class LayerEntry:
    """One call of a leaf or parameter-owning module, as tickets into the ledger."""

    facts: ModuleFacts
    call: int
    group: int
    order: int
    inputs: tuple[Node, ...] = ()
    outputs: tuple[Node, ...] = ()
    raw_input: tuple[object, ...] | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    width: int | None = None
    nested: bool = False
    requires_grad: bool = False
    weight: bool = False
    rms: int | None = None
    input_rms: list[int] = field(default_factory=list)
    signal: int | None = None
    grads: dict[int, list[int]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class ActivationEntry:
    """One activation, as tickets into the ledger."""

    layer: str
    activation: str
    call: int
    functional: bool
    group: int
    module: LayerEntry | None = None
    hidden: bool = True
    gate: bool = False
    zero: int | None = None
    saturated: int | None = None
    active: Tensor | None = None
    dead: int | None = None
    num_units: int | None = None
    window: int = 1
    #: For each unit whether it was idle for the whole window, where ranks compare it.
    idle: Tensor | None = None


@dataclass(eq=False, slots=True)
class ParameterEntry:
    """One parameter, as tickets into the ledger."""

    name: str
    layer: str
    parameter: Tensor
    grad: int | None = None
    zeros: int | None = None
    before: Sampled | None = None
    before_norm: int | None = None
    equal_rows: int | None = None
    update: int | None = None
    entries: int = 0


@dataclass(eq=False, slots=True)
class PointEntry:
    """One trunk point: its own tickets, or the call whose output it is."""

    label: str
    layer: str
    entry: LayerEntry | None
    tickets: list[int]
    width: int | None = None


@dataclass(eq=False, slots=True)
class ChainEntry:
    """One chain of one backward pass."""

    source: str
    main: bool
    points: list[PointEntry]
