"""GW104: saturated outputs."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.saturated_activation import SaturatedActivation
from gradwatch.settings import Settings
from gradwatch.structure import Role
from gradwatch.testing import (
    make_activation,
    make_history,
    make_pulses,
    make_step,
    make_structure,
)

RULE = SaturatedActivation()


def judge(*activations, structure=None):
    """Return what the rule says of hand-made records."""
    history = make_history(make_step(activations=activations))
    return RULE.judge(history, structure or make_structure(), Settings())


def tanh(share, layer="layers.2", **fields):
    """Return a tanh with a share of saturated outputs."""
    return make_activation(layer, "tanh", saturated_share=share, **fields)


@pytest.mark.parametrize("functional", [False, True], ids=["module", "function"])
def test_a_saturated_activation_is_a_warning(functional):
    """Functions count as modules do."""
    finding = judge(tanh(0.7, functional=functional), tanh(0.9, "layers.4"))
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("layers.4", "layers.2")
    assert finding.origin == "layers.2"


QUIET = {
    "below the limit": [tanh(0.55)],
    "output activation": [tanh(0.99, hidden=False)],
    "gate of an LSTM or SE block": [tanh(0.99, gate=True)],
    "relu": [make_activation("layers.2")],
    "one of three calls": [tanh(0.9), tanh(0.1, call=1), tanh(0.1, call=2)],
}


@pytest.mark.parametrize("activations", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(activations):
    """Being open or shut is the work of gates and outputs."""
    assert judge(*activations) is None


def test_a_branch_makes_a_note():
    """Layers on a branch never alarm by themselves."""
    structure = make_structure(roles={"layers.2": Role.BRANCH})
    assert judge(tanh(0.9), structure=structure).severity is Severity.NOTE


def test_it_says_why_it_cannot_judge():
    """No tanh or sigmoid."""
    reason = RULE.unmet(make_history(make_step()), make_structure(), Settings())
    assert "no hidden tanh" in reason


def test_a_halved_loss_makes_a_note():
    """A net that has become sure of itself saturates, and has learned."""
    pulses = make_pulses(losses=[2.0 * 0.95**step for step in range(51)])
    history = make_history(make_step(50, activations=[tanh(0.9)]), pulses=pulses)
    finding = RULE.judge(history, make_structure(), Settings())
    assert finding.severity is Severity.NOTE
