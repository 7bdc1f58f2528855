"""Verdicts: pure functions of two profiles or two curves."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.recommendations import (
    ProfileSeen,
    Recommendation,
    Risk,
    TrialResult,
    Verdict,
)
from gradwatch.settings import Settings
from gradwatch.verdicts import (
    MIN_STEPS,
    judge_replay,
    judge_training,
    place_after_trial,
)

SOUND = ProfileSeen(
    decades=0.1,
    time_decades=0.5,
    output_growth=0.2,
    dead_share=0.3,
    saturated_share=0.1,
    sample_signal=0.8,
)
SICK = [
    pytest.param("GW101", {"decades": 7.0}, id="vanishing"),
    pytest.param("GW201", {"decades": -6.0}, id="exploding"),
    pytest.param("GW102", {"time_decades": 8.0}, id="time-vanishing"),
    pytest.param("GW202", {"time_decades": -5.0}, id="time-exploding"),
    pytest.param("GW103", {"dead_share": 1.0}, id="dead"),
    pytest.param("GW104", {"saturated_share": 0.9}, id="saturated"),
    pytest.param("GW105", {"sample_signal": 1e-6}, id="signal"),
    pytest.param("GW203", {"output_growth": 4.0}, id="growth"),
]


def judged(before, after, code):
    """Return the verdict of a replay."""
    return judge_replay(before, after, [code], Settings())[0]


@pytest.mark.parametrize(("code", "sick"), SICK)
def test_leaving_the_limit_helps_and_entering_it_hurts(code, sick):
    """Each finding is judged by the quantity it is about."""
    ill = replace(SOUND, **sick)
    assert judged(ill, SOUND, code) is Verdict.HELPED
    assert judged(SOUND, ill, code) is Verdict.HURT
    assert judged(ill, ill, code) is Verdict.NO_CHANGE
    assert judged(SOUND, SOUND, code) is Verdict.NO_CHANGE


def test_better_but_still_sick_is_no_change_and_says_so():
    """D from 16 to 3 is not yet below 2."""
    before, after = replace(SOUND, decades=16.0), replace(SOUND, decades=3.0)
    verdict, reason = judge_replay(before, after, ["GW101"], Settings())
    assert verdict is Verdict.NO_CHANGE
    assert "16.0 -> 3.0" in reason
    assert "still beyond" in reason


def test_one_sickness_for_another_hurts():
    """What fades no longer but explodes instead is not cured."""
    before, after = replace(SOUND, decades=7.0), replace(SOUND, decades=-7.0)
    assert judged(before, after, "GW101") is Verdict.HURT


def test_a_step_over_the_limit_within_the_error_of_a_replay_is_no_change():
    """2.1 and 1.9 decades are the same number."""
    before, after = replace(SOUND, decades=2.1), replace(SOUND, decades=1.9)
    assert judged(before, after, "GW101") is Verdict.NO_CHANGE
    assert judged(after, before, "GW101") is Verdict.NO_CHANGE


def test_not_finite_decides_before_everything():
    """NaN after is HURT, NaN before and none after HELPED, NaN in both no change."""
    nan = ProfileSeen(finite=False)
    assert judged(SOUND, nan, "GW101") is Verdict.HURT
    assert judged(nan, SOUND, "GW205") is Verdict.HELPED
    assert judged(nan, nan, "GW205") is Verdict.NO_CHANGE


@pytest.mark.parametrize("code", ["GW106", "GW204", "GW301", "GW302", "GW303"])
def test_what_one_batch_cannot_show_is_not_judged(code):
    """A replay says nothing of spikes or rates."""
    verdict, reason = judge_replay(SOUND, SOUND, [code], Settings())
    assert verdict is Verdict.NO_CHANGE
    assert code in reason


def curve(start, end, steps=100, noise=0.0, seed=0):
    """Return a loss that falls (or rises) evenly for half of the steps."""
    draw = random.Random(seed)
    half = steps // 2
    line = [start + (end - start) * min(1.0, k / half) for k in range(steps)]
    return [value + draw.gauss(0.0, noise) for value in line]


CURVES = [
    pytest.param(curve(2.3, 2.3), curve(2.3, 1.0), Verdict.HELPED, id="learns"),
    pytest.param(curve(2.3, 1.0), curve(2.3, 2.3), Verdict.HURT, id="unlearns"),
    pytest.param(curve(2.3, 1.0), curve(2.3, 1.0), Verdict.NO_CHANGE, id="same"),
    pytest.param(curve(2.3, 2.3), curve(2.3, 2.25), Verdict.NO_CHANGE, id="hardly"),
    pytest.param(curve(1e6, 50.0), curve(2.3, 1.0), Verdict.HELPED, id="explosion"),
    pytest.param(curve(2.3, 90.0), curve(2.3, 2.3), Verdict.NO_CHANGE, id="flat"),
    pytest.param([2.3, 9.0, math.nan], curve(2.3, 1.0), Verdict.HELPED, id="nan-cured"),
    pytest.param(
        [2.3, 9.0, math.inf], curve(2.3, 2.3), Verdict.NO_CHANGE, id="nan-flat"
    ),
    pytest.param(curve(2.3, 1.0), [2.3, math.nan], Verdict.HURT, id="makes-nan"),
    pytest.param(
        [2.3, math.nan], [2.3, 5.0, math.nan], Verdict.NO_CHANGE, id="nan-both"
    ),
    pytest.param(
        curve(2.3, 2.3, MIN_STEPS - 1),
        curve(2.3, 0.1, MIN_STEPS - 1),
        Verdict.NO_CHANGE,
        id="too-few-steps",
    ),
    pytest.param(
        curve(2.0, 2.0, noise=0.8, seed=1),
        curve(2.0, 1.8, noise=0.8, seed=2),
        Verdict.NO_CHANGE,
        id="noise",
    ),
]


@pytest.mark.parametrize(("control", "treated", "expected"), CURVES)
def test_two_curves_give_the_verdict_that_a_reader_would_give(
    control, treated, expected
):
    """Learning, not learning, diverging, noise."""
    verdict, reason = judge_training(control, treated)
    assert verdict is expected, reason
    assert reason.endswith(".")


@given(
    st.sampled_from([c.values[:2] for c in CURVES]),
    st.sampled_from([1e-3, 1e3, 2.0**-20, 2.0**20]),
)
def test_the_unit_of_the_loss_changes_no_verdict(curves, factor):
    """Margins are shares of the loss and of its own noise."""
    control, treated = curves
    scaled = [[factor * loss for loss in losses] for losses in (control, treated)]
    assert judge_training(control, treated)[0] is judge_training(*scaled)[0]


def test_what_healed_the_profile_goes_before_what_was_not_tried():
    """Learning may take more steps than the trial had; a gradient that fades cannot."""

    def offer(name, trial):
        return Recommendation(
            name, "t", ("GW101",), ("0",), "w", "c", Risk.SAFE, trial=trial
        )

    def tried(after):
        return TrialResult(
            Verdict.NO_CHANGE,
            "x",
            how="training",
            before=ProfileSeen(decades=6.0),
            after=ProfileSeen(decades=after),
            losses_after=(2.3,) * 20,
        )

    healed, sick, new = (
        offer("healed", tried(0.3)),
        offer("sick", tried(5.9)),
        offer("new", None),
    )
    order = sorted((sick, new, healed), key=place_after_trial)
    assert [item.remedy for item in order] == ["healed", "new", "sick"]
