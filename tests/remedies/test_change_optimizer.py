"""Which optimizer takes the place of which, and when none does."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.anatomy import OptimizerFacts
from gradwatch.recipe import Recipe
from gradwatch.remedies.change_optimizer import ChangeOptimizer
from gradwatch.rules import RULES
from gradwatch.testing import make_parameter, make_step
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import ADAM, NAMES, SGD, probe, run

REMEDY = ChangeOptimizer()


def test_small_gradients_ask_for_optimizers_that_divide_by_their_size():
    """Adam first, as it was counted: 4 of 8; Rprop last, with its record."""
    adam, rmsprop, rprop = offers(REMEDY, run("GW101", probe(0)))
    assert adam.options == {"to": "Adam", "lr": 1e-3}
    assert "4 of 8" in adam.record
    assert rmsprop.options["to"] == "RMSprop"
    assert "not counted" in rmsprop.record
    assert rprop.options["to"] == "Rprop"
    assert "2 of 36" in rprop.record
    assert "full batch" in rprop.caution
    assert REMEDY.recipe(adam) == Recipe(optimizer="Adam", lr=1e-3)


@pytest.mark.parametrize("code", ["GW101", "GW301", "GW302"])
def test_every_line_makes_an_optimizer(code):
    """Of the class that it promises, with the weight decay that was in use."""
    for offer in offers(
        REMEDY, run(code, probe(0, 0.5), optimizer=replace(SGD, weight_decay=0.01))
    ):
        scope = {"torch": torch, "model": nn.Linear(2, 2)}
        exec(offer.code, scope)
        made = scope["optimizer"]
        assert type(made).__name__ == offer.options["to"]
        assert made.param_groups[0]["lr"] == 1e-3
        if offer.options["to"] != "Rprop":
            assert made.param_groups[0]["weight_decay"] == 0.01
        assert "was SGD" in offer.code


def test_gradients_below_the_epsilon_are_named():
    """Entries of 1e-9 are divided by 1e-8, not by their size."""
    tiny = [make_parameter(NAMES[0], grad_norm=1e-9 * 4096**0.5)]
    usual = [make_parameter(name) for name in NAMES[1:]]
    record = make_step(0, names=NAMES, parameters=[*tiny, *usual])
    adam = offers(REMEDY, run("GW101", record))[0]
    assert "as small as those of layers.0" in adam.caution
    assert "swallows" not in offers(REMEDY, run("GW101", probe(0)))[0].caution


@pytest.mark.parametrize(("code", "word"), [("GW301", "high"), ("GW302", "low")])
def test_a_rate_that_is_far_off_is_replaced_with_adams(code, word):
    """With the measured ratio and 2 of 2."""
    adam, rmsprop = offers(REMEDY, run(code, probe(0, 0.5)))
    assert f"2 of 2 networks whose rate was too {word}" in adam.record
    assert "50% of its size, where 0.1% is usual" in adam.why
    assert rmsprop.options["to"] == "RMSprop"


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "RMSprop", "Rprop", "NAdam"])
@pytest.mark.parametrize("code", ["GW101", "GW301", "GW302"])
def test_an_adaptive_optimizer_is_not_changed_for_another(kind, code):
    """It says which one is in use."""
    case = run(code, probe(0), optimizer=OptimizerFacts(kind, 0.1, eps=1e-8))
    (refusal,) = refusals(REMEDY, case)
    assert refusal.reason.startswith(f"{kind} is adaptive already")


def test_spikes_under_adam_raise_its_epsilon():
    """From 1e-8 to 1e-6, everything else as it was."""
    optimizer = OptimizerFacts("AdamW", 1e-3, weight_decay=0.1, eps=1e-8)
    (offer,) = offers(REMEDY, run("GW204", probe(0), optimizer=optimizer))
    assert REMEDY.recipe(offer) == Recipe(eps=1e-6)
    scope = {"torch": torch, "model": nn.Linear(2, 2)}
    exec(offer.code, scope)
    (group,) = scope["optimizer"].param_groups
    assert (group["eps"], group["weight_decay"], group["lr"]) == (1e-6, 0.1, 1e-3)


def test_the_epsilon_of_several_groups_is_set_in_place():
    """One line cannot make them."""
    case = run("GW204", probe(0), optimizer=replace(ADAM, num_groups=2))
    made = torch.optim.Adam([{"params": [p]} for p in nn.Linear(2, 2).parameters()])
    exec(offers(REMEDY, case)[0].code, {"optimizer": made})
    assert [group["eps"] for group in made.param_groups] == [1e-6, 1e-6]


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (SGD, "SGD has no epsilon"),
        (replace(ADAM, eps=1e-5), "is 1e-05 already"),
        (None, "No optimizer was seen"),
    ],
)
def test_spikes_without_a_small_epsilon_are_not_its_business(optimizer, words):
    """Then clip."""
    (refusal,) = refusals(REMEDY, run("GW204", probe(0), optimizer=optimizer))
    assert words in refusal.reason


@pytest.mark.parametrize("code", ["GW201", "GW203"])
def test_exploding_networks_are_refused_with_the_record(code):
    """2 of 16."""
    (refusal,) = refusals(REMEDY, run(code, probe(0)))
    assert "2 of 16" in refusal.reason


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        for optimizer in (SGD, ADAM, None):
            assert list(REMEDY.propose(run(rule.code, probe(0), optimizer=optimizer)))
