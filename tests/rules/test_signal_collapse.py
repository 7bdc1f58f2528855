"""GW105: outputs that do not depend on inputs."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.signal_collapse import SignalCollapse
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_history,
    make_layer,
    make_pulses,
    make_step,
    make_structure,
)

RULE = SignalCollapse()
NAMES = [*layer_names(6), "head"]


def judge(signals, structure=None, losses=()):
    """Return what the rule says of hand-made records."""
    layers = [
        make_layer(name, i, sample_signal=signal)
        for i, (name, signal) in enumerate(zip(NAMES, signals, strict=True))
    ]
    pulses = make_pulses(losses=list(losses))
    history = make_history(make_step(20, layers=layers), pulses=pulses)
    return RULE.judge(history, structure or make_structure(), Settings())


COLLAPSED = [0.7, 0.4, 0.2, 0.1, 0.05, 0.01, 0.01]


def test_a_collapsed_signal_is_a_warning():
    """At the last hidden layer."""
    finding = judge(COLLAPSED)
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("layers.5",)
    assert "70.0% at layers.0" in finding.message


def test_a_loss_that_falls_makes_it_a_note():
    """It learns all the same."""
    losses = [2.0 * 0.9**i for i in range(21)]
    assert judge(COLLAPSED, losses=losses).severity is Severity.NOTE


def test_data_that_hardly_varies_makes_it_a_note():
    """Raw inputs with a large mean: the first layer shows as little."""
    assert judge([0.01] * 7).severity is Severity.NOTE


QUIET = {
    "healthy": [0.7] * 7,
    "weak head": [0.7] * 6 + [0.0],
    "not measured (batch of one)": [None] * 7,
}


@pytest.mark.parametrize("signals", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(signals):
    """Only the last hidden layer decides."""
    assert judge(signals) is None


def test_it_says_why_it_cannot_judge():
    """No last hidden layer, or no dimension of samples."""
    history = make_history(make_step(layers=[]))
    structure = make_structure(last_hidden=None)
    assert "not known" in RULE.unmet(history, structure, Settings())
    assert "samples" in RULE.unmet(history, make_structure(), Settings())
