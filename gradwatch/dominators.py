"""Through which nodes every path from the loss to a node passes."""

from __future__ import annotations

from collections.abc import Sequence

#: Outputs that get dominators of their own; nets with more are judged where all meet.
_MAX_OUTPUTS = 8


class Dominators:
    """Dominators of the nodes of an acyclic graph, seen from where the loss enters.

    Args:
        children: Children of each node, by index.
        carries: Whether a node leads down to a source; others are left out.
        entries: Nodes where the loss enters.
        order: Every node, children before parents.
    """

    def __init__(
        self,
        children: Sequence[Sequence[int]],
        carries: Sequence[bool],
        entries: Sequence[int],
        order: Sequence[int],
    ) -> None:
        self.entries = list(entries)
        self._children = children
        self._carries = carries
        self._order = order
        self._trees: dict[tuple[int, ...], dict[int, int]] = {}

    def _immediate_dominators(self, entries: tuple[int, ...]) -> dict[int, int]:
        """Immediate dominator of each carrying node; -1 stands for the loss.

        In a graph without cycles one pass is enough: when a node is reached, all its
        parents are done, and what dominates it is where their dominators meet
        (Cooper, Harvey & Kennedy 2001, "A simple, fast dominance algorithm").

        Returns:
            Node to the node above it; nodes that the loss does not reach are left out.
        """
        if entries in self._trees:
            return self._trees[entries]
        above = {entry: -1 for entry in entries if self._carries[entry]}
        depth = {-1: 0}
        for node in reversed(self._order):
            if node not in above:
                continue
            depth[node] = depth[above[node]] + 1
            for child in self._children[node]:
                if not self._carries[child]:
                    continue
                first, second = above.setdefault(child, node), node
                while first != second:
                    if depth[first] < depth[second]:
                        second = above[second]
                    else:
                        first = above[first]
                above[child] = first
        self._trees[entries] = above
        return above

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
        entries = [root for root in self.entries if self._carries[root]]
        stretches = [self.of(index)]
        if not 1 < len(entries) <= _MAX_OUTPUTS:
            return stretches
        paths = {e: self.of(index, (e,)) for e in entries}
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
            below = [i for i in self._children[stack.pop()] if i not in seen]
            seen.update(below)
            stack.extend(below)
        return seen

    def of(self, index: int, entries: tuple[int, ...] | None = None) -> list[int]:
        """Return the nodes through which every path from the loss to a node passes.

        Args:
            index: The node.
            entries: Nodes where the loss enters; all of them by default.

        Returns:
            Indices from the node itself up to the output.
        """
        immediate = self._immediate_dominators(entries or tuple(self.entries))
        path = []
        while index in immediate:
            path.append(index)
            index = immediate[index]
        return path
