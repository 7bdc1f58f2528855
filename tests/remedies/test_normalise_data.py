"""Data far from unit scale, and what brings it there."""

from dataclasses import replace

import pytest
import torch

from gradwatch.anatomy import InputFacts
from gradwatch.recommendations import Risk
from gradwatch.remedies.normalise_data import NormaliseData
from gradwatch.remedies.scaling_modules import Rescale, Standardise
from gradwatch.structure import LayerInfo, Role
from tests.remedies.cases import case, chain, offers, refusals, structure_of

REMEDY = NormaliseData()


def fed(mean=0.0, std=1.0, max_abs=4.0, layer="fc1", code="GW201", target=None):
    """Return a case of a model that is fed such data."""
    facts = InputFacts(layer, mean, std, max_abs)
    anatomy = replace(chain(activation="relu"), inputs=(facts,), target_scale=target)
    return case(code, anatomy=anatomy, structure=structure_of(anatomy, heads=("head",)))


@pytest.mark.parametrize(
    ("mean", "std"), [(128.0, 80.0), (5.0, 1.0), (0.0, 1000.0), (0.0, 1e-3)]
)
def test_data_far_from_unit_scale_is_standardised(mean, std):
    """Pixels of 0 to 255, an offset, a factor of 1000, and far too small."""
    (offer,) = offers(REMEDY, fed(mean, std))
    assert offer.layers == ("fc1",)
    assert offer.options == {"what": "inputs", "mean": mean, "std": std}
    assert offer.can_apply


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.29), (1.0, 2.5), (7, 0)])
def test_data_near_unit_scale_is_left_alone(mean, std):
    """Pixels of 0 to 1 among it; a constant is a mask or a blank batch."""
    assert offers(REMEDY, fed(mean, std)) == []
    assert "near unit scale" in refusals(REMEDY, fed(mean, std))[0].reason


def test_an_unknown_reader_is_the_first_layer_of_a_model_with_one_input():
    """With an embedding the user must know."""
    sick = fed(100.0, 50.0, layer="")
    assert offers(REMEDY, sick)[0].layers == ("fc1",)
    embedding = LayerInfo("embed", "Embedding", role=Role.EMBEDDING)
    layers = {**sick.structure.layers, "embed": embedding}
    sick = replace(sick, structure=replace(sick.structure, layers=layers))
    (offer,) = offers(REMEDY, sick)
    assert not offer.can_apply
    assert offer.risk is Risk.ADVICE


def test_inputs_that_are_not_finite_are_named():
    """No network can mend them."""
    (offer,) = offers(
        REMEDY, fed(float("nan"), float("nan"), float("nan"), code="GW205")
    )
    assert "NaN" in offer.title
    assert offer.risk is Risk.ADVICE


def test_a_large_target_scales_the_head_and_the_loss():
    """(y - s f)^2 / s^2 = (y / s - f)^2."""
    (offer,) = offers(REMEDY, fed(target=1e4))
    assert offer.options == {"what": "targets", "scale": 1e4}
    assert offer.layers == ("head",)
    assert REMEDY.recipe(offer).loss_factor == pytest.approx(1e-8)


@pytest.mark.parametrize("code", ["GW101", "GW102", "GW106", "GW302"])
def test_it_refuses_what_is_not_its_business(code):
    """The profile of a fading gradient does not depend on the data's scale."""
    assert offers(REMEDY, fed(100.0, 50.0, code=code)) == []


def test_without_inputs_seen_it_says_so():
    """They are captured only within the limit."""
    assert "not seen" in refusals(REMEDY, case("GW201"))[0].reason


def test_standardised_values_have_mean_zero_and_deviation_one():
    """In the dtype that came, and the module saves with the model."""
    values = torch.tensor([100.0, 200.0, 300.0], dtype=torch.float64)
    module = Standardise(200.0, 100.0)
    expected = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(module(values), expected)
    assert set(module.state_dict()) == {"mean", "std"}
    assert "std=100" in repr(module)


def test_rescaled_values_are_multiples():
    """In the dtype that came."""
    values = torch.ones(2, dtype=torch.bfloat16)
    torch.testing.assert_close(Rescale(8.0)(values), 8 * values)
    assert "scale=8" in repr(Rescale(8.0))
