"""The repair bench: what counts as repaired, which treatments are the same one."""

import pytest
import torch

from benchmarks.faults import labels
from benchmarks.faults.catalogue import SETUPS
from benchmarks.repair import menu, rivals, treating
from benchmarks.repair.keys import distinct, key_of
from benchmarks.repair.outcomes import Scale, scales
from gradwatch.recommendations import Recommendation, Risk


@pytest.fixture(scope="module")
def seen():
    """Return what a watched run of a sick set-up gives."""
    torch.set_num_threads(1)
    return menu.watch(_setup("mlp-sigmoid-10-sgd"), 3)


def _setup(name):
    return next(setup for setup in SETUPS if setup.name == name)


def offer(remedy="x", **options):
    """Return a recommendation of some options."""
    return Recommendation(
        remedy, "t", ("GW101",), ("0",), "w", "c", Risk.SAFE, options=options
    )


def test_every_task_has_a_scale_on_which_chance_is_worse_than_the_reference():
    """Progress would be meaningless otherwise."""
    for task, scale in scales().items():
        assert scale.reference < scale.chance, task


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (2.3, 0.3, True),  # .87 of the way, .87 of the gap
        (2.3, 0.8, False),  # .65 of the way
        (2.3, 0.6, False),  # .74 of the way, .74 of the gap
        (100.0, 0.6, True),  # .74 of the way, .994 of the gap
        (None, 0.6, True),  # not finite before: progress alone
        (2.3, None, False),
    ],
)
def test_repaired_means_far_enough_and_the_gap_closed(before, after, expected):
    """0.7 of the way from chance to the reference and 0.8 of the gap (facts C)."""
    assert Scale(chance=2.3, reference=0.0).repaired(before, after) is expected


def test_a_scaled_task_gives_the_same_verdict():
    """Losses a thousand times larger, chance and reference too."""
    small, large = Scale(2.3, 0.1), Scale(2300.0, 100.0)
    for after in (0.2, 0.7, 1.5):
        assert small.repaired(2.3, after) is large.repaired(2300.0, 1000 * after)


def test_a_treated_healthy_run_that_ends_higher_is_worse():
    """By more than healthy seeds differ."""
    scale = Scale(2.3, 0.0)
    assert scale.worse(0.1, 1.0)
    assert scale.worse(0.1, None)
    assert not scale.worse(0.1, 0.15)


def test_the_same_treatment_has_the_same_key():
    """The order of options and the last digits of a measured value do not matter."""
    assert key_of(offer(a=1, b=0.12345)) == key_of(offer(b=0.12349, a=1))
    assert key_of(offer(a=1)) != key_of(offer(a=2))
    assert len(distinct([offer(a=1), offer(a=1), offer(a=2)])) == 2


def test_the_menu_is_wider_than_the_offers_and_begins_with_them(seen):
    """Everything any remedy has for this network, what it must not offer too."""
    offers, everything = seen.offers(), seen.menu()
    assert everything[: len(offers)] == offers
    remedies = {item.remedy for item in everything}
    assert "clip-gradients" in remedies - {item.remedy for item in offers}


def test_an_untreated_run_is_the_frozen_one():
    """Training through the bench is training as it was labelled."""
    setup = _setup("mlp-sigmoid-10-sgd")
    end = treating.end_of(setup, 0, ())
    frozen = labels.load()[setup.name].final_losses[0]
    assert end == pytest.approx(frozen, rel=1e-3)


def test_the_first_offer_repairs_what_nothing_of_folklore_does(seen):
    """The bench's own claim on one set-up, trained for real."""
    setup = _setup("mlp-sigmoid-10-sgd")
    scale = scales()[setup.task]
    first = treating.end_of(setup, 3, (seen.offers()[0],))
    assert scale.repaired(seen.final, first)
    clip = next(o for o in seen.menu() if o.remedy == "clip-gradients")
    assert not scale.repaired(seen.final, treating.end_of(setup, 3, (clip,)))


def test_what_cannot_be_applied_is_a_result_and_no_crash(seen):
    """An error is kept as text."""
    wrong = offer("swap-activation", to="no such activation", init="he")
    result = treating.end_of(_setup("mlp-sigmoid-10-sgd"), 3, (wrong,))
    assert isinstance(result, str)


def test_rivals_get_the_best_variant_that_the_menu_has(seen):
    """Folklore says ReLU, batch norm, clipping, in that order, whatever is sick."""
    names = [o.remedy for o in rivals.folk(seen.menu())]
    assert names == ["swap-activation", "add-normalisation", "clip-gradients"]
    order = rivals.autotrainer(seen.alarms, seen.menu())
    assert order[0].options["to"] == "selu"


def test_chance_is_the_same_for_the_same_set_up(seen):
    """A random order that can be told again."""
    everything = seen.menu()
    first, again = rivals.chance("a", everything), rivals.chance("a", everything)
    assert first == again
    assert {key_of(o) for o in first} == {key_of(o) for o in everything}
