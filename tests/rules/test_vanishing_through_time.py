"""GW102: loss over time, horizon, consequence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.findings import Severity
from gradwatch.rules.time_profiles import fading, horizon
from gradwatch.rules.vanishing_through_time import VanishingThroughTime
from gradwatch.settings import Settings
from gradwatch.testing import (
    make_history,
    make_layer,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
    make_time_profile,
    scaled,
)

RULE = VanishingThroughTime()


def judge(*profiles, step=60, losses=None, **fields):
    """Return what the rule says of hand-made records."""
    probe = make_step(step, time_profiles=profiles, **fields)
    pulses = make_pulses(losses=losses) if losses else ()
    history = make_history(probe, pulses=pulses)
    return RULE.judge(history, make_structure(), Settings())


def test_a_faded_profile_alone_is_a_note():
    """A default LSTM loses 3 decades in 16 steps and may learn all the same."""
    finding = judge(make_time_profile(decades=7.6))
    assert finding.severity is Severity.NOTE
    assert finding.layers == ("rnn",)


def test_with_a_falling_loss_it_stays_a_note():
    """The task does not need the far steps."""
    losses = [2.3 * 0.98**i for i in range(61)]
    assert (
        judge(make_time_profile(decades=7.6), losses=losses).severity is Severity.NOTE
    )


def test_with_a_flat_loss_it_is_a_warning():
    """The outcome tells the sick from the healthy; the profile is the same."""
    flat = [2.3] * 61
    assert (
        judge(make_time_profile(decades=4.0), losses=flat).severity is Severity.WARNING
    )
    severe = judge(make_time_profile(decades=7.0), losses=flat)
    assert severe.severity is Severity.CRITICAL


def test_a_flat_loss_counts_late_and_only_with_workable_updates():
    """Recurrent networks start slowly, and a learning rate explains itself."""
    profile = make_time_profile(decades=7.0)
    assert judge(profile, step=20, losses=[2.3] * 21).severity is Severity.NOTE
    frozen = [make_parameter("rnn", update_ratio=1e-7)]
    finding = judge(profile, losses=[2.3] * 61, parameters=frozen)
    assert finding.severity is Severity.NOTE


def test_a_lost_signal_is_a_consequence_without_a_loss():
    """The output of the layer hardly depends on its input."""
    layers = [make_layer("rnn", 0, sample_signal=0.01)]
    finding = judge(make_time_profile(decades=4.0), layers=layers)
    assert finding.severity is Severity.WARNING


HEALTHY = {
    "loses 2.9": make_time_profile(decades=2.9),
    "grows": make_time_profile(decades=-5.0),
    "reads every step": make_time_profile([1.0, 0.8, 1.2, 0.9, 1.1, 1.0]),
    "right padding": make_time_profile([0.5, 0.7, 1.0, 1.0, 0.9, 1.0, 0.0, 0.0, 0.0]),
    "left padding in reverse": make_time_profile(
        [0.0, 0.0, 0.3, 0.5, 0.8, 1.0], direction="reverse"
    ),
    "one closed step": make_time_profile([1.0, 0.9, 1e-6, 0.9, 1.0, 1.0]),
    "three steps": make_time_profile([1e-9, 1e-4, 1.0]),
    "bidirectional sum, shallow middle": make_time_profile([1, 0.1, 0.01, 0.1, 1.0]),
    "all zero": make_time_profile([0.0] * 8),
}


@pytest.mark.parametrize("profile", HEALTHY.values(), ids=HEALTHY)
def test_it_does_not_fire_on(profile):
    """Traps of facts B2 that a profile can see."""
    assert judge(profile, losses=[2.3] * 61) is None


def test_padding_after_the_last_step_is_dropped():
    """The loss is measured from the peak, wherever the sequence ends."""
    norms = [10 ** (-0.25 * (15 - t)) for t in range(16)] + [0.0] * 20
    assert fading(norms).decades == pytest.approx(0.25 * 15)


def test_a_deep_middle_counts_although_both_ends_are_high():
    """Bidirectional sums hide the loss from a first-to-last comparison."""
    half = [10 ** (-0.5 * t) for t in range(13)]
    assert fading([*half, *reversed(half[:-1])]).decades > 5


def test_exact_zeros_at_the_far_end_are_underflow():
    """They count at least as the way to the smallest normal float."""
    norms = [0.0] * 20 + [10 ** (-2.0 * (19 - t)) for t in range(20)]
    change = fading(norms)
    assert change.underflow
    assert change.decades >= 37.9
    assert "at least" in judge(make_time_profile(norms)).message


def test_the_horizon_of_a_geometric_profile_is_exact():
    """1 % is left after 2 / slope steps."""
    profile = make_time_profile(decades=0.2 * 39, steps=40)
    assert horizon(profile.norms, 0.01) == pytest.approx(10.0)
    short = make_time_profile(decades=0.1 * 9, steps=10)
    assert horizon(short.norms, 0.01) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        pytest.param([0, 0, 0, 0, 1, 3], 4.5, id="flat, then falls"),
        pytest.param([0, 3, 3, 3, 3, 3], 2 / 3, id="falls, then flat"),
        pytest.param([0, 0, 0, 0, 0.5, 1], 10.0, id="flat, then falls a little"),
        pytest.param([0, 1, 1, 1, 1, 1], 10.0, id="falls a little, then flat"),
        pytest.param([0, 1, 1.5, 1.5, 1, 1], 10.0, id="rises again"),
        pytest.param([0, 1, 1.5, 1.5, 1, 0], None, id="rises to where it was"),
        pytest.param([0, 0.5, 3, 0.5, 1, 3], 4.5, id="one closed gate"),
    ],
)
def test_the_horizon_is_read_where_the_profile_reaches_it(lost, expected):
    """Beyond its first step its mean slope goes on; level steps count as a way."""
    norms = [10.0**-decades for decades in reversed(lost)]
    reach = horizon(norms, 0.01)
    assert reach == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(0.0, 1.9), min_size=4, max_size=30))
def test_the_horizon_is_never_where_more_was_measured(lost):
    """If no step is down at the share, the horizon lies beyond the first one."""
    norms = [1.0, *(10.0**-decades for decades in lost)][::-1]
    reach = horizon(norms, 0.01)
    assert reach is None or reach > len(lost)


def test_a_fall_within_one_time_step_is_said_in_whole_steps():
    """The horizon lies within the first step: less than its share is left after it."""
    finding = judge(make_time_profile([1e-9, 1e-7, 1e-5, 1e-3, 1.0]))
    assert "; less than 1% of it is left after 1." in finding.message
    assert "more than 1 step back" in finding.help
    later = judge(make_time_profile([1e-9, 1e-7, 1e-5, 1e-2, 1.0]))
    assert "; 1% of it is left after 1." in later.message
    at_once = judge(make_time_profile([1e-5, 1.0, 0.1, 0.1, 0.1]))
    assert "over 1 time step;" in at_once.message


def test_each_direction_is_judged():
    """A replay per direction."""
    finding = judge(
        make_time_profile(decades=0.5),
        make_time_profile(decades=4.0, direction="reverse"),
    )
    assert "reverse direction" in finding.message


def test_it_says_why_it_cannot_judge():
    """No recurrent layer, or too few steps."""
    history = make_history(make_step())
    reason = RULE.unmet(history, make_structure(), Settings())
    assert reason == "no recurrent layer was observed"
    history = make_history(make_step(time_profiles=[make_time_profile([1.0, 1.0])]))
    assert "fewer than 4" in RULE.unmet(history, make_structure(), Settings())


@given(decades=st.floats(-6, 6), exponent=st.floats(-6, 6))
def test_the_scale_of_the_loss_changes_nothing(decades, exponent):
    """Multiplying every gradient by a constant changes no verdict."""
    if abs(decades - 3.0) < 1e-9:
        return
    step = make_step(60, time_profiles=[make_time_profile(decades=decades)])
    history = make_history(step)
    other = scaled(history, 10**exponent)
    before = RULE.judge(history, make_structure(), Settings())
    after = RULE.judge(other, make_structure(), Settings())
    assert (before and before.severity) == (after and after.severity)
