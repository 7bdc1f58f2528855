"""When to probe and when to pulse, from measured costs."""

import pytest

from gradwatch.rhythm import Rhythm
from gradwatch.settings import Settings


def probed(rhythm, steps):
    """Return the steps that are probed, each noted at no cost."""
    found = []
    for step in range(steps):
        if rhythm.wants_probe(step):
            found.append(step)
            rhythm.note_probe(step, 0.0)
    return found


def test_the_first_steps_and_every_hundredth():
    """0, 1, 2, 5, 10, 20, 50, then every 100."""
    steps = probed(Rhythm(Settings()), 401)
    assert steps == [0, 1, 2, 5, 10, 20, 50, 100, 200, 300, 400]


def test_a_fixed_rhythm_ignores_the_budget():
    """`every=7` probes every seventh step whatever it costs."""
    rhythm = Rhythm(Settings(every=7))
    rhythm.note_step(1e-9)
    rhythm.note_probe(0, 100.0)
    rhythm.note_pulse(100.0)
    assert [s for s in range(30) if rhythm.wants_probe(s)] == [0, 7, 14, 21, 28]
    assert rhythm.wants_pulse(1000)
    assert rhythm.text() == "a probe every 7 steps, as asked"


@pytest.mark.parametrize(("probe_s", "every"), [(0.01, 100), (1.0, 2000), (0.1, 200)])
def test_probes_are_stretched_to_half_the_budget(probe_s, every):
    """Cost of a probe over half of 1 % of a step of 0.1 s."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    rhythm.note_probe(100, probe_s)
    assert rhythm.probe_every == every
    due = [step for step in range(101, 5000) if rhythm.wants_probe(step)]
    assert due[0] == (200 if every == 100 else 100 + every)


def test_pulses_are_stretched_to_the_other_half():
    """A pulse of 1 % of a step is taken at every second step."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    rhythm.note_pulse(0.001)
    assert rhythm.pulse_every == 2
    assert [rhythm.wants_pulse(step) for step in (50, 51, 52)] == [True, False, True]
    assert all(rhythm.wants_pulse(step) for step in range(50))
    assert not Rhythm(Settings(pulse=False)).wants_pulse(0)


def test_costs_rise_fast_and_fall_slowly():
    """A dear probe stretches at once; a cheap one shortens step by step."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    rhythm.note_probe(0, 0.1)
    rhythm.note_probe(1, 1.0)
    dear = rhythm.probe_every
    assert dear > 1000
    rhythm.note_probe(2, 0.1)
    assert 0.8 * dear < rhythm.probe_every < dear


def test_a_burst_adds_two_probes_and_then_rests():
    """The next two steps are probed, at most once in fifty steps."""
    rhythm = Rhythm(Settings())
    rhythm.burst(60)
    assert [s for s in range(61, 70) if rhythm.wants_probe(s)] == [61, 62]
    rhythm.burst(80)
    assert not any(rhythm.wants_probe(step) for step in range(81, 90))
    rhythm.burst(110)
    assert rhythm.wants_probe(111)


def test_no_burst_where_none_is_wanted():
    """`burst_probes=0` keeps the regular rhythm."""
    rhythm = Rhythm(Settings(burst_probes=0))
    rhythm.burst(60)
    assert not any(rhythm.wants_probe(step) for step in range(61, 100))


def test_the_rhythm_is_said_in_words():
    """What the report prints."""
    rhythm = Rhythm(Settings())
    assert "0, 1, 2, 5, 10, 20, 50, then every 100; pulses at every" in rhythm.text()
    assert Rhythm(Settings(pulse=False)).text().endswith("pulses off")


def test_a_probe_waits_until_the_time_that_passed_pays_for_it():
    """With 1 ms owed and 1 % granted, 0.1 s must pass first."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.01)
    rhythm.note_probe(50, 0.001)
    rhythm.note_balance(spent=0.001, wall=0.05)
    assert not rhythm.wants_probe(100)
    rhythm.note_balance(spent=0.001, wall=0.21)
    assert rhythm.wants_probe(100)


