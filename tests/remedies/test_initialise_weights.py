"""Which weights are drawn anew, from what, and which are left alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.recommendations import Risk
from gradwatch.remedies.initialise_weights import InitialiseWeights
from gradwatch.structure import LayerInfo, ResidualSpan, Role
from tests.remedies.cases import (
    case,
    chain,
    offers,
    refusals,
    spans_of,
    structure_of,
    weight,
)

REMEDY = InitialiseWeights()
HE = (2 / 64) ** 0.5


@pytest.mark.parametrize(
    ("activation", "title"),
    [("relu", "He"), ("leaky_relu", "He"), ("gelu", "He-like"), ("tanh", "Xavier")],
)
def test_weights_too_small_are_drawn_for_the_activation_that_follows(activation, title):
    """PyTorch's default is too small for all of these."""
    first = offers(REMEDY, case(anatomy=chain(activation=activation)))[0]
    assert first.title == f"Draw 6 layers anew, {title}"
    assert first.options == {"init": "matching"}
    assert first.risk is Risk.REINITIALISES
    assert {site.activation for site in first.sites} == {activation}


def test_the_reason_gives_the_decades_that_the_weights_make():
    """6 layers of 0.0722 instead of 0.1768 lose 6 log10(2.45) = 2.3 decades."""
    first = offers(REMEDY, case(anatomy=chain(activation="relu")))[0]
    assert "std 0.072 against 0.18 = sqrt(2 / fan_in) for ReLU" in first.why
    assert "too small by 2.3 decades" in first.why
    assert first.record == "repaired 12 of 13 vanishing networks in our bench"


def test_weights_that_fit_are_not_drawn_again():
    """Within half a decade over all layers."""
    fits = case(anatomy=chain(activation="relu", std=HE * 1.1))
    assert offers(REMEDY, fits) == []
    assert "fit their activations" in refusals(REMEDY, fits)[0].reason


def test_a_small_error_counts_once_it_adds_up():
    """1.1 too large over 30 layers is a factor of 17."""
    deep = case("GW201", anatomy=chain(30, "relu", std=HE * 1.1))
    assert "too large by 1.2 decades" in offers(REMEDY, deep)[0].why


def test_a_large_bias_is_reset_with_its_weights():
    """A ReLU with a bias of -5 is dead whatever its weights are."""
    dead = case("GW103", anatomy=chain(activation="relu", std=HE, bias_mean=-5.0))
    assert "The bias of fc1 has mean -5" in offers(REMEDY, dead)[0].why


def test_logistic_networks_never_get_xavier():
    """Kumar's and Yilmaz & Poli's weights come with their poor record."""
    found = offers(REMEDY, case())
    assert [o.options["init"] for o in found] == ["kumar", "yilmaz-poli"]
    assert ["4 of 12" in found[0].record, "0 of 12" in found[1].record] == [True, True]


def test_tanh_has_an_orthogonal_variant_and_a_word_on_the_gain():
    """PyTorch's calculate_gain('tanh') is 5/3, which explodes in deep networks."""
    first, second = offers(REMEDY, case(anatomy=chain(activation="tanh")))
    assert second.options == {"init": "orthogonal"}
    assert "5/3" in first.caution


def test_layers_in_front_of_a_norm_are_left_out():
    """The norm undoes the scale of their weights."""
    anatomy = chain(activation="relu", norm="BatchNorm1d")
    assert "undoes the scale" in refusals(REMEDY, case(anatomy=anatomy))[0].reason
    mixed = replace(
        anatomy, weights=(*anatomy.weights[:3], *chain(6, "relu").weights[3:])
    )
    assert offers(REMEDY, case(anatomy=mixed))[0].layers == ("fc4", "fc5", "fc6")


def test_a_nan_is_blamed_on_weights_only_if_they_are_far_too_large():
    """A root of a negative number has nothing to do with them."""
    assert offers(REMEDY, case("GW205", anatomy=chain(activation="relu"))) == []
    large = case("GW205", anatomy=chain(activation="relu", std=10 * HE))
    assert len(offers(REMEDY, large)) == 1


def test_saturated_logistic_layers_get_kumars_weights():
    """A negative mean would not bring them out of their flat parts."""
    sick = case("GW104", anatomy=chain(activation="sigmoid", std=5.0))
    assert [o.options["init"] for o in offers(REMEDY, sick)] == ["kumar"]


