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
