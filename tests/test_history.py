"""A bounded memory: rings, first things kept, medians."""

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.history import History
from gradwatch.records import PulseRecord
from gradwatch.testing import make_history, make_pulses, make_step


def test_memory_does_not_grow_with_steps():
    """Old records go; the first probe, loss and learning rate stay known."""
    history = History(max_probes=4, max_pulses=8)
    for step in range(1000):
        history.add_pulse(make_pulses([1.0], losses=[10.0 - step], start=step)[0])
        history.add_probe(make_step(step, lr=0.1 if step == 3 else 0.01))
    assert len(history.probes) == 4
    assert len(history.pulses) == 8
    assert history.first_probe.step == 0
    assert history.first_loss == 10.0
    assert history.max_lr == 0.1
    assert (history.num_probes, history.num_pulses) == (1000, 1000)
    assert history.last_step == 999
    assert history.latest.step == 999


def test_a_large_network_keeps_fewer_probes_but_eight():
    """As many as their records allow; the newest eight however large they are."""
    names = [f"layer{n}" for n in range(50)]
    probe = make_step(0, names=names)
    size = len(probe.layers) + len(probe.activations) + len(probe.parameters)
    assert size >= 100
    for room, kept in ((20, 20), (20.9, 20), (2, 8), (1000, 64)):
        history = History(max_records=int(room * size))
        for step in range(100):
            history.add_probe(make_step(step, names=names))
        assert [p.step for p in history.probes] == list(range(100 - kept, 100))
        assert history.first_probe.step == 0


def test_windows_are_of_the_newest_probes():
    """First and last step of as many probes as there are."""
    history = make_history(*(make_step(step) for step in (0, 1, 2, 5)))
    assert history.window(2) == (2, 5)
    assert history.window(99) == (0, 5)
    assert [r.step for r in history.recent(3)] == [1, 2, 5]
    assert history.recent(0) == ()
    assert History().window(3) == (0, 0)
    assert History().latest is None


def test_losses_come_from_probes_and_pulses_once_a_step():
    """Oldest first; unknown ones are left out."""
    history = make_history(
        make_step(0, loss=4.0),
        make_step(2, loss=2.0),
        pulses=make_pulses([1.0] * 4, losses=[None, 3.0, 2.0, math.nan]),
    )
    losses = list(history.losses())
    assert losses[:3] == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert history.loss_ratio() == pytest.approx(2.5 / 4.0)  # the first third is old


@pytest.mark.parametrize("losses", [[], [1.0], [0.0, 1.0], [-1.0, 1.0], [math.nan] * 3])
def test_a_loss_ratio_that_means_nothing_is_none(losses):
    """Too few losses, or a first one that is not positive."""
    history = make_history(pulses=make_pulses(losses=losses))
    assert history.loss_ratio() is None


def test_a_running_median_looks_back_only():
    """The pulse itself is not in it; fewer than five values are too few."""
    history = make_history(pulses=make_pulses([1, 2, 3, 4, 5, 100, None, math.inf]))

    def median(index, window=50):
        return history.running_median(index, window, lambda pulse: pulse.grad_norm)

    assert median(4) is None
    assert median(5) == 3
    assert median(6) == 3.5
    assert median(8) == 3.5
    assert median(6, window=5) == 4
    assert median(6, window=4) is None


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=30))
def test_the_early_norm_is_the_median_of_the_first(norms):
    """Later norms do not move it."""
    history = make_history(pulses=make_pulses([math.nan, 0.0, None, *norms]))
    first = sorted(norms[:10])
    assert first[0] <= history.early_grad_norm <= first[-1]
    again = make_history(pulses=make_pulses([*norms[:10], *[1e9] * 20]))
    if len(norms) >= 10:
        assert again.early_grad_norm == history.early_grad_norm


def test_skipped_steps_are_counted():
    """What the gradient scaler skipped."""
    history = make_history(pulses=make_pulses([None] * 3, skipped=True))
    assert history.num_skipped == 3


def test_a_number_of_a_kept_probe_is_computed_once():
    """And again for another probe, also after the ring has dropped the first ones."""
    history = History(max_probes=3)
    asked = []

    def number(record):
        asked.append(record.step)
        return float(record.step)

    for step in range(6):
        history.add_probe(make_step(step))
        for probe in history.probes:
            assert history.derived(probe, "step", number) == probe.step
    assert asked == list(range(6))
    assert len(history._derived) == 3


def test_medians_are_kept_by_the_pulse_they_belong_to():
    """A window of a ring that has moved on is another one."""
    history = History(max_pulses=8)
    for step in range(20):
        history.add_pulse(PulseRecord(step, grad_norm=float(step)))
        last = history.num_kept_pulses - 1
        expected = None if step < 5 else median(range(max(0, step - 7), step))
        assert history.running_median(last, 7, norm_of) == expected


def norm_of(pulse):
    """Return what the medians are of."""
    return pulse.grad_norm
