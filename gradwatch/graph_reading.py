"""What was found on a graph, as plain data: a graph that comes again is not studied."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from gradwatch.autograd_graph import Graph
from gradwatch.graph_neighbours import is_reduction
from gradwatch.graph_nodes import Call
from gradwatch.structure import Structure

#: Graphs remembered: a net may take turns between a few (the last, smaller batch; two
#: losses), and one that never comes twice must not fill the memory.
_MAX_GRAPHS = 4


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """A trunk point by place.

    Attributes:
        label: What a reader calls it.
        layer: Layer it stands for.
        index: Its node.
        call: Place of the call whose output it is, if it is one.
        own: Whether the call's own output is the node, so that it is measured already.
    """

    label: str
    layer: str
    index: int
    call: int | None
    own: bool


@dataclass(frozen=True, slots=True)
class PlannedChain:
    """A chain by place, source first."""

    source: str
    main: bool
    points: tuple[PlannedPoint, ...]


@dataclass(frozen=True, slots=True)
class FoundActivation:
    """An activation: how it is used, and the weight layer that feeds it.

    Attributes:
        index: Its node.
        activation: Lower-case name.
        hidden: Whether a weight layer reads it later on.
        gate: Whether it only scales other tensors.
        layer: The weight layer that feeds it; None if there is none.
        unit_dim: Axis of that layer's units.
    """

    index: int
    activation: str
    hidden: bool
    gate: bool
    layer: str | None
    unit_dim: int | None


@dataclass(frozen=True, slots=True)
class GraphReading:
    """What a probe needs to know of a graph, by place of calls and index of nodes.

    Attributes:
        weights: Whether each call is one of a weight layer, in order of the calls.
        loops: Layers that run many times on their own output.
        chains: What to measure over depth.
        opaque: Why the graph could not be read wholly; empty if it could.
        functional: Functional activations whose values can be read.
        modules: Activation modules, by place of their call.
        structure: The network.
    """

    weights: tuple[bool, ...]
    loops: frozenset[str]
    chains: tuple[PlannedChain, ...]
    opaque: str
    functional: tuple[FoundActivation, ...]
    modules: dict[int, FoundActivation]
    structure: Structure


class GraphMemory:
    """Readings of the graphs met last, by everything that they depend on."""

    def __init__(self) -> None:
        self._readings: dict[Hashable, GraphReading] = {}
        self._version = -1

    def at_version(self, version: int) -> GraphMemory:
        """Return itself, emptied if the watched modules have changed since."""
        if version != self._version:
            self._version = version
            self._readings.clear()
        return self

    def get(self, key: Hashable) -> GraphReading | None:
        """Return the reading of such a graph, if it is known."""
        return self._readings.get(key)

    def put(self, key: Hashable, reading: GraphReading) -> None:
        """Remember a reading; the oldest one is forgotten."""
        if len(self._readings) >= _MAX_GRAPHS:
            self._readings.pop(next(iter(self._readings)))
        self._readings[key] = reading


def key_of(graph: Graph, calls: Sequence[Call], groups: Sequence[int]) -> Hashable:
    """Return what a reading depends on, beside the facts of the modules.

    Nodes count by index in the walk's order, raw inputs by which calls share one, and
    shapes only where they decide whether a node reduces. It is the whole key, not a
    hash of it: two graphs are never taken for one.

    Args:
        graph: The graph.
        calls: Its calls, in the order of their places.
        groups: The forward that each belongs to, counted from the last one.

    Returns:
        The key.
    """
    index = graph.index
    raw: dict[object, int] = {}
    return (
        tuple(graph.names),
        tuple(map(tuple, graph.children)),
        tuple(graph.leaves),
        tuple(graph.roots),
        tuple(graph.container_names.items()),
        tuple(i for i in range(len(graph.nodes)) if is_reduction(graph, i)),
        tuple(
            (
                call.layer,
                call.call,
                group,
                call.has_batch,
                call.width,
                -1
                if call.raw_input is None
                else raw.setdefault(call.raw_input, len(raw)),
                tuple(map(index, call.inputs)),
                tuple(map(index, call.outputs)),
            )
            for call, group in zip(calls, groups, strict=True)
        ),
    )
