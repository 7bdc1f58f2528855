"""A search without gradients: for how few weights it is worth a word."""

from types import MappingProxyType

import pytest
import torch
from torch import nn

from gradwatch.recommendations import Risk
from gradwatch.remedies.weight_search import WeightSearch
from gradwatch.rules import RULES
from gradwatch.structure import LayerInfo, Structure
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import run

REMEDY = WeightSearch()


def network_of(count):
    """Return the structure of one layer with so many weights."""
    layer = LayerInfo("fc", "Linear", order=0, is_weight=True, num_parameters=count)
    return Structure(layers=MappingProxyType({"fc": layer}))


@pytest.mark.parametrize("code", ["GW101", "GW102"])
def test_few_weights_may_be_searched(code):
    """As advice, with the number and the price."""
    (offer,) = offers(REMEDY, run(code, structure=network_of(500)))
    assert offer.risk is Risk.ADVICE
    assert not offer.can_apply
    assert "500 weights" in offer.title
    assert "Almost never" in offer.caution


def test_many_weights_may_not():
    """Each step would cost as many forward passes."""
    (refusal,) = refusals(REMEDY, run("GW101", structure=network_of(20_000)))
    assert "20,000 weights are too many" in refusal.reason


def test_an_unknown_number_is_said():
    """No structure yet."""
    (refusal,) = refusals(REMEDY, run("GW101", structure=Structure()))
    assert "not known" in refusal.reason


def test_the_lines_find_a_minimum():
    """A line through points, without one backward pass."""
    torch.manual_seed(0)
    (offer,) = offers(REMEDY, run("GW101", structure=network_of(4)))
    model = nn.Linear(3, 1)
    batch = torch.randn(64, 3)
    target = batch @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3

    def loss_fn(output, target):
        return ((output - target) ** 2).mean()

    with torch.no_grad():
        before = float(loss_fn(model(batch), target))
    scope = {"torch": torch, "model": model, "batch": batch, "target": target}
    exec(
        offer.code.replace("range(1000)", "range(60)").replace("0.01", "0.1"),
        scope | {"loss_fn": loss_fn},
    )
    with torch.no_grad():
        assert float(loss_fn(model(batch), target)) < 0.1 * before
    assert model.weight.grad is None


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(run(rule.code)))
