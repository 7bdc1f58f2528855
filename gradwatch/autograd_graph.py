"""The autograd graph of one forward, read passively: owners, sources, joins.

A *call* is one run of a leaf module. Nodes of the graph are given to the calls that
made them; what is left over are functional operations. From that come the *sources*
(first weight layers on a data path), the *heads* (last ones), the dominators of each
source, and the joins where paths meet (facts A5, B2b). Nothing is executed and nothing
is kept: a `Graph` lives for one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: An autograd node. torch has no public type that covers C++ and Python nodes.
Node = Any

#: Node names (without `Backward0`) to activation names.
ACTIVATIONS: dict[str, str] = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Gelu": "gelu",
    "Silu": "silu",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "Hardtanh": "hardtanh",
    "Softplus": "softplus",
    "PreluKernel": "prelu",
    "Mish": "mish",
    "Hardswish": "hardswish",
    "Hardsigmoid": "hardsigmoid",
    "LogSigmoid": "logsigmoid",
    "Threshold": "relu",
    "Celu": "celu",
    "RreluWithNoise": "rrelu",
    "Exp": "exp",
}
#: Node names of norms called as functions.
_NORMS: tuple[str, ...] = (
    "NativeLayerNorm",
    "NativeBatchNorm",
    "CudnnBatchNorm",
    "NativeGroupNorm",
)
_NORMS += ("FusedRmsNorm", "RmsNorm", "MkldnnBatchNorm", "BatchNorm", "LayerNorm")
#: Reductions over positions: a mean over k positions shrinks a norm by sqrt(k).
_REDUCTIONS: tuple[str, ...] = (
    "Mean",
    "AdaptiveAvgPool",
    "MkldnnAdaptiveAvgPool",
    "Sum",
    "Amax",
)
_REDUCTIONS += ("AdaptiveMaxPool",)
#: The same entries in another shape or order.
_VIEWS = frozenset({"View", "Unsqueeze", "Reshape", "UnsafeView", "Transpose"})
_VIEWS |= {"Permute", "Squeeze", "Clone", "Alias", "ToCopy"}
#: Calls of one layer that count as sources: the streams of an encoder-decoder with one
#: embedding, the towers of a twin network.
_TOWERS = 3
#: Outputs that get dominators of their own; nets with more are judged where all meet.
_MAX_OUTPUTS = 8
#: Nodes that multiply by a matrix or kernel.
_LINEAR: tuple[str, ...] = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear")
_LINEAR += ("Matmul", "MkldnnLinear", "Addmv", "Mv", "Einsum", "Addbmm")
#: Nodes that hide whole modules.
_OPAQUE = ("CheckpointFunction", "CompiledFunction", "GraphModule")


def _shape(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's first output; empty if torch hides it."""
    metadata = getattr(node, "_input_metadata", None)
    try:
        return tuple(map(int, metadata[0].shape)) if metadata else ()
    except RuntimeError:  # nested tensors have no sizes
        return ()


def _entries(node: Node) -> int | None:
    shape = _shape(node)
    return math.prod(shape) if shape else None


def base_name(node: Node) -> str:
    """Return the name of a node without its `Backward0` ending and namespace."""
    name: str = node.name().rsplit("::", 1)[-1]
    return name.split("Backward")[0]


@dataclass(eq=False, slots=True)
class Call:
    """One run of a leaf module in the probed forward.

    Attributes:
        layer: Qualified name.
        call: Index within its root forward.
        order: Position in execution order over the whole probe.
        kind: Class name.
        weight: Whether it counts as a weight layer.
        embedding: Whether it looks rows up.
        norm: Whether it normalises.
        activation: Lower-case name if it is an activation module.
        inputs: Nodes of its inputs, taken before it ran.
        outputs: Nodes of its outputs.
        raw_input: Identity of its first input without a node; None if it has none.
        has_batch: Whether an input has the root's batch size, so depends on the data.
        loops: Whether the module runs on its own output many times.
        width: Number of units of its output.
        unit_dim: Axis of the units: 1 after a convolution, else -1.
    """

    layer: str
    call: int
    order: int
    kind: str
    weight: bool = False
    embedding: bool = False
    norm: bool = False
    activation: str | None = None
    inputs: tuple[Node, ...] = ()
    outputs: tuple[Node, ...] = ()
    raw_input: tuple[object, ...] | None = None
    has_batch: bool = True
    loops: bool = False
    width: int | None = None
    unit_dim: int = -1


