"""Dead units: what is drawn anew, and when the learning rate is to blame."""

from dataclasses import replace

import pytest

from gradwatch.anatomy import OptimizerFacts
from gradwatch.remedies.revive_units import ReviveUnits
from tests.remedies.cases import case, chain, finding, offers, refusals

REMEDY = ReviveUnits()
HE = (2 / 64) ** 0.5


def relus(**fields):
    """Return a ReLU chain with He weights."""
    return chain(activation="relu", std=HE, **fields)


def test_units_dead_from_the_start_get_he_weights_then_leaky_relu():
    """3 of 5; a lower rate does not bring them back."""
    first, second = offers(REMEDY, case("GW103", anatomy=relus()))
    assert first.options == {"to": "relu"}
    assert second.options == {"to": "leaky_relu"}
    assert first.layers == ("fc1", "fc2")
    assert "3 of 5" in first.record
    assert REMEDY.recipe(first).lr_factor == 1.0


def test_units_that_died_in_training_get_a_lower_rate_too():
    """New weights alone repaired none of the two."""
    anatomy = replace(relus(), optimizer=OptimizerFacts("Adam", 0.1))
    found = offers(REMEDY, case("GW103", anatomy=anatomy, since_step=50))
    assert all(REMEDY.recipe(o).lr_factor == 0.01 for o in found)
    assert "learning rate 0.1 -> 0.001" in found[0].title
    assert 'group["lr"] *= 0.01' in found[0].code
    assert "by step 50" in found[0].why


def test_at_the_second_look_both_are_possible():
    """One step with a large rate may have killed them."""
    found = offers(REMEDY, case("GW103", anatomy=relus(), since_step=1))
    assert [REMEDY.recipe(o).lr_factor for o in found] == [1.0, 1.0, 0.01]


def test_layers_that_are_as_badly_off_are_drawn_too():
    """A weight ten times too large above, a bias of -3 below."""
    anatomy = relus()
    weights = list(anatomy.weights)
    weights[3] = replace(weights[3], std=10 * HE)
    weights[5] = replace(weights[5], bias_mean=-3.0)
    anatomy = replace(anatomy, weights=tuple(weights))
    first = offers(REMEDY, case("GW103", anatomy=anatomy))[0]
    assert first.layers == ("fc1", "fc2", "fc4", "fc6")
    assert "The bias of fc6 has mean -3" in first.why


def test_a_large_rate_is_answered_where_it_killed_units():
    """GW301 names this remedy too."""
    sick = case("GW301", anatomy=relus())
    assert offers(REMEDY, sick) == []
    sick = replace(sick, findings=(finding("GW103", since_step=20),))
    assert REMEDY.recipe(offers(REMEDY, sick)[0]).lr_factor == 0.01


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_other_activations_do_not_die(activation):
    """They saturate."""
    sick = case("GW103", anatomy=chain(activation=activation))
    assert offers(REMEDY, sick) == []
    assert "do not die" in refusals(REMEDY, sick)[0].reason
