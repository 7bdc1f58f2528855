"""Which norm goes where, and where it would harm."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.remedies.add_normalisation import AddNormalisation
from gradwatch.remedies.norm_layers import groups_of, norm_after, sizes_of
from gradwatch.structure import LayerInfo, ResidualSpan, Role
from tests.remedies.cases import case, chain, offers, refusals, structure_of

REMEDY = AddNormalisation()


def norms(sick):
    """Return the kinds of norm that are offered."""
    return [offer.options["norm"] for offer in offers(REMEDY, sick)]


def test_a_plain_network_gets_batch_norm_then_layer_norm():
    """28 and 21 of 30."""
    sick = case(anatomy=chain(activation="relu"))
    assert norms(sick) == ["batch", "layer"]
    assert "28 of 30" in offers(REMEDY, sick)[0].record


def test_an_explosion_gets_layer_norm_first():
    """16 and 14 of 24."""
    assert norms(case("GW201", anatomy=chain(activation="relu"))) == ["layer", "batch"]


def test_logistic_layers_get_batch_norm_only():
    """Layer norm passes on 0.39 of the gradient a layer there."""
    assert norms(case()) == ["batch"]
    assert "0.39" in refusals(REMEDY, case())[0].reason


def test_deep_plain_networks_get_no_batch_norm():
    """It grows by 1.2 a layer: 95 times over 25 layers."""
    deep = case(anatomy=chain(40, "relu"))
    assert norms(deep) == ["layer"]
    assert "1.2 a layer" in refusals(REMEDY, deep)[0].reason


def test_small_batches_get_no_batch_norm():
    """Its statistics would be noise."""
    anatomy = chain(activation="relu")
    small = case(anatomy=anatomy, structure=structure_of(anatomy, batch_size=4))
    assert norms(small) == ["layer"]
    assert "these have 4" in refusals(REMEDY, small)[0].reason


def test_convolutions_get_batch_and_group_norm():
    """Each with the module of its dimensions."""
    sick = case(anatomy=chain(activation="relu", kind="Conv2d", dims=2))
    batch, group = offers(REMEDY, sick)
    assert "nn.BatchNorm2d(layer.out_channels)" in batch.code
    assert "nn.GroupNorm(32, layer.out_channels)" in group.code


def test_sequences_get_layer_norm():
    """Batch norm would mix time steps."""
    anatomy = chain(activation="relu")
    structure = structure_of(anatomy)
    embedding = LayerInfo("embed", "Embedding", role=Role.EMBEDDING)
    structure = replace(structure, layers={"embed": embedding, **structure.layers})
    assert norms(case(anatomy=anatomy, structure=structure)) == ["layer"]


def test_an_exponential_is_not_tamed_by_a_norm():
    """It must be replaced."""
    sick = case("GW201", anatomy=chain(activation="exp"))
    assert norms(sick) == []
    assert "must be replaced" in refusals(REMEDY, sick)[0].reason


def test_normalised_layers_get_no_second_norm():
    """Whether behind the layer or in front of its branch."""
    anatomy = replace(
        chain(activation="relu", norm="BatchNorm1d"), norms=("norm1", "norm2")
    )
    assert "already" in refusals(REMEDY, case(anatomy=anatomy))[0].reason
    anatomy = replace(chain(activation="relu"), norms=("norm1",))
    span = ResidualSpan("block", tuple(f"fc{i}" for i in range(1, 7)), norm="pre")
    assert norms(case(anatomy=anatomy, spans=(span,))) == []


def test_a_deep_batch_norm_network_that_explodes_is_told_why():
    """The norm is the cause."""
    anatomy = replace(chain(40, "relu", norm="BatchNorm1d"), norms=("norm1",))
    refusal = refusals(REMEDY, case("GW201", anatomy=anatomy))[0]
    assert "batch norm itself" in refusal.reason


def test_zero_weights_are_not_normalised():
    """Their outputs are constant."""
    zero = case("GW103", anatomy=chain(activation="relu", std=0.0))
    assert "all zero" in refusals(REMEDY, zero)[0].reason


def test_post_norm_transformers_get_their_norms_moved():
    """Through the attribute that PyTorch's layers have for it."""
    anatomy = Anatomy(norm_first=("encoder.layers.0", "encoder.layers.1"))
    (offer,) = offers(REMEDY, case(anatomy=anatomy))
    assert offer.options == {"norm": "pre-norm"}
    assert offer.layers == anatomy.norm_first
    assert "norm_first = True" in offer.code


@pytest.mark.parametrize("code", ["GW102", "GW106", "GW204", "GW301"])
def test_it_refuses_what_is_not_its_business(code):
    """Norms change signals along the depth."""
    assert offers(REMEDY, case(code)) == []
    assert len(refusals(REMEDY, case(code))) == 1


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 32), (16, 8), (48, 8), (10, 1), (7, 1), (256, 32)]
)
def test_groups_divide_the_channels(channels, groups):
    """At most 32, of at least two channels."""
    assert groups_of(channels) == groups
    assert channels % groups == 0


def test_sizes_of_something_else_are_an_error():
    """With what to do instead."""
    with pytest.raises(TypeError, match="must be a linear layer"):
        sizes_of(nn.ReLU())


@pytest.mark.parametrize(("kind", "dims"), [("batch", 0), ("layer", 0), ("group", 2)])
def test_a_norm_makes_deviation_one(kind, dims):
    """Of an output 100 times too large."""
    torch.manual_seed(0)
    output = 100 * torch.randn(64, 16, *[4] * dims)
    normed = norm_after(kind, dims, 16)(output)
    assert float(normed.detach().std()) == pytest.approx(1.0, abs=0.01)


def test_the_code_runs_and_does_what_it_says():
    """Pasted below a model with these names."""
    model = nn.Sequential()
    for i in range(1, 7):
        model.add_module(f"fc{i}", nn.Linear(64, 64))
    code = offers(REMEDY, case(anatomy=chain(activation="relu")))[0].code
    exec(code, {"model": model, "nn": nn})
    assert isinstance(model.fc6[1], nn.BatchNorm1d)
    single = offers(REMEDY, case(anatomy=chain(1, "tanh")))[0].code
    model = nn.Sequential()
    model.add_module("fc1", nn.Linear(64, 64))
    exec(single, {"model": model, "nn": nn})
    assert isinstance(model.fc1[1], nn.BatchNorm1d)