class Graph:
    """Nodes below the given roots, with owners and reachability.

    Args:
        roots: Nodes of the tensors the loss was computed from.
        calls: Leaf calls of the forward, in execution order.
        containers: Pairs of container name and the node of its output.
    """

    def __init__(
        self,
        roots: Sequence[Node],
        calls: Sequence[Call],
        containers: Sequence[tuple[str, Node]] = (),
    ) -> None:
        self.calls = calls
        self.nodes: list[Node] = []
        self.children: list[list[int]] = []
        self.order: list[int] = []
        self._index: dict[int, int] = {}
        self._walk(roots)
        self.parents: list[list[int]] = [[] for _ in self.nodes]
        for index, children in enumerate(self.children):
            for child in children:
                self.parents[child].append(index)
        self.names = [base_name(node) for node in self.nodes]
        self.owner: list[Call | None] = [None] * len(self.nodes)
        self._give_nodes_to_calls()
        self.container_names: dict[int, str] = {}
        for name, node in containers:
            at = self.index(node)
            if at is not None and len(name) > len(self.container_names.get(at, "")):
                self.container_names[at] = name
        indices = [i for i in map(self.index, roots) if i is not None]
        self.roots = [i for i in dict.fromkeys(indices) if not self.parents[i]]
        #: Where the loss enters, for dominators.
        self.entries = self.roots
        self._dominator_trees: dict[tuple[int, ...], dict[int, int]] = {}

    def container_label(self, index: int) -> str | None:
        """Return the container that a node ends, also with an activation or norm on it.

        `relu(body + skip)` is the output of a block whose join is the sum below it;
        views (the shuffled channels of a concatenation) are the same tensor.
        """
        for _ in range(8):
            if index in self.container_names:
                return self.container_names[index]
            if len(self.parents[index]) != 1:
                return None
            index = self.parents[index][0]
            if (
                self.activation_name(index) is None
                and not self.is_norm(index)
                and self.names[index] not in _VIEWS
            ):
                return self.container_names.get(index)
        return None

    def index(self, node: Node) -> int | None:
        """Return the index of a node, None if it is not below the roots."""
        return self._index.get(id(node))

    def _walk(self, roots: Sequence[Node]) -> None:
        """Depth first, children before parents in `order`."""
        stack: list[tuple[Node, bool]] = [(root, False) for root in roots]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                self.order.append(self._index[id(node)])
                continue
            if id(node) in self._index:
                continue
            self._index[id(node)] = len(self.nodes)
            self.nodes.append(node)
            self.children.append([])
            stack.append((node, True))
            stack.extend((child, False) for child in _next(node))
        for index, node in enumerate(self.nodes):
            seen = dict.fromkeys(self._index[id(child)] for child in _next(node))
            self.children[index] = list(seen)

    def _give_nodes_to_calls(self) -> None:
        for call in self.calls:
            stop = {id(node) for node in call.inputs}
            stack = [node for node in call.outputs if id(node) not in stop]
            while stack:
                index = self.index(stack.pop())
                if index is None or self.owner[index] is not None:
                    continue
                self.owner[index] = call
                stack.extend(
                    self.nodes[child]
                    for child in self.children[index]
                    if id(self.nodes[child]) not in stop
                )

    # -- reachability -------------------------------------------------------------

    @cached_property
    def outputs_of(self) -> dict[int, Call]:
        """Index of each call's output node -> the call that made it."""
        found: dict[int, Call] = {}
        for call in self.calls:
            for node in call.outputs:
                index = self.index(node)
                if index is not None and self.owner[index] is call:
                    found[index] = call
        return found

    @cached_property
    def weight_below(self) -> list[bool]:
        """Whether a data-dependent weight layer or embedding is at or below a node."""
        below = [False] * len(self.nodes)
        for index in self.order:
            call = self.owner[index]
            own = (
                call is not None and call.has_batch and (call.weight or call.embedding)
            )
            below[index] = own or any(below[child] for child in self.children[index])
        return below

    @cached_property
    def weight_above(self) -> list[bool]:
        """Whether a weight layer other than its own reads a node, directly or later."""
        above = [False] * len(self.nodes)
        for index in reversed(self.order):
            mine = self.owner[index]
            for parent in self.parents[index]:
                owner = self.owner[parent]
                if above[parent] or (
                    owner is not None and owner is not mine and owner.weight
                ):
                    above[index] = True
                    break
        return above

    @cached_property
    def sources(self) -> list[Call]:
        """First weight layers or embeddings on a path from the data.

        A module that reads the data many times (the input projection of a hand-written
        recurrence) is one source, not one a time step.
        """
        found: list[Call] = []
        times: dict[str, int] = {}
        for call in self.calls:
            if not (call.weight or call.embedding) or not call.has_batch:
                continue
            if self.output_index(call) is None or times.get(call.layer, 0) >= _TOWERS:
                continue
            below = (self.index(node) for node in call.inputs)
            if not any(i is not None and self.weight_below[i] for i in below):
                times[call.layer] = times.get(call.layer, 0) + 1
                found.append(call)
        return found

    @cached_property
    def carries(self) -> list[bool]:
        """Whether a node leads down to a source."""
        carry = [False] * len(self.nodes)
        sources = {id(call) for call in self.sources}
        for index in self.order:
            call = self.owner[index]
            carry[index] = (call is not None and id(call) in sources) or any(
                carry[child] for child in self.children[index]
            )
        return carry

    # -- parameters ---------------------------------------------------------------

    @cached_property
    def weights_read(self) -> dict[int, frozenset[int]]:
        """Linear node -> identities of the parameters that it multiplies by.

        An operand made of parameters and constants alone (transposed, masked,
        standardised, looked up in a table) is a weight. A parameter that first meets
        data, such as a position bias that is added to attention scores, is not. Nor is
        a compiled region whose input is data without a gradient.
        """
        constant: list[frozenset[int] | None] = [None] * len(self.nodes)
        found: dict[int, frozenset[int]] = {}
        for index in self.order:
            read: set[int] = set()
            mixed = False
            for child, _ in self.nodes[index].next_functions:
                if child is None:
                    continue
                if child.name().endswith("AccumulateGrad"):
                    read.add(id(child.variable))
                    continue
                below = constant[self._index[id(child)]]
                mixed = mixed or below is None
                read |= below or frozenset()
            if self.names[index].startswith(_LINEAR):
                found[index] = frozenset(read)
            elif not mixed and not self.names[index].startswith(_OPAQUE):
                constant[index] = frozenset(read)
        return found

    def add_call(self, call: Call) -> None:
        """Give a node to a call that no hook saw; before anything else is asked.

        Args:
            call: A weight that was handed to a function; its one output is the node.
        """
        index = self.index(call.outputs[0])
        assert index is not None
        self.owner[index] = call
        self.calls = sorted([*self.calls, call], key=lambda call: call.order)

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of a node's first output; empty if torch hides it."""
        return _shape(self.nodes[index])

    def output_index(self, call: Call) -> int | None:
        """Return the index of the call's first output node in the graph."""
        for node in call.outputs:
            index = self.index(node)
            if index is not None and self.owner[index] is call:
                return index
        return None

    def is_head(self, call: Call) -> bool:
        """Whether no other weight layer reads the call's output."""
        index = self.output_index(call)
        return index is not None and not self.weight_above[index]

    def reaches(self, start: Sequence[Node], goal: Sequence[Node]) -> bool:
        """Whether walking down from nodes meets one of the goal nodes."""
        goals = {i for i in map(self.index, goal) if i is not None}
        stack = [i for i in map(self.index, start) if i is not None]
        seen = set(stack)
        while stack:
            index = stack.pop()
            if index in goals:
                return True
            below = [c for c in self.children[index] if c not in seen]
            seen.update(below)
            stack.extend(below)
        return False

    def carrying_children(self, index: int) -> list[int]:
        """Return the children of a node that lead down to a source."""
        return [child for child in self.children[index] if self.carries[child]]

    # -- dominators ---------------------------------------------------------------

    def _immediate_dominators(self, entries: tuple[int, ...]) -> dict[int, int]:
        """Immediate dominator of each carrying node; -1 stands for the loss."""
        import networkx as nx  # 0.2 s, so not with `import gradwatch`

        if entries not in self._dominator_trees:
            graph: nx.DiGraph[int] = nx.DiGraph()
            graph.add_node(-1)
            graph.add_edges_from((-1, root) for root in entries if self.carries[root])
            for index in range(len(self.nodes)):
                if self.carries[index]:
                    graph.add_edges_from(
                        (index, child) for child in self.carrying_children(index)
                    )
            self._dominator_trees[entries] = dict(nx.immediate_dominators(graph, -1))
        return self._dominator_trees[entries]

    def enter_at_last_head(self) -> bool:
        """Follow the loss through the head that ran last only.

        Side losses (a router's balance, auxiliary classifiers) reach every layer by
        ways of their own, so that nothing dominates; the main output's is the trunk.

        Returns:
            Whether there is a head.
        """
        heads = [call for call in self.calls if call.weight and self.is_head(call)]
        if not heads:
            return False
        last = self.output_index(max(heads, key=lambda call: call.order))
        assert last is not None
        self.entries = [last]
        return True

    def stretches(self, index: int) -> list[list[int]]:
        """Return the dominators of a node, stretch by stretch between side outputs.

        Below the place where an auxiliary or second head branches off, a point must be
        on every path from every output. Above it stand the outputs' own stretches,
        whose points are on every path from all outputs that lie above them: there the
        gradient comes from fewer outputs, so they are not to be compared across.

        Returns:
            Stretches of indices, each from below upwards; the one that all outputs
            share first.
        """
        entries = [root for root in self.entries if self.carries[root]]
        stretches = [self.dominators(index)]
        if not 1 < len(entries) <= _MAX_OUTPUTS:
            return stretches
        paths = {e: self.dominators(index, (e,)) for e in entries}
        paths = {e: path for e, path in paths.items() if path}
        above = {e: self._at_or_below(e) for e in paths}
        on_path = {e: set(path) for e, path in paths.items()}
        groups: dict[tuple[int, ...], dict[int, None]] = {}
        for path in paths.values():
            for node in path:
                outputs = tuple(e for e in paths if node in above[e])
                if all(node in on_path[e] for e in outputs):
                    groups.setdefault(outputs, {}).setdefault(node)
        groups.pop(tuple(paths), None)
        return stretches + [list(group) for group in groups.values()]

    def _at_or_below(self, index: int) -> set[int]:
        seen = {index}
        stack = [index]
        while stack:
            below = [i for i in self.children[stack.pop()] if i not in seen]
            seen.update(below)
            stack.extend(below)
        return seen

    def dominators(
        self, index: int, entries: tuple[int, ...] | None = None
    ) -> list[int]:
        """Return the nodes through which every path from the loss to a node passes.

        Args:
            index: The node.
            entries: Nodes where the loss enters; all of them by default.

        Returns:
            Indices from the node itself up to the output.
        """
        immediate = self._immediate_dominators(entries or tuple(self.entries))
        path = []
        while index != -1 and index in immediate:
            path.append(index)
            above = immediate[index]
            if above == index:
                break
            index = above
        return path

    # -- neighbourhood ------------------------------------------------------------

    def is_norm(self, index: int) -> bool:
        """Whether a node belongs to a norm module or is a functional norm."""
        call = self.owner[index]
        if call is not None:
            return call.norm
        return self.names[index] in _NORMS

    def is_reduction(self, index: int) -> bool:
        """Whether a node averages or sums over positions.

        Adaptive pooling to the size that a tensor already has (VGG and AlexNet at the
        resolution they are made for) hands everything on as it is.

        Returns:
            Whether fewer entries leave the node than enter it, by a mean or sum.
        """
        return (
            (self.owner[index] is None and self.names[index].startswith(_REDUCTIONS))
            or self._is_pooling_module(index)
        ) and not self._keeps_all_entries(index)

    def _keeps_all_entries(self, index: int) -> bool:
        """Whether a node hands on as many entries as the largest of its inputs has."""
        call = self.owner[index]
        below = self.children[index]
        if call is not None:
            below = [i for i in map(self.index, call.inputs) if i is not None]
        sizes = [size for i in below if (size := _entries(self.nodes[i])) is not None]
        own = _entries(self.nodes[index])
        return own is not None and bool(sizes) and own >= max(sizes)

    def _is_pooling_module(self, index: int) -> bool:
        call = self.owner[index]
        return call is not None and call.kind.startswith("Adaptive")

    def norm_that_alone_reads(self, index: int) -> int | None:
        """Return the output node of the norm if nothing but that norm reads a node."""
        parents = self.parents[index]
        if not parents or not all(self.is_norm(parent) for parent in parents):
            return None
        owners = {id(self.owner[parent]) for parent in parents}
        if len(owners) != 1:
            return None
        call = self.owner[parents[0]]
        if call is not None:
            return self.output_index(call)
        return parents[0] if len(parents) == 1 else None

    def activation_name(self, index: int) -> str | None:
        """Return the activation that a node computes, as a module or a function."""
        call = self.owner[index]
        if call is not None:
            return call.activation
        return ACTIVATIONS.get(self.names[index])

    def nearest_weight(self, index: int) -> Call | None:
        """Return the latest weight layer found by walking down from a node."""
        seen = {index}
        level = [index]
        while level:
            found = [c for c in (self.owner[i] for i in level) if c and c.weight]
            if found:
                return max(found, key=lambda call: call.order)
            below = dict.fromkeys(c for i in level for c in self.children[i])
            level = [i for i in below if i not in seen]
            seen.update(level)
        return None

    @cached_property
    def latest_weight(self) -> list[Call | None]:
        """The weight layer at or below each node that ran last: it ends a join's body.

        The nearest one may stand on the skip path, whose last layer can be an earlier
        block's.
        """
        latest: list[Call | None] = [None] * len(self.nodes)
        for index in self.order:
            call = self.owner[index]
            found = [call] if call is not None and call.weight else []
            found += [c for i in self.children[index] if (c := latest[i]) is not None]
            latest[index] = max(found, key=lambda call: call.order, default=None)
        return latest

    def following(self, call: Call) -> tuple[int | None, str | None]:
        """Return the activation node and the norm that follow a weight layer.

        Walks up through views, norms, dropout and sums until an activation or the next
        weight layer.
        """
        start = self.output_index(call)
        norm: str | None = None
        seen: set[int] = set()
        level = [] if start is None else [start]
        for _ in range(12):
            level = list(dict.fromkeys(p for i in level for p in self.parents[i]))
            level = [i for i in level if i not in seen and not self._is_weight(i)]
            seen.update(level)
            for index in level:
                if self.activation_name(index) is not None:
                    return index, norm
                if norm is None and self.is_norm(index):
                    owner = self.owner[index]
                    norm = owner.kind if owner is not None else self.names[index]
        return None, norm

    def _is_weight(self, index: int) -> bool:
        call = self.owner[index]
        return call is not None and call.weight

    def is_gate(self, index: int) -> bool:
        """Whether a node's output only scales other tensors."""
        parents = self._beyond_views(index)
        return bool(parents) and all(self.names[p] == "Mul" for p in parents)

    def _beyond_views(self, index: int) -> list[int]:
        views = _VIEWS | {"Expand", "Split", "Slice"}
        level = self.parents[index]
        for _ in range(6):
            if not any(self.names[p] in views for p in level):
                break
            level = [
                q
                for p in level
                for q in (self.parents[p] if self.names[p] in views else [p])
            ]
        return level

    @cached_property
    def opaque_nodes(self) -> list[str]:
        """Names of nodes outside leaf modules that hide whole modules."""
        return [
            name
            for index, name in enumerate(self.names)
            if self.owner[index] is None and name.startswith(_OPAQUE)
        ]

    def joins(self) -> Iterator[int]:
        """Yield nodes outside leaf modules where carrying paths meet by sum or cat."""
        for index in reversed(self.order):
            if (
                self.owner[index] is None
                and self.names[index] in {"Add", "Sub", "Cat", "Stack"}
                and len(self.carrying_children(index)) >= 2
            ):
                yield index

    def signature(self) -> int:
        """Return a hash of names, edges and owners: equal for equal structure."""
        owners = tuple(c.layer if c is not None else "" for c in self.owner)
        edges = tuple(map(tuple, self.children))
        return hash((tuple(self.names), edges, owners))


def _next(node: Node) -> Iterable[Node]:
    """Return the nodes a node hands gradients to, parameters left out."""
    return [
        child
        for child, _ in node.next_functions
        if child is not None and not child.name().endswith("AccumulateGrad")
    ]
