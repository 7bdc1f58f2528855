"""From a `Graph` to the `Structure` that rules read: spans, roles, layer facts."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from torch import nn

from gradwatch.autograd_graph import Graph
from gradwatch.graph_neighbours import (
    activation_name,
    age,
    container_label,
    following,
    is_gate,
    joins,
    norm_that_alone_reads,
)
from gradwatch.graph_nodes import Call
from gradwatch.layers import (
    ModuleFacts,
    count_entries,
    fans,
    own_parameters,
    peek,
)
from gradwatch.statistics import plain
from gradwatch.structure import LayerInfo, ResidualSpan, Role, Structure
from gradwatch.trunk import Chain, trunk_layers

#: Nodes looked at before the search for the split of a join is given up.
_MAX_SPAN_NODES = 4000


def find_spans(graph: Graph) -> tuple[ResidualSpan, ...]:
    """Return the residual and concatenation joins, in execution order."""
    spans = []
    for index in joins(graph):
        children = graph.carrying_children(index)
        body = _body(graph, children[0], children[1])
        if not body:
            continue
        body.sort(key=lambda call: call.order)
        kind = "cat" if graph.names[index] in {"Cat", "Stack"} else "add"
        label = container_label(graph, index) or f"{body[-1].layer} (sum)"
        names = tuple(dict.fromkeys(call.layer for call in body))
        spans.append(ResidualSpan(label, names, kind, _norm_side(graph, index, body)))
    return tuple(reversed(spans))


def _norm_side(graph: Graph, join: int, body: Sequence[Call]) -> str | None:
    if body[0].norm:
        return "pre"  # also of the last block, whose sum the final norm reads
    return "post" if norm_that_alone_reads(graph, join) is not None else None


def _body(graph: Graph, left: int, right: int) -> list[Call]:
    """Return the calls on the longer branch between a join and its split.

    The split is the nearest common ancestor, found by repeatedly expanding the younger
    node (facts A5).
    """
    marks = {left: 1}
    marks[right] = marks.get(right, 0) | 2
    heap = [(-age(graph, i), i) for i in marks]
    heapq.heapify(heap)
    branches: dict[int, dict[int, Call]] = {1: {}, 2: {}}
    for _ in range(_MAX_SPAN_NODES):
        if not heap:
            break
        _, index = heapq.heappop(heap)
        mark = marks[index]
        if mark == 3:
            break
        call = graph.owner[index]
        if call is not None:
            branches[mark].setdefault(id(call), call)
        for child in graph.carrying_children(index):
            if child not in marks:
                heapq.heappush(heap, (-age(graph, child), child))
            marks[child] = marks.get(child, 0) | mark
    sides = [list(branch.values()) for branch in branches.values()]
    body = max(sides, key=lambda side: sum(call.weight for call in side))
    return body if any(call.weight for call in body) else []


def build_structure(
    graph: Graph | None,
    chains: Sequence[Chain],
    facts: Mapping[str, ModuleFacts],
    modules: MutableMapping[str, nn.Module],
    called: Sequence[str],
    batch_size: int | None,
    reason: str = "",
) -> Structure:
    """Return the structure as plain data.

    Args:
        graph: Graph of the forward; None if it could not be read.
        chains: Its chains.
        facts: Facts of every watched module by name.
        modules: The modules by name.
        called: Names of the leaf layers in execution order.
        batch_size: Batch size of the root's input.
        reason: Why the graph could not be read, if it could not.

    Returns:
        The structure.
    """
    first_calls: dict[str, Call] = {}
    for call in graph.calls if graph is not None else ():
        first_calls.setdefault(call.layer, call)
    on_trunk = {p.layer for chain in chains for p in chain.points if p.call is not None}
    if graph is not None:
        on_trunk |= trunk_layers(graph)
    order = {name: position for position, name in enumerate(called)}
    layers: dict[str, LayerInfo] = {}
    names = sorted(
        (
            name
            for name, known in facts.items()
            if known.is_layer and (known.leaf or name in first_calls)
            if name in modules  # else it was replaced since
        ),
        key=lambda name: order.get(name, len(order)),
    )
    for name in names:
        info = _layer_info(facts[name], modules[name], order.get(name, -1))
        first = first_calls.get(name)
        if graph is not None and first is not None:
            info = _with_graph(info, graph, first, name in on_trunk)
        elif info.order < 0 and info.num_parameters and not facts[name].compiled:
            info = replace(info, role=Role.UNUSED)
        layers[name] = info
    heads = tuple(n for n, info in layers.items() if info.role is Role.HEAD)
    hidden = [
        n
        for n, info in layers.items()
        if info.is_weight and info.order >= 0 and info.role is not Role.HEAD
    ]
    return Structure(
        layers=MappingProxyType(layers),
        spans=find_spans(graph) if graph is not None else (),
        known=graph is not None and not reason,
        reason=reason,
        last_hidden=hidden[-1] if hidden else None,
        heads=heads,
        batch_size=batch_size,
    )


def _layer_info(facts: ModuleFacts, module: nn.Module, order: int) -> LayerInfo:
    role = Role.OTHER
    if facts.embedding:
        role = Role.EMBEDDING
    elif facts.norm:
        role = Role.NORM
    elif facts.activation is not None:
        role = Role.ACTIVATION
    elif facts.recurrent:
        role = Role.RECURRENT
    sizes = fans(module)
    weight = peek(module, "weight")
    std = None
    if sizes is not None and weight is not None and weight.numel() > 1:
        entries = plain(weight)
        std = None if entries is None else float(entries.float().std())
    return LayerInfo(
        name=facts.name,
        kind=facts.kind,
        role=role,
        order=order,
        is_weight=facts.weight is True and not facts.internal,
        trainable=facts.trainable,
        num_parameters=count_entries(p for _, p in own_parameters(module)),
        fan_in=sizes[0] if sizes else None,
        fan_out=sizes[1] if sizes else None,
        weight_std=std,
    )


def _with_graph(info: LayerInfo, graph: Graph, call: Call, trunk: bool) -> LayerInfo:
    if not call.weight:
        return info
    node, norm = following(graph, call)
    activation = None if node is None else activation_name(graph, node)
    owner = None if node is None else graph.owner[node]
    role = info.role
    if graph.output_index(call) is not None:
        if graph.is_head(call):
            role = Role.HEAD
        elif role is not Role.RECURRENT:
            role = Role.TRUNK if trunk else Role.BRANCH
    return replace(
        info,
        is_weight=True,
        role=role,
        activation=activation,
        norm=norm,
        functional_activation=node is not None and owner is None,
        activation_module=None if owner is None else owner.layer,
        gate=node is not None and is_gate(graph, node),
    )
