"""GW202: gain over time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.findings import Severity
from gradwatch.rules.exploding_through_time import ExplodingThroughTime
from gradwatch.settings import Settings
from gradwatch.testing import (
    make_history,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
    make_time_profile,
    scaled,
)

RULE = ExplodingThroughTime()


def judge(profile, **fields):
    """Return what the rule says of hand-made records."""
    history = make_history(make_step(5, time_profiles=[profile], **fields))
    return RULE.judge(history, make_structure(), Settings())


def test_a_gain_is_a_warning_and_a_large_one_critical():
    """3 decades, and twice that."""
    finding = judge(make_time_profile(decades=-3.5))
    assert finding.severity is Severity.WARNING
    assert finding.evidence[0].value == pytest.approx(3.5)
    assert judge(make_time_profile(decades=-6.5)).severity is Severity.CRITICAL


def test_huge_updates_make_it_critical():
    """A consequence shows."""
    weights = [make_parameter("rnn", update_ratio=0.5)]
    finding = judge(make_time_profile(decades=-3.5), parameters=weights)
    assert finding.severity is Severity.CRITICAL


def test_the_gain_starts_at_the_last_step_that_is_read():
    """Padding after it is dropped."""
    norms = [10 ** (0.2 * (19 - t)) for t in range(20)] + [0.0] * 10
    assert judge(make_time_profile(norms)).evidence[0].value == pytest.approx(3.8)


QUIET = {
    "gains 2.9": make_time_profile(decades=-2.9),
    "fades": make_time_profile(decades=9.0),
    "bidirectional sum: both ends high": make_time_profile(
        [1.0, 1e-2, 1e-5, 1e-2, 1.0]
    ),
    "left padding": make_time_profile([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
    "three steps": make_time_profile([1e9, 1e3, 1.0]),
}


@pytest.mark.parametrize("profile", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(profile):
    """Traps of facts B2 that a profile can see."""
    assert judge(profile) is None


def test_it_says_why_it_cannot_judge():
    """No recurrent layer."""
    reason = RULE.unmet(make_history(make_step()), make_structure(), Settings())
    assert "no recurrent layer" in reason


@given(decades=st.floats(-8, 8), exponent=st.floats(-6, 6))
def test_the_scale_of_the_loss_changes_nothing(decades, exponent):
    """Multiplying every gradient by a constant changes no verdict."""
    if min(abs(decades + 3.0), abs(decades + 6.0)) < 1e-9:
        return
    step = make_step(5, time_profiles=[make_time_profile(decades=decades)])
    history = make_history(step)
    before = RULE.judge(history, make_structure(), Settings())
    after = RULE.judge(scaled(history, 10**exponent), make_structure(), Settings())
    assert (before and before.severity) == (after and after.severity)


def test_a_halved_loss_makes_a_note():
    """What the loss reads last may have nothing left to say."""
    pulses = make_pulses(losses=[2.0 * 0.95**step for step in range(51)])
    step = make_step(50, time_profiles=[make_time_profile(decades=-4.0)])
    history = make_history(step, pulses=pulses)
    finding = RULE.judge(history, make_structure(), Settings())
    assert finding.severity is Severity.NOTE
