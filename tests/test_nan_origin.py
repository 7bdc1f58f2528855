"""Which module made the first NaN: at a probe, between probes, or not to be known."""

import pytest
import torch
from torch import nn

from tests.harmless import alike, state_of, watched

BAD_STEP = 3  # not a probe of the default rhythm


class Root(nn.Module):
    """The square root of its input, which may be negative."""

    def forward(self, x):
        return x.sqrt()


class Net(nn.Module):
    """Two layers around a square root that is sound as long as its input is."""

    def __init__(self, keep=False):
        super().__init__()
        self.first, self.root, self.last = nn.Linear(4, 6), Root(), nn.Linear(6, 2)
        self.drop = nn.Dropout(0.1)
        self.keep = keep

    def forward(self, x, shift=8.0):
        x = self.root(self.drop(self.first(x)) + shift)
        x = self.last(x)
        if self.keep:
            self.kept = x
        return x


def run(model, bad, steps=5, **options):
    """Train; at step `BAD_STEP` the shift is `bad`; return the watch."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with watched(model, **options) as watch:
        for step in range(steps):
            optimizer.zero_grad()
            x = torch.randn(5, 4)
            out = model(x, shift=bad if step == BAD_STEP else 8.0)
            out.square().mean().backward()
            optimizer.step()
    return watch


@pytest.mark.parametrize("options", [{"every": 1}, {}], ids=["probe", "replay"])
def test_the_first_bad_module_is_named(options):
    """Finite inputs, non-finite output: at a probe, or by a replay between probes."""
    torch.manual_seed(0)
    watch = run(Net(), bad=-8.0, **options)
    origins = [p.non_finite for p in watch.history.probes if p.non_finite is not None]
    assert origins[0].step == BAD_STEP
    assert origins[0].layer == "root"
    assert origins[0].where == "forward"
    finding = next(f for f in watch.report().findings if f.code == "GW205")
    assert "root" in finding.layers


def test_a_bad_input_is_told_from_a_bad_module():
    """The first layer's input was not finite already."""
    torch.manual_seed(0)
    watch = run(Net(), bad=float("nan"))
    origin = next(p.non_finite for p in watch.history.probes if p.non_finite)
    assert (origin.layer, origin.where) == ("root", "input")


def test_a_bad_gradient_is_told_from_a_bad_forward():
    """The square root of exactly zero has an infinite gradient."""
    torch.manual_seed(0)
    model = Net()
    model.drop.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with watched(model, every=1) as watch:
        out = model(torch.zeros(5, 4), shift=-model.first.bias.detach())
        out.square().mean().backward()
        optimizer.step()
    origin = watch.history.first_probe.non_finite
    assert (origin.layer, origin.where) == ("drop", "backward")  # just below the root


def test_a_model_that_cannot_be_copied_has_an_unknown_origin():
    """It keeps a tensor of its last forward; gradwatch goes on."""
    torch.manual_seed(0)
    watch = run(Net(keep=True), bad=-8.0)
    assert watch._observer.origin.where == "unknown"
    assert "could not run" in watch._observer.origin.detail
    assert "GW205" in {finding.code for finding in watch.report().findings}


def test_a_replay_leaves_the_model_as_it_is():
    """Weights, gradients, buffers and the random state of the step that went wrong."""
    results = []
    for options in ({"settings": {"nan_origin": "off"}}, {}):
        torch.manual_seed(0)
        model = Net()
        watch = run(model, bad=-8.0, **options)
        results.append(state_of(model))
    assert watch._observer.origin is not None
    assert alike(*results)


def test_a_logged_loss_may_go_on_changing():
    """A running sum that is logged and then added to is read as it was."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    total = torch.zeros((), dtype=torch.float64)
    with watched(model, every=1) as watch:
        for _ in range(3):
            model(torch.randn(5, 4)).square().mean().backward()
            total += 1.0
            watch.log(loss=total)
            total += 100.0
            optimizer.step()
            total -= 100.0
    assert [pulse.loss for pulse in watch.history.pulses] == [1.0, 2.0, 3.0]
