"""GW204: sudden jumps."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.training_spike import TrainingSpike
from gradwatch.settings import Settings
from gradwatch.testing import (
    make_history,
    make_pulses,
    make_step,
    make_structure,
    scaled,
)

RULE = TrainingSpike()


def judge(norms=None, losses=None, **fields):
    """Return what the rule says of hand-made records."""
    pulses = make_pulses(norms, losses=losses, **fields)
    history = make_history(make_step(len(pulses) - 1), pulses=pulses)
    return RULE.judge(history, make_structure(), Settings())


def with_jumps(value, *steps, length=100, size=1.0):
    """Return an even series that jumps at some steps."""
    values = [size] * length
    for step in steps:
        values[step] = value
    return values


def test_one_jump_of_the_gradient_is_a_note():
    """At step 60."""
    finding = judge(with_jumps(30.0, 60))
    assert finding.severity is Severity.NOTE
    assert finding.evidence[0].value == pytest.approx(30.0)
    assert finding.evidence[0].steps[0] == 60


def test_the_size_of_a_jump_is_written_as_other_rules_do():
    """Three digits, and no power of ten where none is needed."""
    assert "to 378 times its running" in judge(with_jumps(378.0, 60)).message
    assert "to 1,150 times its running" in judge(with_jumps(1150.0, 60)).message
    assert "to 37.8 times its running" in judge(with_jumps(37.8, 60)).message


def test_three_jumps_are_a_warning():
    """Within 200 steps."""
    assert judge(with_jumps(30.0, 40, 60, 80)).severity is Severity.WARNING
    assert judge(with_jumps(30.0, 40, 60)).severity is Severity.NOTE


def test_an_excursion_counts_once():
    """However many steps it lasts."""
    finding = judge(with_jumps(30.0, 60, 61, 62, 63))
    assert finding.evidence[1].value == 1


def test_a_jump_after_which_the_loss_stays_higher_is_a_warning():
    """One is enough then."""
    losses = [1.0] * 60 + [20.0] + [2.0] * 39
    finding = judge(losses=losses)
    assert finding.severity is Severity.WARNING
    assert "after step 60 the loss stays higher" in finding.message
    back = [1.0] * 60 + [20.0] + [1.0] * 39
    assert judge(losses=back).severity is Severity.NOTE


QUIET = {
    "even": ([1.0] * 100, None),
    "nine times": (with_jumps(9.0, 60), None),
    "the first steps": (with_jumps(50.0, 0, 1, 2), None),
    "noise of a converged net, loss known": (
        [1.0] * 30 + with_jumps(0.5, 40, 50, 60, 65, size=1e-3, length=70),
        [1.0] * 30 + with_jumps(0.02, 40, 50, 60, 65, size=1e-3, length=70),
    ),
    "noise of a converged net, loss not known": (
        [1.0] * 30 + with_jumps(1e-5, 40, 50, 60, size=1e-7, length=70),
        None,
    ),
    "median of zero": ([1.0] * 10 + with_jumps(1e-3, 80, size=0.0, length=90), None),
    "negative loss": ([1.0] * 100, with_jumps(-30.0, 60, size=-1.0)),
    "not finite is another rule's": (with_jumps(float("inf"), 60), None),
    "five pulses": ([1.0, 1.0, 1.0, 1.0, 50.0], None),
}


@pytest.mark.parametrize(("norms", "losses"), QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(norms, losses):
    """0 events in 15 of 16 healthy nets (facts B3)."""
    assert judge(norms, losses) is None


def test_skipped_steps_and_unknown_scales_do_not_count():
    """The scaler's overflow is its ordinary work."""
    norms = with_jumps(1e6, 60)
    assert judge(norms, loss_scale=None) is None
    assert judge(norms, skipped=True) is None


def test_old_jumps_are_forgotten():
    """After 200 steps."""
    assert judge(with_jumps(30.0, 60, length=300)) is None


def test_the_scale_of_the_loss_changes_nothing():
    """Floors are shares of the early values."""
    pulses = make_pulses(with_jumps(30.0, 40, 60, 80), losses=[1.0] * 100)
    history = make_history(make_step(99), pulses=pulses)
    for factor in (1e-3, 1e3):
        finding = RULE.judge(scaled(history, factor), make_structure(), Settings())
        assert finding.severity is Severity.WARNING


def test_it_says_why_it_cannot_judge():
    """Too few pulses."""
    history = make_history(make_step())
    assert "pulses" in RULE.unmet(history, make_structure(), Settings())


def test_jumps_that_the_loss_does_not_follow_are_a_note():
    """A recurrent net that learns well jumps while it finds out what to remember."""
    jumps = with_jumps(30.0, 40, 60, 80)
    falling = [2.0 * 0.97**step for step in range(100)]
    flat = [2.0] * 100
    assert judge(jumps, falling).severity is Severity.NOTE
    assert judge(jumps, flat).severity is Severity.WARNING
