"""GW107: zeros that a larger loss scale revives."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.gradient_underflow import GradientUnderflow
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_history,
    make_parameter,
    make_step,
    make_structure,
)

RULE = GradientUnderflow()
NAMES = [*layer_names(6), "head"]


def probe(step, share, scale, **fields):
    """Return a probe whose weights all look the same."""
    weights = [make_parameter(name, zero_share=share) for name in NAMES]
    return make_step(
        step, parameters=weights, loss_scale=scale, **({"float16": True} | fields)
    )


def judge(*probes):
    """Return what the rule says of hand-made records."""
    return RULE.judge(make_history(*probes), make_structure(), Settings())


def test_zeros_that_a_larger_scale_revives_are_a_warning():
    """The scale had to be lowered, and the zeros came."""
    finding = judge(probe(0, 0.1, 65536.0), probe(10, 0.7, 256.0))
    assert finding.severity is Severity.WARNING
    assert "loss scale of 65536 instead of 256" in finding.message


def test_zeros_without_a_scale_are_a_warning():
    """Float16 and no scaler."""
    finding = judge(probe(0, 0.7, 1.0))
    assert finding.severity is Severity.WARNING
    assert len(finding.layers) == 7


def test_zeros_at_a_constant_scale_are_a_note():
    """Dead units make zeros too."""
    assert judge(probe(0, 0.7, 256.0), probe(10, 0.7, 256.0)).severity is Severity.NOTE


QUIET = {
    "few zeros": probe(0, 0.3, 256.0),
    "float32": probe(0, 0.9, 1.0, float16=False),
    "zero initialisation": probe(0, 1.0, 1.0, zero_init_downstream=True),
    "not counted": probe(0, None, 256.0),
}


@pytest.mark.parametrize("record", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(record):
    """Zeros of another origin."""
    assert judge(record) is None


def test_it_says_why_it_cannot_judge():
    """No float16, or nothing counted."""
    history = make_history(make_step())
    assert "not seen" in RULE.unmet(history, make_structure(), Settings())
    history = make_history(probe(0, None, 256.0))
    assert "not counted" in RULE.unmet(history, make_structure(), Settings())