def test_a_head_is_drawn_only_if_it_is_far_off():
    """More than ten times."""
    anatomy = chain(activation="relu")
    assert "head" not in offers(REMEDY, case(anatomy=anatomy))[0].layers
    head = replace(anatomy.weights[-1], std=5.0)
    anatomy = replace(anatomy, weights=(*anatomy.weights[:-1], head))
    assert offers(REMEDY, case(anatomy=anatomy))[0].layers[-1] == "head"


def test_equal_units_can_only_be_drawn_anew():
    """The layers of the finding, whatever their activation."""
    anatomy = chain(activation="sigmoid", std=0.0)
    (offer,) = offers(REMEDY, case("GW108", anatomy=anatomy))
    assert offer.layers == ("fc1", "fc2")
    assert "Only random weights part them" in offer.why


def test_only_zero_weights_are_reconnected():
    """GW106 has other causes: an optimizer that does not own the layer."""
    assert offers(REMEDY, case("GW106")) == []
    anatomy = chain(activation="relu", std=0.0)
    assert len(offers(REMEDY, case("GW106", anatomy=anatomy))) == 1


def test_units_that_died_in_training_are_not_only_drawn_anew():
    """The learning rate killed them and would again."""
    dead = case("GW103", anatomy=chain(activation="relu"), since_step=50)
    assert offers(REMEDY, dead) == []
    assert "step 50" in refusals(REMEDY, dead)[0].reason


def residual(norm=False, kind="Linear"):
    """Return the case of an exploding stream of four blocks of two layers."""
    names = [f"blocks.{i}.{n}" for i in range(4) for n in "ab"]
    anatomy = chain(2, "relu", std=HE)
    layers = tuple(weight(n, "relu", std=HE, kind=kind) for n in names)
    anatomy = replace(anatomy, weights=(*layers, anatomy.weights[-1]))
    spans = spans_of(4)
    structure = structure_of(anatomy, spans)
    if norm:
        spans = tuple(
            ResidualSpan(s.label, (*s.body, f"{s.label}.norm")) for s in spans
        )
        norms = {
            f"blocks.{i}.norm": LayerInfo("n", "BatchNorm1d", role=Role.NORM)
            for i in range(4)
        }
        structure = replace(
            structure, spans=spans, layers={**structure.layers, **norms}
        )
    return case("GW201", anatomy=anatomy, structure=structure)


def test_an_exploding_residual_stream_gets_scaled_branches():
    """1/sqrt(4) on the last layer of each branch, then zero."""
    scaled, zero = offers(REMEDY, residual())
    assert scaled.options == {"init": "scale-branches", "scale": 0.5}
    assert scaled.layers == tuple(f"blocks.{i}.b" for i in range(4))
    assert zero.options == {"init": "zero-branches", "scale": 0.0}


def test_a_norm_at_the_end_of_a_branch_is_scaled_in_its_place():
    """It would undo the scale of the weight before it."""
    assert offers(REMEDY, residual(norm=True))[0].layers[0] == "blocks.0.norm"


def test_attention_is_scaled_at_its_output_projection():
    """nn.MultiheadAttention owns no `weight`."""
    found = offers(REMEDY, residual(kind="MultiheadAttention"))
    assert found[0].layers[0] == "blocks.0.b.out_proj"


@pytest.mark.parametrize("code", ["GW102", "GW107", "GW204", "GW301", "GW302"])
def test_it_refuses_what_is_not_its_business(code):
    """With a reason of its own for each."""
    assert offers(REMEDY, case(code)) == []
    assert refusals(REMEDY, case(code))[0].reason.endswith(".")


def test_the_code_runs_and_does_what_it_says():
    """Pasted below a model with these names."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for i in range(1, 7):
        model.add_module(f"fc{i}", nn.Linear(64, 64))
    exec(
        offers(REMEDY, case(anatomy=chain(activation="relu")))[0].code,
        vars() | {"nn": nn},
    )
    assert float(model.fc6.weight.detach().std()) == pytest.approx(HE, rel=0.05)
    blocks = nn.ModuleList(
        nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}) for _ in range(4)
    )
    model = nn.ModuleDict({"blocks": blocks})
    before = blocks[3]["b"].weight.detach().clone()
    exec(offers(REMEDY, residual())[0].code, {"model": model, "torch": torch})
    torch.testing.assert_close(blocks[3]["b"].weight.detach(), before / 2)
