"""Which decay holds weights that grow, and when it comes too late."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.anatomy import OptimizerFacts
from gradwatch.recipe import Recipe
from gradwatch.remedies.weight_decay import WeightDecay
from gradwatch.rules import RULES
from gradwatch.testing import make_chain
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import SGD, probe, run

REMEDY = WeightDecay()


def growing(code="GW201", times=2.0, steps=1000, **fields):
    """Return a run in which the weights grow evenly, at a rate of 0.1."""
    last = probe(steps, rms=0.1 * times, lr=0.1)
    return run(code, probe(0, lr=0.1), last, **fields)


@pytest.mark.parametrize("code", ["GW201", "GW202", "GW203", "GW205"])
def test_the_decay_balances_the_measured_growth(code):
    """A step of SGD takes rate times decay off; log(2) / 1000 is what it gains."""
    (offer,) = offers(REMEDY, growing(code))
    balance = math.log(2.0) / 1000 / 0.1
    assert offer.options["weight_decay"] == pytest.approx(balance, rel=0.02)
    assert REMEDY.recipe(offer) == Recipe(weight_decay=offer.options["weight_decay"])
    assert "grown 2 times in 1,000 steps" in offer.why.replace("1000", "1,000")


def test_the_balance_holds_a_weight_that_would_grow():
    """Simulated: w -> w * (1 + growth - rate * decay), a thousand times."""
    (offer,) = offers(REMEDY, growing())
    factor = 1 + math.log(2.0) / 1000 - 0.1 * offer.options["weight_decay"]
    assert factor**1000 == pytest.approx(1.0, abs=0.02)


def test_adam_becomes_adamw():
    """L2 in Adam is divided by the gradient's size."""
    adam = OptimizerFacts("Adam", 0.1, eps=1e-8)
    (offer,) = offers(REMEDY, growing(optimizer=adam))
    recipe = REMEDY.recipe(offer)
    assert (recipe.optimizer, recipe.lr) == ("AdamW", 0.1)
    scope = {"torch": torch, "model": nn.Linear(2, 2)}
    exec(offer.code, scope)
    assert isinstance(scope["optimizer"], torch.optim.AdamW)
    assert scope["optimizer"].param_groups[0]["weight_decay"] == recipe.weight_decay


def test_the_lines_set_the_decay_of_every_group():
    """Where one line cannot make the optimizer."""
    (offer,) = offers(REMEDY, growing(optimizer=replace(SGD, num_groups=2)))
    made = torch.optim.SGD([{"params": [p]} for p in nn.Linear(2, 2).parameters()], 0.1)
    exec(offer.code, {"optimizer": made})
    decays = {group["weight_decay"] for group in made.param_groups}
    assert decays == {offer.options["weight_decay"]}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (growing(times=1.1), "is 1.1 times what it was"),
        (growing(times=50.0, steps=10), "too late"),
        (growing(times=math.inf), "no longer finite"),
        (growing(optimizer=replace(SGD, weight_decay=0.05)), "0.05 is in use"),
        (run("GW201", probe(0)), "not measured at two probes"),
        (
            run(
                "GW201",
                probe(0, chains=[make_chain(decades=-4.0)]),
                probe(1000, rms=0.2),
            ),
            "4.0 decades along the depth before the first step",
        ),
    ],
    ids=["steady", "fast", "overflown", "in use", "one probe", "from the start"],
)
def test_it_is_refused_where_it_does_not_help(case, words):
    """With the number that says so."""
    assert not offers(REMEDY, case)
    assert words in refusals(REMEDY, case)[0].reason


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(growing(rule.code)))
