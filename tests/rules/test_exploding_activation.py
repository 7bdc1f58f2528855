"""GW203: forward growth over depth."""

import math

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.exploding_activation import ExplodingActivation
from gradwatch.settings import Settings
from gradwatch.structure import Role
from gradwatch.testing import (
    layer_names,
    make_history,
    make_layer,
    make_step,
    make_structure,
)

RULE = ExplodingActivation()
NAMES = [*layer_names(6), "head"]


def judge(rms, structure=None, **fields):
    """Return what the rule says of hand-made records."""
    layers = [
        make_layer(name, i, output_rms=value)
        for i, (name, value) in enumerate(zip(NAMES, rms, strict=True))
    ]
    history = make_history(make_step(0, layers=layers, **fields))
    return RULE.judge(history, structure or make_structure(), Settings())


def test_growth_over_depth_is_a_warning():
    """Two decades above the first layer."""
    finding = judge([1, 3, 10, 30, 150, 100, 1])
    assert finding.severity is Severity.WARNING
    assert finding.evidence[0].value == pytest.approx(math.log10(150))
    assert finding.layers == ("layers.4", "layers.5")


def test_four_decades_are_critical():
    """The limit is `severe_decades`."""
    assert judge([1, 10, 100, 1e3, 1e4, 3e4, 1]).severity is Severity.CRITICAL


QUIET = {
    "even": [1] * 7,
    "raw inputs make the first layer large": [500, 300, 200, 100, 100, 100, 1],
    "small first layer": [1e-3, 1e-2, 0.1, 1, 1, 1, 1],
    "large head": [1, 1, 1, 1, 1, 1, 1e4],
    "not measured": [None] * 7,
    "infinite is not a size": [1, 1, 1, 1, 1, math.inf, math.inf],
}


@pytest.mark.parametrize("rms", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(rms):
    """The baseline is the first layer, or 1."""
    assert judge(rms) is None


def test_branches_do_not_count_without_a_trunk():
    """An expert with large outputs is not growth over depth."""
    structure = make_structure(roles={"layers.3": Role.BRANCH})
    assert judge([1, 1, 1, 1e3, 1, 1, 1], structure, chains=[]) is None


def test_it_says_why_it_cannot_judge():
    """Fewer than three measured layers."""
    history = make_history(make_step(layers=[]))
    assert "fewer than 3" in RULE.unmet(history, make_structure(), Settings())
