"""Which factor the learning rate gets, and when it is not at fault."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from gradwatch.anatomy import Anatomy, OptimizerFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Risk
from gradwatch.remedies.adjust_learning_rate import AdjustLearningRate, warmup_steps
from gradwatch.rules import RULES
from gradwatch.testing import make_pulses
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import ADAM, SGD, probe, run, spiky, updates_of

REMEDY = AdjustLearningRate()


@pytest.mark.parametrize(
    ("code", "ratio"), [("GW301", 0.5), ("GW301", 30.0), ("GW302", 2e-6)]
)
def test_the_factor_brings_the_update_ratio_to_a_thousandth(code, ratio):
    """Lr * 1e-3 / u; the ratio is proportional to the rate, for SGD as for Adam."""
    first, *_ = offers(REMEDY, run(code, probe(0, ratio), probe(50, ratio)))
    assert first.options["factor"] * ratio == pytest.approx(1e-3)
    assert REMEDY.recipe(first) == Recipe(lr_factor=1e-3 / ratio)
    assert first.risk is Risk.SAFE


def test_the_ratio_that_was_judged_counts_not_the_newest():
    """Weights that have blown up make the newest ratio look healthy."""
    case = run("GW301", probe(0, 0.5), probe(50, 1e-3), evidence=updates_of(0.5))
    (offer,) = offers(REMEDY, case)
    assert offer.options["factor"] == pytest.approx(2e-3)


def test_one_odd_probe_does_not_set_the_factor():
    """The median of the newest three counts."""
    case = run("GW301", probe(0, 0.2), probe(1, 0.2), probe(2, 9.0))
    assert offers(REMEDY, case)[0].options["factor"] == pytest.approx(5e-3)


@pytest.mark.parametrize("ratio", [1e-12, 1e12])
def test_the_factor_is_bounded(ratio):
    """A hundred thousand either way."""
    (offer,) = offers(REMEDY, run("GW302", probe(50, ratio)))
    assert offer.options["factor"] in {1e5, 1e-5}


@pytest.mark.parametrize("code", ["GW301", "GW302"])
def test_usual_and_unmeasured_updates_are_refused(code):
    """Nothing to adjust."""
    (usual,) = refusals(REMEDY, run(code, probe(0, 2e-3)))
    assert "0% of its size, which is usual" in usual.reason
    (unknown,) = refusals(REMEDY, run(code, probe(0, None)))
    assert "No applied update" in unknown.reason


def test_the_lines_make_the_users_own_optimizer():
    """Its class, its momentum, the new rate; and what it was."""
    (offer,) = offers(REMEDY, run("GW301", probe(0, 0.5, lr=0.1)))
    assert offer.title == "Lower the learning rate from 0.1 to 0.0002"
    assert offer.code == (
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.0002, momentum=0.9)"
        "  # lr was 0.1"
    )
    model = nn.Linear(2, 2)
    scope = {"torch": torch, "model": model}
    exec(offer.code, scope)
    assert scope["optimizer"].param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    "optimizer", [replace(SGD, num_groups=2), OptimizerFacts("Lion", 0.1), None]
)
def test_groups_and_other_optimizers_are_changed_in_place(optimizer):
    """One line cannot make them."""
    (offer,) = offers(REMEDY, run("GW301", probe(0, 0.5, lr=0.1), optimizer=optimizer))
    model = nn.Linear(2, 2)
    made = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    exec(offer.code, {"optimizer": made})
    assert [group["lr"] for group in made.param_groups] == pytest.approx([2e-4] * 2)


def test_weights_that_have_grown_ask_for_a_new_start():
    """A smaller step does not undo what large ones did."""
    (grown,) = offers(REMEDY, run("GW301", probe(0, 0.5), probe(9, 0.5, rms=40.0)))
    assert "grown 400 times" in grown.caution
    assert "from the beginning" in grown.caution
    (steady,) = offers(REMEDY, run("GW301", probe(0, 0.5), probe(9, 0.5)))
    assert not steady.caution


def test_spikes_halve_the_rate():
    """And say how many there were."""
    (offer,) = offers(REMEDY, run("GW204", probe(100), pulses=spiky()))
    assert offer.options == {"factor": 0.5}
    assert offer.why.startswith("3 sudden jumps in this run")


@pytest.mark.parametrize(("optimizer", "count"), [(ADAM, 2), (SGD, 1)])
def test_post_norm_transformers_warm_up_under_adaptive_optimizers(optimizer, count):
    """After the factor, which repaired three of three."""
    anatomy = Anatomy(optimizer=optimizer, norm_first=("encoder.0", "encoder.1"))
    found = offers(REMEDY, run("GW301", probe(0, 0.5), anatomy=anatomy))
    assert len(found) == count
    if count == 2:
        assert "encoder.0 and encoder.1" in found[1].why
        # A warm-up to the same rate would only put the trouble off.
        assert REMEDY.recipe(found[1]) == Recipe(lr_factor=2e-3, warmup_steps=100)
        assert "lr=2e-05" in found[1].code


def test_the_lines_of_a_warm_up_run():
    """The rate rises linearly from a hundredth of itself to itself."""
    anatomy = Anatomy(optimizer=ADAM, norm_first=("encoder.0",))
    offer = offers(REMEDY, run("GW204", probe(0), anatomy=anatomy))[0]
    model = nn.Linear(2, 2)
    scope = {"torch": torch, "optimizer": torch.optim.Adam(model.parameters(), lr=1.0)}
    before, _, each_step = offer.code.partition("# after every optimizer.step()\n")
    exec(before, scope)
    rates = []
    for _ in range(101):
        rates.append(scope["optimizer"].param_groups[0]["lr"])
        scope["optimizer"].step()
        exec(each_step, scope)
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(1.0)
    steps = [b - a for a, b in pairwise(rates)]
    assert max(steps) - min(steps) < 1e-6


@pytest.mark.parametrize(
    ("seen", "steps"), [(-1, 100), (500, 100), (9000, 900), (10**6, 2000)]
)
def test_a_warm_up_is_a_tenth_of_the_steps_seen_within_bounds(seen, steps):
    """At most 2 / (1 - beta2) of Adam."""
    assert warmup_steps(seen) == steps


def test_units_that_died_in_training_ask_for_a_hundredth_of_the_rate():
    """Those that were dead from the start do not."""
    died = run("GW103", probe(0, 0.02), since_step=50)
    (offer,) = offers(REMEDY, died)
    assert offer.options == {"factor": 0.01}
    assert "revive-units" in offer.caution
    (refusal,) = refusals(REMEDY, run("GW103", probe(0, 0.02), since_step=0))
    assert "dead from the start" in refusal.reason
    assert offers(REMEDY, run("GW103", probe(0, 0.5), since_step=0))


@pytest.mark.parametrize("code", ["GW104", "GW205"])
def test_saturation_and_nan_blame_the_rate_only_after_large_updates(code):
    """The largest update seen decides."""
    (offer,) = offers(REMEDY, run(code, probe(0, 0.5), probe(1, 1e-3)))
    assert offer.options["factor"] == pytest.approx(2e-3)
    (refusal,) = refusals(REMEDY, run(code, probe(0, 0.01)))
    assert "more than 1% of its size" in refusal.reason


@pytest.mark.parametrize(
    "code",
    ["GW101", "GW102", "GW105", "GW106", "GW107", "GW108", "GW201", "GW202", "GW203"],
)
def test_what_no_rate_cures_is_refused_even_after_large_updates(code):
    """With the record where there is one."""
    case = run(code, probe(0, 0.5), pulses=make_pulses([1.0] * 20))
    assert not offers(REMEDY, case)
    assert len(refusals(REMEDY, case)) == 1


def test_the_record_of_exploding_networks_is_told():
    """0 of 21 and 0 of 27 (facts C)."""
    (refusal,) = refusals(REMEDY, run("GW201", probe(0, 0.5)))
    assert "0 of 21" in refusal.reason
    assert "0 of 27" in refusal.reason


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(run(rule.code, probe(0, 0.5))))