def test_pulses_help_to_pay_a_debt_off():
    """While the budget is overdrawn they are half as frequent."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    rhythm.note_pulse(0.001)
    rhythm.note_balance(spent=0.02, wall=1.0)
    assert rhythm.pulse_every == 4
    rhythm.note_balance(spent=0.02, wall=3.0)
    assert rhythm.pulse_every == 2


def test_a_burst_is_on_credit_but_not_in_debt():
    """Extra probes may overdraw the budget once; not while it is overdrawn."""
    rhythm = Rhythm(Settings())
    rhythm.note_probe(50, 0.001)
    rhythm.note_balance(spent=0.0, wall=1.0)
    rhythm.burst(60)
    assert rhythm.wants_probe(61)
    rhythm.note_balance(spent=0.02, wall=1.0)
    rhythm.burst(160)
    assert not rhythm.wants_probe(161)


@pytest.mark.parametrize(("probe_s", "pulse_s"), [(0.5, 0.01), (0.01, 0.1), (2.0, 1.0)])
def test_a_rest_ends_before_the_next_look(probe_s, pulse_s):
    """No step that is wanted lies inside a rest."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    rhythm.note_probe(50, probe_s)
    rhythm.note_pulse(pulse_s)
    step, looks = 51, 0
    while step < 10_000:
        quiet = rhythm.rest(step)
        for inside in range(step, step + quiet):
            assert not rhythm.wants_probe(inside)
            assert not rhythm.wants_pulse(inside)
        step += quiet
        if rhythm.wants_probe(step):
            rhythm.note_probe(step, probe_s)
            looks += 1
        step += 1
    assert looks >= 2


def test_nothing_rests_where_the_user_set_the_rhythm():
    """Nor while the opening is looked at step by step."""
    assert Rhythm(Settings(every=1000)).rest(5000) == 0
    assert Rhythm(Settings()).rest(49) == 0


def test_idle_hooks_are_paid_for_by_the_pulses():
    """What counting steps costs is taken from their half, down to a tenth of it."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    rhythm.note_pulse(0.001)
    rhythm.note_idle(0.00025)
    assert rhythm.pulse_every == 4
    rhythm.note_idle(1.0)
    assert rhythm.pulse_every == 20


def test_one_interruption_does_not_stretch_the_pulses():
    """The cost of a pulse is a median."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    for cost in (0.001, 0.001, 1.0, 0.001):
        rhythm.note_pulse(cost)
    assert rhythm.pulse_every == 2


# -- several processes ----------------------------------------------------------------


def test_a_step_that_was_agreed_on_is_the_only_one_probed():
    """Whatever the rhythm alone would do; without the agreement it does that again."""
    rhythm = Rhythm(Settings())
    rhythm.agree(17)
    assert [s for s in range(18) if rhythm.wants_probe(s)] == [17]
    assert rhythm.rest(60) <= 0  # it is overdue
    rhythm.agree(None)
    assert [s for s in range(6) if rhythm.wants_probe(s)] == [0, 1, 2, 5]


def test_a_rest_ends_at_the_agreed_step():
    """Also where the rhythm alone would wake up earlier."""
    rhythm = Rhythm(Settings(pulse=False))
    probed(rhythm, 60)
    rhythm.agree(173)
    assert rhythm.rest(60) == 113


def test_the_next_probe_is_the_one_the_rhythm_alone_would_take():
    """Rank 0 tells it before the cost of the probe is known."""
    rhythm, alone = Rhythm(Settings()), Rhythm(Settings())
    step, steps = 0, []
    while step < 401:
        steps.append(step)
        step = rhythm.next_probe(step)
    assert steps == probed(alone, 401)


def test_the_next_probe_follows_the_costs():
    """A probe of 1 s in steps of 0.1 s: every 2,000 steps."""
    rhythm = Rhythm(Settings())
    rhythm.note_step(0.1)
    for step in (0, 1, 2, 5, 10, 20, 50):
        rhythm.note_probe(step, 1.0)
    assert rhythm.next_probe(50) == 2050


def test_a_burst_waits_for_the_next_common_probe():
    """There the others learn of it."""
    rhythm = Rhythm(Settings())
    rhythm.agree(200)
    rhythm.burst(100)
    assert rhythm.next_probe(200) == 201
    assert rhythm.next_probe(201) == 202
    assert rhythm.next_probe(202) == 300


def test_the_first_common_probe_depends_on_no_cost():
    """So every process finds the same one."""
    slow = Rhythm(Settings())
    slow.note_step(1e-6)
    slow.note_probe(0, 100.0)
    for step, first in ((4, 5), (20, 50), (60, 100), (100, 200)):
        assert slow.first_common(step) == Rhythm(Settings()).first_common(step) == first
    assert Rhythm(Settings(every=7)).first_common(14) == 21
