"""Blocks that repeat, depth as the gradient sees it, branches without a norm."""

from dataclasses import replace

import torch
from torch import nn

from gradwatch.records import ChainRecord, PointRecord
from gradwatch.remedies.blocks import bare_branches, depth_of, repeated_blocks
from gradwatch.remedies.residual_code import block_code
from gradwatch.structure import ResidualSpan, Role
from gradwatch.testing import make_history, make_step
from tests.remedies.cases import case, chain, structure_of, weight


def blocks_of(count, *names, **fields):
    """Return the anatomy of blocks of layers."""
    layers = [weight(f"blocks.{i}.{n}", **fields) for i in range(count) for n in names]
    base = chain(1, "relu")
    return replace(base, weights=(*layers, base.weights[-1]), sites=())


def test_equal_siblings_one_after_the_other_are_blocks():
    """The outermost level that repeats."""
    anatomy = blocks_of(4, "up.0", "up.1", "down")
    found = repeated_blocks(structure_of(anatomy), anatomy, 3)
    assert found == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    assert repeated_blocks(structure_of(anatomy), anatomy, 5) == []


def test_blocks_that_change_the_width_or_run_in_parallel_are_none():
    """A shortcut would not fit, or would skip one expert only."""
    anatomy = blocks_of(4, "up", out_size=128)
    assert repeated_blocks(structure_of(anatomy), anatomy, 3) == []
    anatomy = blocks_of(4, "up", "down")
    structure = structure_of(anatomy)
    layers = {n: replace(i, role=Role.BRANCH) for n, i in structure.layers.items()}
    assert repeated_blocks(replace(structure, layers=layers), anatomy, 3) == []


def test_depth_is_that_of_the_trunk():
    """Parallel experts do not make a network deeper."""
    sick = case(anatomy=chain(40, "relu"))
    assert depth_of(sick) == 41
    points = tuple(PointRecord(f"p{i}", f"p{i}", 1.0) for i in range(5))
    history = make_history(make_step(0, chains=[ChainRecord("p0", points)]))
    assert depth_of(replace(sick, history=history)) == 5


def test_only_branches_without_any_norm_are_bare():
    """And only where each layer's input can be normalised."""
    anatomy = blocks_of(3, "a", "b")
    spans = tuple(
        ResidualSpan(f"{i}", (f"blocks.{i}.a", f"blocks.{i}.b")) for i in range(3)
    )
    structure = structure_of(anatomy, spans)
    assert len(bare_branches(structure, anatomy)) == 6
    normed = tuple(replace(span, norm="pre") for span in spans)
    assert bare_branches(replace(structure, spans=normed), anatomy) == []
    attention = blocks_of(3, "a", "b", kind="MultiheadAttention")
    assert bare_branches(structure, attention) == []


def test_the_code_of_a_block_runs_and_does_what_it_says():
    """With a factor of 0 the network is what is around the blocks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), *(nn.Linear(4, 4) for _ in range(4)))
    signal = torch.randn(3, 4)
    expected = model[0](signal)
    code = block_code(
        [str(i) for i in range(1, 5)], "nn.LayerNorm(4)", 0.0, learned=True
    )
    exec(code, {"model": model, "nn": nn, "torch": torch})
    torch.testing.assert_close(model(signal), expected)
    assert model[1].scale.requires_grad
