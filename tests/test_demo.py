"""The demo: networks that are really trained, and verdicts that it cannot fake."""

import io
import random
from dataclasses import replace

import pytest
import torch

from gradwatch import demo
from gradwatch.console_demo import DemoScreen
from gradwatch.demo_nets import NETS
from gradwatch.errors import GradWatchError
from gradwatch.findings import Health

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
        screen.summarise(outcomes)
    stream.seek(0)
    return stream.read()


def train(name, steps):
    """Return the outcome of one network of the demo after a few steps."""
    images, digits = demo.load_digits()
    net = BY_NAME[name]
    pixels = demo.prepare(images, net.pixels)
    return demo.diagnose(net, pixels, digits, steps, lambda step, loss: None)


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


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_every_network_is_named_as_it_is(seed, monkeypatch, capsys):
    """The whole demo, also with another seed."""
    monkeypatch.setattr(demo, "_SEED", seed)
    status = demo.main()
    assert status == 0, capsys.readouterr().out
