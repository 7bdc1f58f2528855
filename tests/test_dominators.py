"""Dominators of an acyclic graph, against a reference and the definition."""

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.dominators import Dominators


@st.composite
def graphs(draw):
    """Return children by node, nodes numbered from the outputs down, and carriers."""
    count = draw(st.integers(1, 12))
    children = [
        sorted(draw(st.sets(st.integers(node + 1, count), max_size=3)))
        for node in range(count)
    ]
    children.append([])
    carries = draw(st.lists(st.booleans(), min_size=count + 1, max_size=count + 1))
    entries = draw(st.lists(st.integers(0, count), min_size=1, unique=True))
    return children, carries, entries


@given(graphs())
def test_one_pass_finds_what_the_general_algorithm_finds(drawn):
    """The same nodes in the same order as from networkx's immediate dominators."""
    children, carries, entries = drawn
    graph = nx.DiGraph()
    graph.add_node(-1)
    graph.add_edges_from((-1, entry) for entry in entries if carries[entry])
    for node, below in enumerate(children):
        graph.add_edges_from(
            (node, child) for child in below if carries[node] and carries[child]
        )
    above = nx.immediate_dominators(graph, -1)
    order = list(reversed(range(len(children))))
    dominators = Dominators(children, carries, entries, order)
    for node in range(len(children)):
        path, at = [], node
        while at in above and at != -1:
            path.append(at)
            at = above[at]
        assert dominators.of(node) == path


def test_a_skip_path_has_no_dominator_of_its_own():
    """In a diamond 0 -> 1, 2 -> 3 only the top and the bottom are on every path."""
    dominators = Dominators([[1, 2], [3], [3], []], [True] * 4, [0], [3, 1, 2, 0])
    assert dominators.of(3) == [3, 0]


def test_an_entry_below_another_is_dominated_by_neither():
    """The loss reaches node 1 from node 0 and by a way of its own."""
    dominators = Dominators([[1], [2], []], [True] * 3, [0, 1], [2, 1, 0])
    assert dominators.of(2) == [2, 1]
