"""From a watch to its report: what was checked, its name, and what ended it."""

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.history import History
from gradwatch.run_facts import what_was_checked
from gradwatch.settings import Settings
from gradwatch.testing import (
    make_chain,
    make_history,
    make_pulses,
    make_step,
    make_structure,
)
from tests.sample_reports import make_finding


def checked(history, *findings):
    """Return the steps of the checked rules, and the reasons of the others."""
    done, left = what_was_checked(history, make_structure(), Settings(), findings)
    return {r.code: r.steps for r in done}, {r.code: r.reason for r in left}


def test_what_was_judged_before_a_nan_was_checked():
    """The newest probe has no trunk any more, the first ones had."""
    probes = [make_step(0), make_step(1), make_step(2, chains=[], layers=[])]
    pulses = make_pulses([1.0] * 12)
    done, left = checked(make_history(*probes, pulses=pulses))
    assert done["GW101"] == (0, 1)
    assert done["GW205"] == (0, 2)
    assert done["GW204"] == (2, 2)
    assert left["GW102"] == "no recurrent layer was observed"
    assert not done.keys() & left.keys()


def test_a_rule_is_checked_from_the_step_at_which_it_could_be():
    """Some need a few steps first."""
    done, _ = checked(make_history(*(make_step(step) for step in (0, 5, 20, 50))))
    assert done["GW106"] == (20, 50)
    assert done["GW302"] == (20, 50)


def test_a_rule_with_a_finding_was_checked():
    """Also where its probes are not kept any more."""
    history = History(max_probes=1)
    for step in (0, 1, 2):
        history.add_probe(make_step(step, chains=[make_chain(decades=-5.0)]))
    history.add_probe(make_step(5, chains=[], layers=[]))
    assert "GW201" in checked(history)[1]
    stood = make_finding("GW201", since_step=1, cleared_step=5, evidence=())
    assert checked(history, stood)[0]["GW201"] == (1, 5)


def test_nothing_is_checked_without_a_probe():
    """Every rule says so."""
    done, left = checked(History())
    assert not done
    assert set(left.values()) == {"no probe yet"}


def train(model, steps, **options):
    """Return the report on a few steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.watch(model, console=None, **options) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    return watch.report()


def test_a_name_tells_two_networks_apart():
    """The class name, unless one is given."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    named = train(model, 2, name="generator").run
    assert (named.name, named.model) == ("generator", "Sequential")
    assert train(model, 2).run.name == "Sequential"
    assert gradwatch.watch(model, console=None, name="a") is not gradwatch.watch(
        model, console=None, name="b"
    )
    for wrong in ("", " ", 3):
        with pytest.raises(gradwatch.SettingsError, match="`name`"):
            gradwatch.watch(model, name=wrong)


def test_an_error_of_ours_ends_the_verdict_and_says_so(monkeypatch):
    """With the step, and the error to report."""

    def fail(*args, **kwargs):
        raise ZeroDivisionError("made to fail")

    monkeypatch.setattr("gradwatch.session.Detector.update", fail)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.warns(gradwatch.DetachedWarning):
        report = train(model, 5)
    assert report.run.failure == "ZeroDivisionError: made to fail"
    assert report.sentence.startswith("gradwatch stopped at step ")
    assert report.run.failure in report.next_step
    assert "error of its own" not in " ".join(report.run.notes)
