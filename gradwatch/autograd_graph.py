"""The autograd graph of one forward, read passively: owners, sources, joins.

A *call* is one run of a leaf module. Nodes of the graph are given to the calls that
made them; what is left over are functional operations. From that come the *sources*
(first weight layers on a data path), the *heads* (last ones), the dominators of each
source, and the joins where paths meet (facts A5, B2b). Nothing is executed and nothing
is kept: a `Graph` lives for one backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from gradwatch.dominators import Dominators
from gradwatch.graph_nodes import (
    LINEAR,
    OPAQUE,
    Call,
    Node,
    base_name,
    next_nodes,
    shape_of,
)

#: Calls of one layer that count as sources: the streams of an encoder-decoder with one
#: embedding, the towers of a twin network.
_TOWERS = 3


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
        #: Identities of the leaf tensors that each node reads.
        self.leaves: list[tuple[int, ...]] = []
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

    def index(self, node: Node) -> int | None:
        """Return the index of a node, None if it is not below the roots."""
        return self._index.get(id(node))

    def _walk(self, roots: Sequence[Node]) -> None:
        """Depth first, children before parents in `order`."""
        indices = self._index
        lower: list[list[Node]] = []
        stack: list[tuple[Node, bool]] = [(root, False) for root in roots]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                self.order.append(indices[id(node)])
                continue
            if id(node) in indices:
                continue
            indices[id(node)] = len(self.nodes)
            self.nodes.append(node)
            below, leaves = next_nodes(node)
            lower.append(below)
            self.leaves.append(leaves)
            stack.append((node, True))
            stack.extend((child, False) for child in below)
        for below in lower:
            self.children.append(list(dict.fromkeys(indices[id(c)] for c in below)))

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
            below = [constant[child] for child in self.children[index]]
            mixed = any(part is None for part in below)
            read = frozenset(self.leaves[index]).union(*(p for p in below if p))
            if self.names[index].startswith(LINEAR):
                found[index] = read
            elif not mixed and not self.names[index].startswith(OPAQUE):
                constant[index] = read
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
        return shape_of(self.nodes[index])

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

    @cached_property
    def dominators(self) -> Dominators:
        """Dominators of the carrying nodes, seen from the outputs."""
        return Dominators(self.children, self.carries, self.roots, self.order)

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
        self.dominators.entries = [last]
        return True

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

    @cached_property
    def opaque_nodes(self) -> list[str]:
        """Names of nodes outside leaf modules that hide whole modules."""
        return [
            name
            for index, name in enumerate(self.names)
            if self.owner[index] is None and name.startswith(OPAQUE)
        ]
