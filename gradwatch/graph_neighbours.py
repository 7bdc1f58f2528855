"""What stands around a node of the graph: norms, activations, gates, joins."""

from __future__ import annotations

from collections.abc import Iterator

from gradwatch.autograd_graph import Graph
from gradwatch.graph_nodes import (
    ACTIVATIONS,
    NORMS,
    REDUCTIONS,
    VIEWS,
    Call,
    entries_of,
)

#: Functions of one entry or of two in the same place, beside the activations.
_ELEMENTWISE = frozenset(ACTIVATIONS) | {"Abs", "Clamp", "Neg", "Sign", "ToCopy"}
_ELEMENTWISE |= {"Add", "Sub", "Rsub", "Mul", "Div", "Maximum", "Minimum", "Where"}
_ELEMENTWISE |= {"Pow", "Sqrt", "Rsqrt", "Reciprocal", "Erf", "Log", "Log1P"}
_ELEMENTWISE |= {"Atan", "Cos", "Sin"}
#: Steps down from a join before it is taken for one of several tensors.
_MAX_ELEMENTWISE_STEPS = 32


def age(graph: Graph, index: int) -> int:
    """Return a number that grows with the time at which a node was made."""
    number = getattr(graph.nodes[index], "_sequence_nr", None)
    return int(number()) if callable(number) else -index


def is_elementwise(graph: Graph, index: int) -> bool:
    """Whether a join is a function of the entries of one tensor.

    Softsign, `x / (1 + |x|)`, or `x * sigmoid(x)` written by hand: paths part at `x`
    and meet again, as those around a residual branch do, with no layer on any.

    Args:
        graph: The graph.
        index: A node where carrying paths meet.

    Returns:
        Whether all paths from it lead to one node, through such functions only.
    """
    if graph.names[index] not in _ELEMENTWISE:
        return False
    level = set(graph.carrying_children(index))
    for _ in range(_MAX_ELEMENTWISE_STEPS):
        if len(level) == 1:
            return True
        # The youngest one cannot be below another, so that no path is passed by.
        youngest = max(level, key=lambda i: age(graph, i))
        call = graph.owner[youngest]
        known = call.activation if call is not None else graph.names[youngest]
        if known is None or (call is None and known not in _ELEMENTWISE):
            return False
        level.remove(youngest)
        level.update(graph.carrying_children(youngest))
    return False


def container_label(graph: Graph, index: int) -> str | None:
    """Return the container that a node ends, also with an activation or norm on it.

    `relu(body + skip)` is the output of a block whose join is the sum below it;
    views (the shuffled channels of a concatenation) are the same tensor.
    """
    for _ in range(8):
        if index in graph.container_names:
            return graph.container_names[index]
        if len(graph.parents[index]) != 1:
            return None
        index = graph.parents[index][0]
        if (
            activation_name(graph, index) is None
            and not is_norm(graph, index)
            and graph.names[index] not in VIEWS
        ):
            return graph.container_names.get(index)
    return None


def is_norm(graph: Graph, index: int) -> bool:
    """Whether a node belongs to a norm module or is a functional norm."""
    call = graph.owner[index]
    if call is not None:
        return call.norm
    return graph.names[index] in NORMS


def is_reduction(graph: Graph, index: int) -> bool:
    """Whether a node averages or sums over positions.

    Adaptive pooling to the size that a tensor already has (VGG and AlexNet at the
    resolution they are made for) hands everything on as it is.

    Returns:
        Whether fewer entries leave the node than enter it, by a mean or sum.
    """
    return (
        (graph.owner[index] is None and graph.names[index].startswith(REDUCTIONS))
        or _is_pooling_module(graph, index)
    ) and not _keeps_all_entries(graph, index)


def _keeps_all_entries(graph: Graph, index: int) -> bool:
    """Whether a node hands on as many entries as the largest of its inputs has."""
    call = graph.owner[index]
    below = graph.children[index]
    if call is not None:
        below = [i for i in map(graph.index, call.inputs) if i is not None]
    sizes = [size for i in below if (size := entries_of(graph.nodes[i])) is not None]
    own = entries_of(graph.nodes[index])
    return own is not None and bool(sizes) and own >= max(sizes)


def _is_pooling_module(graph: Graph, index: int) -> bool:
    call = graph.owner[index]
    return call is not None and call.kind.startswith("Adaptive")


def norm_that_alone_reads(graph: Graph, index: int) -> int | None:
    """Return the output node of the norm if nothing but that norm reads a node."""
    parents = graph.parents[index]
    if not parents or not all(is_norm(graph, parent) for parent in parents):
        return None
    owners = {id(graph.owner[parent]) for parent in parents}
    if len(owners) != 1:
        return None
    call = graph.owner[parents[0]]
    if call is not None:
        return graph.output_index(call)
    return parents[0] if len(parents) == 1 else None


def activation_name(graph: Graph, index: int) -> str | None:
    """Return the activation that a node computes, as a module or a function."""
    call = graph.owner[index]
    if call is not None:
        return call.activation
    return ACTIVATIONS.get(graph.names[index])


def nearest_weight(graph: Graph, index: int) -> Call | None:
    """Return the latest weight layer found by walking down from a node."""
    seen = {index}
    level = [index]
    while level:
        found = [c for c in (graph.owner[i] for i in level) if c and c.weight]
        if found:
            return max(found, key=lambda call: call.order)
        below = dict.fromkeys(c for i in level for c in graph.children[i])
        level = [i for i in below if i not in seen]
        seen.update(level)
    return None


def following(graph: Graph, call: Call) -> tuple[int | None, str | None]:
    """Return the activation node and the norm that follow a weight layer.

    Walks up through views, norms, dropout and sums until an activation or the next
    weight layer.
    """
    start = graph.output_index(call)
    norm: str | None = None
    seen: set[int] = set()
    level = [] if start is None else [start]
    for _ in range(12):
        level = list(dict.fromkeys(p for i in level for p in graph.parents[i]))
        level = [i for i in level if i not in seen and not _is_weight(graph, i)]
        seen.update(level)
        for index in level:
            if activation_name(graph, index) is not None:
                return index, norm
            if norm is None and is_norm(graph, index):
                owner = graph.owner[index]
                norm = owner.kind if owner is not None else graph.names[index]
    return None, norm


def _is_weight(graph: Graph, index: int) -> bool:
    call = graph.owner[index]
    return call is not None and call.weight


def is_gate(graph: Graph, index: int) -> bool:
    """Whether a node's output only scales other tensors."""
    parents = _beyond_views(graph, index)
    return bool(parents) and all(graph.names[p] == "Mul" for p in parents)


def _beyond_views(graph: Graph, index: int) -> list[int]:
    views = VIEWS | {"Expand", "Split", "Slice"}
    level = graph.parents[index]
    for _ in range(6):
        if not any(graph.names[p] in views for p in level):
            break
        level = [
            q
            for p in level
            for q in (graph.parents[p] if graph.names[p] in views else [p])
        ]
    return level


def joins(graph: Graph) -> Iterator[int]:
    """Yield nodes outside leaf modules where carrying paths meet by sum or cat."""
    for index in reversed(graph.order):
        if (
            graph.owner[index] is None
            and graph.names[index] in {"Add", "Sub", "Cat", "Stack"}
            and len(graph.carrying_children(index)) >= 2
        ):
            yield index
