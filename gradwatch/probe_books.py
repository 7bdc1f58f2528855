"""What one probe has booked so far, shared by its forward and its graph reading."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

from gradwatch.graph_nodes import Node
from gradwatch.graph_reading import GraphMemory
from gradwatch.layers import ModuleFacts
from gradwatch.ledger import Ledger
from gradwatch.probe_entries import ActivationEntry, ChainEntry, LayerEntry
from gradwatch.settings import Settings
from gradwatch.statistics import (
    active_units,
    l2_norm,
    plain,
    saturated_share,
    zero_share,
)
from gradwatch.structure import Structure

#: Activations whose flat parts are counted.
SATURATING = ("tanh", "sigmoid")


class ProbeBooks:
    """Entries of one probe and the ledger their numbers are booked in.

    Args:
        facts: Facts of the watched modules by `id(module)`.
        modules: The modules by clean name.
        settings: Thresholds of saturation, and limits of what is read.
        memory: What was found on the graphs of earlier probes.
        hook_tensor: Registers a guarded hook on a tensor.
        hook_node: Registers a guarded prehook on an autograd node.
    """

    def __init__(
        self,
        facts: Mapping[int, ModuleFacts],
        modules: MutableMapping[str, nn.Module],
        settings: Settings,
        memory: GraphMemory,
        hook_tensor: Callable[[Tensor, Any], None],
        hook_node: Callable[[Node, Any], None],
    ) -> None:
        self.facts = facts
        self.modules = modules
        self.settings = settings
        self.memory = memory
        self.hook_tensor = hook_tensor
        self.hook_node = hook_node
        self.ledger = Ledger()
        self.layers: list[LayerEntry] = []
        self.activations: list[ActivationEntry] = []
        self.chains: list[ChainEntry] = []
        self.loop_layers: set[str] = set()
        #: Layers that no hook sees: another module hands their weight to a function.
        self.functional_layers: set[str] = set()
        self.structure: Structure | None = None
        self.opaque = ""
        self.batch_size: int | None = None
        #: Number of the root forward, and the order of calls over the whole probe.
        self.group = -1
        self.order = itertools.count()

    def read_activation(
        self, entry: ActivationEntry, out: Tensor, unit_dim: int
    ) -> None:
        """Book the zero or saturated share of an activation's output."""
        if out.dim() == 0:
            return  # a loss, not units
        if entry.activation == "relu":
            entry.zero = self.ledger.add(zero_share(out))
            entry.active = active_units(out, unit_dim)
            entry.num_units = int(entry.active.numel())
        elif entry.activation in SATURATING:
            share = saturated_share(
                out,
                entry.activation,
                self.settings.tanh_saturation,
                self.settings.sigmoid_saturation,
            )
            entry.saturated = self.ledger.add(share)
        else:
            return
        self.activations.append(entry)

    def book_gradient(self, tickets: list[int], grad: Tensor) -> None:
        """Book the norm of a gradient under a new ticket."""
        values = plain(grad)
        if values is not None:
            ticket = self.ledger.add(l2_norm(values))
            assert ticket is not None
            tickets.append(ticket)
