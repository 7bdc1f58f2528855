"""An error of gradwatch's own: training goes on, one warning, a report that says so."""

import copy
import gc
import warnings
from contextlib import contextmanager

import pytest
import torch

import gradwatch
from gradwatch.errors import DetachedWarning
from tests.harmless import (
    alike,
    global_hooks,
    hooks_on,
    small_net,
    state_of,
    train_briefly,
)


@pytest.fixture(autouse=True)
def nothing_is_left_in_torch():
    """Hold that no global optimizer hook outlives a test."""
    yield
    gc.collect()
    assert global_hooks() == []


@contextmanager
def detached_warnings():
    """Collect warnings of ours; any other warning is an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", DetachedWarning)
        yield caught


def sick_net():
    """Return a net on which a rule fires at once."""
    model = small_net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
    return model


def expected_state(model):
    """Return the state after training a copy without gradwatch."""
    twin = copy.deepcopy(model)
    return state_of(twin, [train_briefly(twin)])


class BoomError(Exception):
    """Raised by what the tests break."""


def boom(*args, **kwargs):
    """Fail."""
    raise BoomError("made to fail")


BROKEN = [
    "gradwatch.probe.Probe.enter",
    "gradwatch.probe.Probe.leave",
    "gradwatch.probe.Probe.begin_backward",
    "gradwatch.probe_graph.Graph",
    "gradwatch.probe.rms",
    "gradwatch.probe_books.l2_norm",
    "gradwatch.probe_graph.plan_chains",
    "gradwatch.probe_step.exact_norms",
    "gradwatch.probe_step.applied_update",
    "gradwatch.pulse.foreach_norms",
    "gradwatch.deliveries.build_record",
    "gradwatch.watched_model.describe",
    "gradwatch.observer.Observer.on_root_forward",
    "gradwatch.observer.Observer.on_root_output",
    "gradwatch.observer.Observer.on_backward_end",
    "gradwatch.observer.Observer.on_step_begin",
    "gradwatch.observer.Observer.on_step_end",
    "gradwatch.optimizer_roles.OptimizerRoles.owned",
    "gradwatch.ledger.Ledger.transfer",
    "gradwatch.detector.Detector.update",
    "gradwatch.rules.vanishing_gradient.VanishingGradient.judge",
]


@pytest.mark.parametrize("target", BROKEN)
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside-another"])
def test_an_error_of_ours_leaves_training_alone(target, others, monkeypatch):
    """One warning, no hook left, the same bits, and a report that says so."""
    model = small_net()
    expected = expected_state(model)
    monkeypatch.setattr(target, boom)
    with detached_warnings() as caught:
        with gradwatch.watch(model, console=None, every=1) as watch:
            second = [
                gradwatch.watch(model, console=None, every=2) for _ in range(others)
            ]
            result = state_of(model, [train_briefly(model)])
            report = watch.report()
        for other in second:
            other.close()
    assert alike(expected, result)
    assert len(caught) == 1 + others
    assert "BoomError: made to fail" in str(caught[0].message)
    assert hooks_on(model) == []
    assert not watch._observer.attached
    assert "made to fail" in report.run.failure


def test_a_warning_filter_of_error_does_not_end_training(monkeypatch):
    """Under `-W error` our failure is printed, not raised."""
    monkeypatch.setattr("gradwatch.probe.Probe.leave", boom)
    model = small_net()

    def loop():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with gradwatch.watch(model, console=None, every=1):
                train_briefly(model)

    with pytest.warns(DetachedWarning):
        loop()


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside-another"])
def test_a_callback_that_raises_is_ours_to_bear(others):
    """`on_finding` fails inside an optimizer step, while torch walks its hooks."""
    model = sick_net()
    expected = expected_state(model)
    with detached_warnings() as caught:
        watch = gradwatch.watch(model, console=None, every=1, on_finding=boom)
        second = [gradwatch.watch(model, console=None, every=1) for _ in range(others)]
        result = state_of(model, [train_briefly(model)])
        report = watch.report()
        for other in (watch, *second):
            other.close()
    assert len(caught) == 1
    assert alike(expected, result)
    assert hooks_on(model) == []
    assert "made to fail" in report.run.failure
    assert report.findings  # found before it was told


def test_closing_from_a_callback_is_possible():
    """`watch.close()` inside an optimizer step does not disturb that step."""
    model = sick_net()
    closed = []

    def close(finding):
        watch.close()
        closed.append(finding.code)

    watch = gradwatch.watch(model, console=None, every=1, on_finding=close)
    other = gradwatch.watch(model, console=None, every=1)
    train_briefly(model)
    other.close()
    assert closed
    train_briefly(model, 1)
    assert hooks_on(model) == []


class BrokenView:
    """A console on which nothing can be printed."""

    def __init__(self, which):
        self.which = which

    def __getattr__(self, name):
        return boom if name == self.which else lambda *args: None


@pytest.mark.parametrize("which", ["on_probe", "on_finding", "on_close"])
def test_a_console_that_fails_is_told_once(which, monkeypatch):
    """Nothing can be printed: one warning, training goes on."""
    monkeypatch.setattr(
        "gradwatch.session._console_view", lambda mode, name: BrokenView(which)
    )
    model = sick_net()
    expected = expected_state(model)
    with detached_warnings() as caught:
        with gradwatch.watch(model, every=1) as watch:
            result = state_of(model, [train_briefly(model)])
        report = watch.report()
    assert len(caught) == 1
    assert alike(expected, result)
    assert "made to fail" in report.run.failure
