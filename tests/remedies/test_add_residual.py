"""Which layers get a shortcut, and how their branches are scaled."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.recommendations import Risk
from gradwatch.records import ChainRecord, PointRecord
from gradwatch.remedies.add_residual import AddResidual
from gradwatch.structure import LayerInfo, ResidualSpan, Role
from gradwatch.testing import make_history, make_step
from tests.remedies.cases import case, chain, offers, refusals

REMEDY = AddResidual()


def with_layer(anatomy, place, **fields):
    """Return an anatomy with other fields of one weight layer."""
    weights = list(anatomy.weights)
    weights[place] = replace(weights[place], **fields)
    return replace(anatomy, weights=tuple(weights))


def test_the_variants_come_in_the_order_of_their_record():
    """30 and 26 of 30; the learned one was not counted."""
    found = offers(REMEDY, case(anatomy=chain(9, "relu")))
    assert [o.options["variant"] for o in found] == ["pre-norm", "scaled", "learned"]
    assert found[1].options["scale"] == pytest.approx(1 / 3)
    assert found[2].options["scale"] == 0.0
    assert found[0].risk is Risk.REINITIALISES
    assert found[1].risk is Risk.RESHAPES


def test_an_explosion_gets_the_branch_from_zero_before_the_scaled_one():
    """With exploding weights a scaled branch repaired 2 of 24."""
    found = offers(REMEDY, case("GW201", anatomy=chain(activation="relu")))
    assert [o.options["variant"] for o in found] == ["pre-norm", "learned", "scaled"]
    assert "2 of 24" in found[2].record


def test_an_exponential_branch_is_only_rebuilt():
    """Beside a shortcut it explodes as well."""
    found = offers(REMEDY, case("GW203", anatomy=chain(activation="exp")))
    assert [o.options["variant"] for o in found] == ["pre-norm"]


def test_layers_that_change_the_shape_are_left_out():
    """The first layer of most networks does."""
    anatomy = with_layer(chain(5, "relu"), 0, keeps_shape=False, in_size=784)
    assert offers(REMEDY, case(anatomy=anatomy))[0].layers == (
        "fc2",
        "fc3",
        "fc4",
        "fc5",
    )


def test_the_layer_that_reads_the_data_needs_no_way_past_it():
    """Nothing below it learns; behind an embedding something does."""
    sick = case(anatomy=chain(5, "relu"))
    points = tuple(PointRecord(f"fc{i}", f"fc{i}", 1.0) for i in range(1, 6))
    history = make_history(make_step(0, chains=[ChainRecord("fc1", points)]))
    sick = replace(sick, history=history)
    assert offers(REMEDY, sick)[0].layers == ("fc2", "fc3", "fc4", "fc5")
    embedding = LayerInfo("embed", "Embedding", role=Role.EMBEDDING)
    layers = {**sick.structure.layers, "embed": embedding}
    sick = replace(sick, structure=replace(sick.structure, layers=layers))
    assert offers(REMEDY, sick)[0].layers[0] == "fc1"


def test_short_runs_get_none():
    """Two layers, a change of width, two layers."""
    anatomy = with_layer(chain(5, "relu"), 2, keeps_shape=False)
    assert offers(REMEDY, case(anatomy=anatomy)) == []
    assert (
        "No 3 hidden layers in a row"
        in refusals(REMEDY, case(anatomy=anatomy))[0].reason
    )


def test_a_network_with_shortcuts_gets_no_second_ones():
    """Its layers stand on branches already."""
    span = ResidualSpan("block", tuple(f"fc{i}" for i in range(1, 7)))
    sick = case(anatomy=chain(activation="relu"), spans=(span,))
    assert offers(REMEDY, sick) == []
    assert "1 residual sum already" in refusals(REMEDY, sick)[0].reason


@pytest.mark.parametrize("code", ["GW102", "GW103", "GW204", "GW301"])
def test_it_refuses_what_is_not_its_business(code):
    """Shortcuts act along the depth."""
    assert offers(REMEDY, case(code)) == []
    assert len(refusals(REMEDY, case(code))) == 1


@pytest.mark.parametrize(("place", "gain"), [(0, 1.0), (1, 1.0), (2, 0.0)])
def test_the_code_runs_and_does_what_it_says(place, gain):
    """Pasted below a model of linear layers with the identity as weights and ReLUs.

    A positive signal becomes (1 + 1/sqrt(L))^L times itself, or stays (learned).
    """
    model = nn.Sequential()
    for i in range(1, 7):
        layer = nn.Linear(64, 64, bias=False)
        nn.init.eye_(layer.weight)
        model.add_module(f"fc{i}", layer)
        model.add_module(f"act{i}", nn.ReLU())
    code = offers(REMEDY, case(anatomy=chain(activation="relu")))[place].code
    exec(code, {"model": model, "nn": nn, "torch": torch, "zip": zip})
    signal = torch.rand(2, 64)
    if place == 0:  # pre-norm with He weights: each branch adds about 1/sqrt(6)
        grown = model(signal) - signal
        assert 0.5 < float(grown.detach().pow(2).mean().sqrt()) < 2.0
        assert isinstance(model.fc6.norm, nn.LayerNorm)
    else:
        factor = (1 + gain * round(6**-0.5, 3)) ** 6
        torch.testing.assert_close(model(signal), factor * signal)


def test_a_function_is_named_with_its_line():
    """There is no module to exchange."""
    found = offers(REMEDY, case(anatomy=chain(activation="relu", functional=True)))
    assert found[1].where == "net.py:12"
    assert "x = x + 0.408 * torch.relu(layer(x))" in found[1].code
