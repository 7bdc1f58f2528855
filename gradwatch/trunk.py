"""Chains of trunk points, planned on a `Graph`.

The trunk of a stream is what *every* gradient path from the loss to its source passes
through (facts B2b): each weight layer of a plain net, the residual stream of a residual
one. A second stream (an encoder behind cross-attention) is a chain of its own, and ends
where it joins the stream that owns the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradwatch.autograd_graph import Graph
from gradwatch.graph_neighbours import (
    container_label,
    is_elementwise,
    is_reduction,
    nearest_weight,
    norm_that_alone_reads,
)
from gradwatch.graph_nodes import Call


@dataclass(frozen=True, slots=True)
class Point:
    """A trunk point to be measured.

    Attributes:
        index: Node index in the graph.
        label: What a reader calls it.
        layer: Layer it stands for.
        call: The call whose output it is, if it is one.
    """

    index: int
    label: str
    layer: str
    call: Call | None


@dataclass(frozen=True, slots=True)
class Chain:
    """Points of one stream, source first."""

    source: str
    points: tuple[Point, ...]
    main: bool


def plan_chains(graph: Graph) -> list[Chain]:
    """Return the chains of all streams, the main one first.

    Args:
        graph: Graph of one forward.

    Returns:
        Chains of at least 3 points.
    """
    chains = _plan(graph)
    if not chains and graph.enter_at_last_head():
        chains = _plan(graph)
    return chains


def _plan(graph: Graph) -> list[Chain]:
    streams: dict[tuple[int, ...], tuple[str, list[list[Point]]]] = {}
    for source, segments in _streams(graph):
        key = tuple(point.index for segment in segments for point in segment)
        if key:
            streams.setdefault(key, (source, segments))
    cut = _cut_at_joins(graph, list(streams.values()))
    chains = [
        Chain(source if number == 0 else segment[0].layer, tuple(segment), main=False)
        for source, segments in cut
        for number, segment in enumerate(segments)
        if len(segment) >= 3
    ]
    chains.sort(key=lambda chain: -len(chain.points))
    return [replace(chain, main=n == 0) for n, chain in enumerate(chains)]


def _streams(graph: Graph) -> list[tuple[str, list[list[Point]]]]:
    """Return the first layer and the segments of every stream.

    Sources that read the same raw input (query, key and value; the branches of a first
    block) are one stream from where they meet. What each has of its own before that is
    a stream too, if it is long enough to be judged: two encoders of one image.
    """
    streams = []
    for group in _groups(graph.sources):
        paths = {
            call: graph.dominators.stretches(index)
            for call in group
            if (index := graph.output_index(call)) is not None
        }
        if not paths:
            continue
        every = [{i for part in path for i in part} for path in paths.values()]
        shared = every[0].intersection(*every[1:])
        first = next(iter(paths))
        parts = [[i for i in part if i in shared] for part in paths[first]]
        streams.append((first.layer, _segments(graph, parts)))
        if len(paths) == 1:
            continue
        for call, path in paths.items():
            parts = [[i for i in part if i not in shared] for part in path]
            own = [seg for seg in _segments(graph, parts) if len(seg) >= 3]
            if own:
                streams.append((call.layer, own))
    return streams


def trunk_layers(graph: Graph) -> set[str]:
    """Return the layers whose output every gradient path to a source passes.

    Also those in segments too short for a profile, such as the hidden layers of a
    classifier above the pooling.
    """
    return {
        point.layer
        for _, segments in _streams(graph)
        for segment in segments
        for point in segment
        if point.call is not None
    }


def _groups(sources: Sequence[Call]) -> list[list[Call]]:
    """Group sources that read the same raw input, as query, key and value do."""
    groups: dict[object, list[Call]] = {}
    for call in sources:
        key = id(call) if call.embedding else call.raw_input or id(call)
        groups.setdefault(key, []).append(call)
    return list(groups.values())


def _segments(graph: Graph, stretches: Sequence[Sequence[int]]) -> list[list[Point]]:
    """Return the trunk points of stretches, cut at reductions over positions."""
    segments: list[list[Point]] = []
    for stretch in stretches:
        segments.append([])
        for index in stretch:
            if is_reduction(graph, index) and segments[-1]:
                segments.append([])
            point = _point(graph, index)
            if point is not None and point.index not in {p.index for p in segments[-1]}:
                segments[-1].append(point)
    return [segment for segment in segments if segment]


def _point(graph: Graph, index: int) -> Point | None:
    """Return the trunk point at a dominator, None if it is not one.

    Points are outputs of weight layers and joins below the head. The scale of a tensor
    that only a norm reads is free, so its point moves behind the norm.
    """
    if not graph.weight_above[index]:
        return None
    call = graph.outputs_of.get(index)
    if call is not None and call.weight:
        if call.loops:
            return None
        return Point(_behind_norm(graph, index), call.layer, call.layer, call)
    if graph.owner[index] is None and len(graph.carrying_children(index)) >= 2:
        nearest, latest = nearest_weight(graph, index), graph.latest_weight[index]
        if nearest is None or nearest.loops or latest is None:
            return None
        kind = "elementwise" if is_elementwise(graph, index) else "sum"
        label = container_label(graph, index) or f"{latest.layer} ({kind})"
        return Point(_behind_norm(graph, index), label, latest.layer, None)
    return None


def _behind_norm(graph: Graph, index: int) -> int:
    behind = norm_that_alone_reads(graph, index)
    if behind is None or not _continues(graph, behind):
        return index
    return behind


def _continues(graph: Graph, index: int) -> bool:
    """Whether more than the head reads a node: the final norm of a stream stays out."""
    readers = {id(call) for call in _weight_readers(graph, index)}
    return any(id(call) in readers and not graph.is_head(call) for call in graph.calls)


def _weight_readers(graph: Graph, index: int) -> list[Call]:
    """Return the weight calls reached first when walking up from a node."""
    found: list[Call] = []
    seen = {index}
    stack = list(graph.parents[index])
    while stack:
        above = stack.pop()
        if above in seen:
            continue
        seen.add(above)
        call = graph.owner[above]
        if call is not None and call.weight:
            found.append(call)
        else:
            stack.extend(graph.parents[above])
    return found


def _cut_at_joins(
    graph: Graph, streams: list[tuple[str, list[list[Point]]]]
) -> list[tuple[str, list[list[Point]]]]:
    """Give what several streams share to the stream that runs straight into it."""
    result = []
    for number, (source, segments) in enumerate(streams):
        others = {
            point.index
            for other, (_, theirs) in enumerate(streams)
            if other != number
            for segment in theirs
            for point in segment
        }
        flat = [point for segment in segments for point in segment]
        first = next((p for p in flat if p.index in others), None)
        if first is None or _owns(graph, number, streams, first):
            result.append((source, segments))
            continue
        private = [
            [p for p in segment if p.index not in others] for segment in segments
        ]
        result.append((source, [segment for segment in private if segment]))
    return result


def _owns(
    graph: Graph,
    number: int,
    streams: list[tuple[str, list[list[Point]]]],
    join: Point,
) -> bool:
    """Return whether what follows a shared point is a stream's.

    It is the stream's that passes the fewest weight layers on its way there (a skip
    path); of streams that are as close, a side input and the main stream, the longer's.
    """
    lengths: dict[int, tuple[int, int]] = {}
    for other, (source, segments) in enumerate(streams):
        flat = [point.index for segment in segments for point in segment]
        if join.index not in flat:
            continue
        position = flat.index(join.index)
        if position > 0:
            below = flat[position - 1]
        else:
            call = next(c for c in graph.sources if c.layer == source)
            below = graph.output_index(call) or 0
        lengths[other] = (_weights_between(graph, join.index, below), -position)
    return lengths[number] == min(lengths.values())


def _weights_between(graph: Graph, start: int, goal: int) -> int:
    """Return the fewest weight layers passed on a way down from `start` to `goal`."""
    queue = deque([(0, start)])
    seen: set[int] = set()
    while queue:
        passed, index = queue.popleft()
        if index == goal:
            return passed
        if index in seen:
            continue
        seen.add(index)
        for child in graph.children[index]:
            call = graph.outputs_of.get(child)
            if child != goal and call is not None and call.weight:
                queue.append((passed + 1, child))
            else:
                queue.appendleft((passed, child))
    return len(graph.nodes)
