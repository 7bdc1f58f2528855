"""Factors for starved layers, and the optimizers that undo them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.anatomy import OptimizerFacts
from gradwatch.records import ChainRecord, PointRecord
from gradwatch.remedies.gradient_amplification import GradientAmplification
from gradwatch.testing import make_history, make_step
from tests.remedies.cases import case, chain, offers, refusals

REMEDY = GradientAmplification()
#: Gradient of fc1 ... fc6: half a decade a layer.
NORMS = [10 ** (-0.5 * (6 - i)) for i in range(1, 7)]


def faded(optimizer="SGD", code="GW101"):
    """Return a case whose gradient fades by 2.5 decades."""
    points = tuple(
        PointRecord(f"fc{i}", f"fc{i}", norm) for i, norm in enumerate(NORMS, 1)
    )
    history = make_history(make_step(0, chains=[ChainRecord("fc1", points)]))
    anatomy = replace(
        chain(activation="relu"), optimizer=OptimizerFacts(optimizer, 0.1)
    )
    return replace(case(code, anatomy=anatomy), history=history)


def test_each_layer_gets_what_it_lacks_and_at_most_a_hundred_times():
    """10^2.5 = 316 is cut; the top and its neighbour below lack less than 2 times."""
    (offer,) = offers(REMEDY, faded())
    recipe = REMEDY.recipe(offer)
    assert dict(recipe.gradient_factors) == pytest.approx(
        {"fc1": 100.0, "fc2": 100.0, "fc3": 31.6, "fc4": 10.0, "fc5": 3.16}
    )
    assert recipe.gradient_steps == 1000


def test_its_poor_record_stands_on_it():
    """1 of 36."""
    assert "1 of 36" in offers(REMEDY, faded())[0].record


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop"])
def test_optimizers_that_divide_it_out_are_told(optimizer):
    """A factor changes nothing for them."""
    assert offers(REMEDY, faded(optimizer)) == []
    assert optimizer in refusals(REMEDY, faded(optimizer))[0].reason


def test_it_refuses_without_a_profile_and_for_other_findings():
    """An exploding gradient needs no factor."""
    assert "measured" in refusals(REMEDY, case(anatomy=chain()))[0].reason
    assert offers(REMEDY, faded(code="GW201")) == []


def test_the_code_runs_and_does_what_it_says():
    """The gradient of fc4 is ten times what it was."""
    model = nn.Sequential()
    for i in range(1, 7):
        model.add_module(f"fc{i}", nn.Linear(4, 4))
    signal = torch.randn(3, 4)
    model(signal).sum().backward()
    before = model.fc4.weight.grad.clone()
    model.zero_grad()
    code = offers(REMEDY, faded())[0].code.partition("# after")[0]
    exec(code, {"model": model})
    model(signal).sum().backward()
    torch.testing.assert_close(model.fc4.weight.grad, 10 * before)
