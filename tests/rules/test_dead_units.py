"""GW103: dead units and what follows from them."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.dead_units import DeadUnits
from gradwatch.settings import Settings
from gradwatch.structure import Role
from gradwatch.testing import (
    layer_names,
    make_activation,
    make_history,
    make_layer,
    make_parameter,
    make_step,
    make_structure,
)

RULE = DeadUnits()
NAMES = [*layer_names(6), "head"]


def weights(zeros):
    """Return weights of which some differ from healthy ones."""
    return [
        make_parameter(name, grad_norm=0.0 if i < zeros else 0.1)
        for i, name in enumerate(NAMES)
    ]


def judge(*activations, structure=None, **fields):
    """Return what the rule says of hand-made records."""
    history = make_history(make_step(10, activations=activations, **fields))
    return RULE.judge(history, structure or make_structure(), Settings())


def dead(share, layer="layers.3", **fields):
    """Return a ReLU with a share of dead units."""
    return make_activation(layer, dead_units=round(64 * share), **fields)


def test_a_dead_layer_with_zero_gradients_is_a_warning():
    """Half of the weights get nothing."""
    finding = judge(dead(0.95), parameters=weights(4))
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("layers.3",)
    assert judge(dead(1.0), parameters=weights(4)).severity is Severity.CRITICAL


def test_a_dead_layer_that_cuts_the_signal_is_a_warning():
    """Near the input few weights lose their gradient, but nothing passes upwards."""
    layers = [make_layer("layers.5", 5, sample_signal=0.0)]
    finding = judge(dead(1.0, "layers.0"), layers=layers)
    assert finding.severity >= Severity.WARNING


NOTES = {
    "half of the units": ([dead(0.6)], {"parameters": weights(4)}),
    "dead, but gradients flow": ([dead(0.95)], {}),
    "zero initialisation explains zeros": (
        [dead(0.95)],
        {"parameters": weights(5), "zero_init_downstream": True},
    ),
}


@pytest.mark.parametrize(("activations", "fields"), NOTES.values(), ids=NOTES)
def test_it_is_a_note_for(activations, fields):
    """Dead units that the net does not suffer from."""
    assert judge(*activations, **fields).severity is Severity.NOTE


QUIET = {
    "healthy": [dead(0.1)],
    "one batch is no window": [dead(0.6, window_probes=1)],
    "output activation": [dead(1.0, hidden=False)],
    "gate": [dead(1.0, gate=True)],
    "woken by another call": [dead(1.0), dead(0.1, call=1)],
    "not measured": [make_activation("layers.3", dead_units=None)],
}


@pytest.mark.parametrize("activations", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(activations):
    """Also not where half of the weights get a zero gradient."""
    assert judge(*activations, parameters=weights(4)) is None


def test_weights_without_a_gradient_are_not_zeros():
    """Experts that were not touched, frozen layers and embeddings are left out."""
    frozen = [make_parameter(name, grad_norm=None) for name in NAMES[:4]]
    finding = judge(dead(0.95), parameters=[*frozen, make_parameter("head")])
    assert finding.severity is Severity.NOTE
    sparse = [make_parameter("embed", grad_norm=0.0), make_parameter("head")]
    structure = make_structure(["embed", *NAMES], roles={"embed": Role.EMBEDDING})
    finding = judge(dead(0.95), parameters=sparse, structure=structure)
    assert finding.severity is Severity.NOTE


def test_it_says_why_it_cannot_judge():
    """No activation with an off state."""
    reason = RULE.unmet(make_history(make_step()), make_structure(), Settings())
    assert "no hidden activation" in reason
