"""The demo: networks that are really trained, and verdicts that it cannot fake."""

import io
import random
from dataclasses import replace

import pytest
import torch

from gradwatch import demo, demo_patient
from gradwatch.console_demo import DemoScreen
from gradwatch.demo_nets import NETS, Cure
from gradwatch.demo_patient import Patient
from gradwatch.errors import GradWatchError
from gradwatch.findings import Health
from gradwatch.recommendations import Verdict

BY_NAME = {net.name: net for net in NETS}


def shown(outcomes, width=80, encoding="utf-8"):
    """Return what the demo prints of these outcomes."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    nets = [outcome.net for outcome in outcomes]
    with DemoScreen(nets, 1797, width, stream) as screen:
        for outcome in outcomes:
            screen.start(outcome.net, outcome.steps)
            screen.step(5, 1.0)
            screen.show(outcome)
            if not outcome.well:
                screen.show_cure(outcome)
        screen.summarise(outcomes)
    stream.seek(0)
    return stream.read()


def train(name, steps):
    """Return the outcome of one network of the demo after a few steps."""
    images, digits = demo.load_digits()
    net = BY_NAME[name]
    pixels = demo.prepare(images, net.pixels)
    patient = Patient(net, pixels, digits, steps)
    outcome = patient.diagnose(nothing)
    return outcome if outcome.well else patient.treat(outcome, nothing)


def nothing(step, loss):
    """Be told of a step and do nothing."""


@pytest.fixture(scope="module")
def outcomes():
    """A sick and a healthy network after two passes over the data."""
    return [train("sigmoid-mlp", 58), train("he-mlp", 58)]


def test_two_networks_are_told_apart(capsys):
    """The status is 0 where sick and healthy are named as they are."""
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    assert demo.main(quick=True, only=["sigmoid-mlp", "residual-cnn"], width=80) == 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    output = capsys.readouterr().out
    assert "VANISHING, as expected" in output
    assert "HEALTHY, as expected" in output
    assert "2 of 2 verdicts as expected" in output
    assert "\x1b" not in output
    assert all(
        len(line) <= 80 == line.isprintable() * 80 for line in output.split("\n")
    )


def test_the_networks_learn_or_do_not(outcomes):
    """Training is real: the healthy network's loss falls, the sick one's does not."""
    sick, well = outcomes
    assert sick.last_loss > 0.95 * sick.first_loss
    assert well.last_loss < 0.95 * well.first_loss


def test_a_treated_network_learns(outcomes):
    """The remedy is gradwatch's own, its trial is real, and so is what comes of it."""
    sick, well = outcomes
    assert well.cure is None
    *others, chosen = sick.cure.tried
    assert chosen in [
        replace(item, trial=chosen.trial) for item in sick.report.recommendations
    ]
    assert chosen.trial.verdict is Verdict.HELPED
    assert not [item for item in others if item.trial.verdict is Verdict.HELPED]
    assert sick.accuracy < 0.3
    assert sick.cure.treated.accuracy > 0.6
    assert sick.cure.treated.finding is None
    text = " ".join(shown(outcomes).split())
    assert f"remedy {sick.cure.tried[0].title}" in text
    assert "HELPED treated 58 steps in" in text
    assert "1 of 1 sick network had a remedy that code can apply." in text


def test_remedies_that_did_not_help_are_shown_as_such(outcomes):
    """No network is trained with them, and the table has no accuracy."""
    sick, _ = outcomes
    chosen = sick.cure.tried[-1]
    trial = replace(chosen.trial, verdict=Verdict.HURT, reason="It got worse.")
    trial = replace(trial, losses_after=tuple(x + 1 for x in trial.losses_before))
    text = shown([replace(sick, cure=Cure((replace(chosen, trial=trial),)))])
    assert ": HURT" in text
    assert "treated   " not in text
    assert "helps for 0 (the first one for 0)" in " ".join(text.split())
    alone = shown([replace(sick, cure=None)])
    assert "remedy    none that code can apply; for you: " in alone


def test_a_wrong_verdict_is_said_and_is_the_status(outcomes, monkeypatch, capsys):
    """A network that gradwatch judges otherwise than expected fails the demo."""
    _, well = outcomes
    wrong = replace(well.net, expected=Health.EXPLODING, rule="GW201")
    monkeypatch.setattr(demo, "NETS", (wrong,))
    monkeypatch.setattr(demo, "_QUICK_SHARE", 0.01)
    assert demo.main(quick=True) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "0 of 1 verdict as expected" in output
    assert "expected exploding (GW201), got healthy (no alarm)" in output


def test_the_right_health_by_the_wrong_rule_is_not_expected(outcomes):
    """A vanishing gradient over depth is not one over time."""
    sick, _ = outcomes
    assert sick.as_expected
    assert not replace(sick, net=replace(sick.net, rule="GW102")).as_expected


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_width(outcomes, width):
    """No line is wider than asked, and none ends in spaces."""
    lines = shown(outcomes, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]


def test_it_prints_where_the_encoding_is_ascii(outcomes):
    """Signs that a stream cannot hold are replaced."""
    output = shown(outcomes, encoding="ascii")
    assert "->" in output
    assert "?" not in output


def test_an_unknown_network_is_refused():
    """The message names those that there are."""
    name = f"net-{random.random()}"
    with pytest.raises(GradWatchError, match=f"{name}.*sigmoid-mlp"):
        demo.main(only=[name])
    with pytest.raises(GradWatchError, match="only"):
        demo.main(only=[])


def test_names_are_unique_and_a_rule_is_named_for_the_sick():
    """Each network can be asked for, and each sick one has its rule."""
    assert len(BY_NAME) == len(NETS)
    for net in NETS:
        assert (net.rule is None) == (net.expected is Health.HEALTHY), net.name


@pytest.mark.slow
def test_every_network_is_named_as_it_is(monkeypatch, capsys):
    """The whole demo with another seed; `.ci/run demo` runs it with its own."""
    monkeypatch.setattr(demo_patient, "_SEED", 1)
    status = demo.main()
    assert status == 0, capsys.readouterr().out
