"""`check()`: what it says before training, and that it leaves everything as it was."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from gradwatch.errors import ModelError, SettingsError
from gradwatch.findings import Confidence
from tests.harmless import alike, hooks_on, noisy_net, state_of


def loss_fn(model, batch):
    """Return the loss of a batch."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def batch():
    """Return inputs and targets."""
    return torch.randn(7, 6), torch.randint(3, (7,))


def states():
    """Return the random states of Python, NumPy and torch."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - what models use
    return [random.getstate(), name, keys.tolist(), *rest, torch.get_rng_state()]


@pytest.mark.parametrize("given_loss", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_user_changes(given_loss, training):
    """Weights, gradients, buffers, mode, hooks, random states, the batch itself."""
    torch.manual_seed(0)
    model = noisy_net().train(training)
    model(torch.randn(5, 6)).sum().backward()
    x, y = batch()
    x.requires_grad_().sum().backward()
    kept = x.detach().clone(), x.grad.clone()
    before, drawn = state_of(model), states()
    if given_loss:
        gradwatch.check(model, (x, y), loss_fn=loss_fn)
    else:
        gradwatch.check(model, x)
    assert alike(before, state_of(model))
    assert alike(drawn, states())
    assert torch.equal(kept[0], x)
    assert torch.equal(kept[1], x.grad)
    assert hooks_on(model) == []


def test_a_model_that_draws_from_python_is_left_alone():
    """LayerDrop by `random.random()` and noise from NumPy do not move their states."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                if random.random() < 0.9 and np.random.rand() < 0.9:  # noqa: NPY002
                    x = layer(x)
            return x

    drawn = states()
    gradwatch.check(Dropping(), torch.randn(5, 6))
    after = states()
    assert drawn[:3] == after[:3]


def test_it_works_without_gradients_around_it():
    """Inside `no_grad`, as in a notebook cell that inspects a model."""
    with torch.no_grad():
        report = gradwatch.check(noisy_net(), batch(), loss_fn=loss_fn)
        assert not torch.is_grad_enabled()
    assert report.layers[0].grad_norm > 0


def sick(depth=20):
    """Return a deep sigmoid net."""
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(32, 32), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(32, 3))


def test_a_sick_net_is_named_with_low_confidence():
    """One probe confirms nothing."""
    report = gradwatch.check(sick(), torch.randn(16, 32))
    codes = {finding.code: finding for finding in report.findings}
    assert codes["GW101"].confidence is Confidence.LOW
    assert any("random cotangent" in note for note in report.run.notes)


def test_a_sound_net_shows_no_sign():
    """And is not called healthy after one look."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)), nn.Linear(32, 3))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    report = gradwatch.check(model, torch.randn(16, 32))
    assert report.findings == ()
    assert report.health is gradwatch.Health.UNKNOWN
    assert "no sign of" in report.sentence


class Takes(nn.Module):
    """Accepts what its signature says."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))


class Two(Takes):
    """Two tensors."""

    def forward(self, x, y):
        return self.layers(x + y)


class Named(Takes):
    """Keywords only, and its own loss."""

    def forward(self, *, x):
        return Output(self.layers(x).square().mean())


class Output:
    """An object with a loss."""

    def __init__(self, loss):
        self.loss = loss


class Whole(Takes):
    """One mapping."""

    def forward(self, batch):
        return self.layers(batch["x"])


class Scalar(Takes):
    """Returns its loss."""

    def forward(self, x):
        return self.layers(x).square().mean()


X = torch.randn(5, 4)


@pytest.mark.parametrize(
    ("model", "given", "random_cotangent"),
    [
        (Two(), (X, X), True),
        (Two(), [X, X], True),
        (nn.Sequential(Takes().layers), (X, torch.zeros(5).long()), True),
        (Named(), {"x": X}, False),
        (Whole(), {"x": X}, True),
        (Scalar(), X, False),
        (Scalar(), (X,), False),
    ],
    ids=["tuple", "list", "target-left-out", "mapping", "whole", "scalar", "one-tuple"],
)
def test_batches_of_many_kinds_fit(model, given, random_cotangent):
    """Positional, keywords, a whole mapping; targets the model does not take."""
    report = gradwatch.check(model, given)
    notes = " ".join(report.run.notes)
    assert ("random cotangent" in notes) is random_cotangent
    assert all(layer.grad_norm for layer in report.layers)


def test_the_loss_decides_the_size_of_gradients():
    """With a loss function the numbers are those of that loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = batch()
    report = gradwatch.check(model, (x, y), loss_fn=loss_fn)
    out = model(x)
    out.retain_grad()
    F.cross_entropy(out, y).backward()
    norms = {layer.name: layer.grad_norm for layer in report.layers}
    assert norms["2"] == pytest.approx(float(out.grad.norm()), rel=1e-5)
    thousand = gradwatch.check(
        model, (x, y), loss_fn=lambda m, b: 1000.0 * loss_fn(m, b)
    )
    assert thousand.layers[0].grad_norm == pytest.approx(1000 * norms["0"], rel=1e-4)


def test_what_does_not_fit_is_explained():
    """A batch the model does not take, a loss that is none, a model that is stuck."""
    with pytest.raises(ModelError, match=r"does not fit the model's forward"):
        gradwatch.check(Two(), X)
    with pytest.raises(ModelError, match=r"must return a scalar.*shape \(5, 2\)"):
        gradwatch.check(Takes().layers, X, loss_fn=lambda m, b: m(b))
    with pytest.raises(ModelError, match=r"must return a scalar.*float"):
        gradwatch.check(Takes().layers, X, loss_fn=lambda m, b: 0.5)
    with pytest.raises(ModelError, match="no tensor with a gradient"):
        gradwatch.check(Takes().layers.requires_grad_(False), X)
    with pytest.raises(SettingsError, match=r"`loss_fn`.*callable"):
        gradwatch.check(Takes().layers, X, loss_fn=3)
    with pytest.raises(SettingsError, match="is not a setting"):
        gradwatch.check(Takes().layers, X, settings={"nope": 1})


def test_a_model_that_keeps_its_last_output_is_explained():
    """Such a model cannot be copied; the message says why and what to do."""
    model = Scalar()
    model.last = model(X)
    with pytest.raises(ModelError, match=r"cannot be copied.*before the first forward"):
        gradwatch.check(model, X)


def test_errors_of_the_model_are_the_users():
    """A wrong shape raises what torch raises, and leaves nothing behind."""
    model = noisy_net()
    x = torch.randn(3, 9)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gradwatch.check(model, x)
    assert alike(before, state_of(model))


def test_a_watched_model_may_be_checked():
    """The copy does not tell the watch."""
    model = noisy_net()
    with gradwatch.watch(model, console=None, every=1) as watch:
        gradwatch.check(model, batch(), loss_fn=loss_fn)
        assert watch.history.num_probes == 0
        assert watch._observer.step == 0
