"""GW201: growth towards the input."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.findings import Health, Severity
from gradwatch.rules.exploding_gradient import ExplodingGradient
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_chain,
    make_history,
    make_layer,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
    scaled,
)

RULE = ExplodingGradient()
NAMES = [*layer_names(6), "head"]
GROWING = [make_layer(name, i, output_rms=3.0**i) for i, name in enumerate(NAMES)]
HUGE = [make_parameter(name, update_ratio=0.3) for name in NAMES]
BROKEN = [make_layer(name, i, grad_finite=False) for i, name in enumerate(NAMES)]


def judge(history, structure=None):
    """Return what the rule says of hand-made records."""
    return RULE.judge(history, structure or make_structure(), Settings())


CASES = {
    "note from 2": (2.1, {}, Severity.NOTE),
    "residual net with batch norm stays a note": (
        2.4,
        {"layers": GROWING},
        Severity.NOTE,
    ),
    "2.5 alone is a note": (2.6, {}, Severity.NOTE),
    "published nets with batch norm (3.3) are notes": (3.3, {}, Severity.NOTE),
    "with forward growth": (2.6, {"layers": GROWING}, Severity.WARNING),
    "with huge updates": (2.6, {"parameters": HUGE}, Severity.WARNING),
    "with non-finite gradients": (2.6, {"layers": BROKEN}, Severity.WARNING),
    "4 alone is a warning": (4.1, {}, Severity.WARNING),
    "4 with a consequence is critical": (4.1, {"parameters": HUGE}, Severity.CRITICAL),
}


@pytest.mark.parametrize(("gain", "fields", "severity"), CASES.values(), ids=CASES)
def test_severity_follows_growth_and_consequence(gain, fields, severity):
    """The limits of facts B2b."""
    finding = judge(
        make_history(make_step(5, chains=[make_chain(decades=-gain)], **fields))
    )
    assert finding.severity is severity
    assert finding.health is Health.EXPLODING


def test_a_risen_loss_is_a_consequence():
    """Above twice its first value."""
    step = make_step(12, chains=[make_chain(decades=-3.0)])
    pulses = make_pulses(losses=[2.3] + [7.0] * 12)
    assert judge(make_history(step, pulses=pulses)).severity is Severity.WARNING


def test_unknown_structure_caps_at_a_note():
    """Module order stands in for an opaque graph."""
    chain = make_chain(decades=-9.0, structure_known=False)
    finding = judge(make_history(make_step(5, chains=[chain], parameters=HUGE)))
    assert finding.severity is Severity.NOTE


QUIET = {
    "within 2 decades": make_chain(decades=-1.9),
    "shrinks": make_chain(decades=4.0),
    "narrow": make_chain(decades=-2.4, points=20, width=8),
    "two points": make_chain(norms=[1e4, 1.0]),
}


@pytest.mark.parametrize("chain", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(chain):
    """Also not with huge updates."""
    assert judge(make_history(make_step(5, chains=[chain], parameters=HUGE))) is None


def test_it_says_why_it_cannot_judge():
    """Not enough points."""
    history = make_history(make_step(chains=[make_chain(points=2)]))
    assert "fewer than 3" in RULE.unmet(history, make_structure(), Settings())
    assert "no probe" in RULE.unmet(make_history(), make_structure(), Settings())


@given(decades=st.floats(-8, 8), exponent=st.floats(-6, 6))
def test_the_scale_of_the_loss_changes_nothing(decades, exponent):
    """Multiplying every gradient by a constant changes no verdict."""
    history = make_history(make_step(5, chains=[make_chain(decades=decades)]))
    before, after = judge(history), judge(scaled(history, 10**exponent))
    near = any(math.isclose(-decades, limit, abs_tol=1e-9) for limit in (2, 2.5, 4))
    if not near:
        assert (before and before.severity) == (after and after.severity)
