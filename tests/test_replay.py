"""Replay: the copy runs as the model did, and the model stays as it is."""

import copy

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.captured_loss import CapturedLoss
from gradwatch.recommendations import Verdict
from gradwatch.replay import replay
from gradwatch.twin import make_twin, no_trace
from tests.harmless import alike, state_of
from tests.trial_models import (
    MODELS,
    Noisy,
    batches,
    deep,
    deep_batches,
    loss_fn,
    recommend,
    use_remedies,
)


@pytest.fixture(autouse=True)
def _remedies(monkeypatch):
    use_remedies(monkeypatch)
    torch.manual_seed(0)


def test_a_cure_is_seen_in_one_batch():
    """Ten sigmoids fade by 7 decades; ReLU with He weights by none."""
    net, batch = deep(), deep_batches()[0]
    result = replay(net, recommend("cure"), batch, loss_fn=loss_fn)
    assert result.verdict is Verdict.HELPED, result.reason
    assert result.before.decades > 6
    assert abs(result.after.decades) < 1
    assert result.backpropagated == "loss_fn"
    assert result.changes
    assert result.before.loss == pytest.approx(loss_fn(net, batch).item(), rel=1e-6)


def test_harm_is_seen_in_one_batch():
    """Weights a hundredth of what they were make a sound net fade."""
    torch.manual_seed(0)
    net = deep(activation=nn.Tanh)
    for layer in net[::2]:
        nn.init.xavier_normal_(layer.weight)
    result = replay(net, recommend("harm"), deep_batches()[0], loss_fn=loss_fn)
    assert result.verdict is Verdict.HURT, result.reason


def test_a_treatment_that_changes_nothing_gives_the_same_profile():
    """Both copies run under one random state, dropout included."""
    result = replay(Noisy(), recommend("nothing"), batches()[0], loss_fn=loss_fn)
    assert result.verdict is Verdict.NO_CHANGE
    assert result.before == result.after


def test_a_learning_rate_is_not_judged_by_a_replay():
    """One batch has no step in it."""
    rate = recommend("rate", factor=0.1)
    result = replay(deep(), rate, deep_batches()[0], loss_fn=loss_fn)
    assert result.verdict is Verdict.NO_CHANGE
    assert "cannot judge" in result.reason


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(make, training):
    """Weights, gradients, buffers, mode, random states; the user's hooks stay quiet."""
    model = make().train(training)
    loss_fn(model, batches()[0]).backward()
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    before = state_of(model)
    result = replay(model, recommend("nothing"), batches()[0], loss_fn=loss_fn)
    assert result.verdict is not Verdict.FAILED, result.reason
    assert alike(before, state_of(model))
    assert calls == []


@pytest.mark.parametrize(
    ("name", "loss", "expected"),
    [
        pytest.param("broken", loss_fn, "cannot be done", id="treatment"),
        pytest.param("nothing", lambda m, b: 1 / 0, "division", id="loss"),
        pytest.param("nothing", lambda m, b: m(b[0]), "scalar", id="no-scalar"),
    ],
)
def test_what_cannot_run_fails_with_its_reason(name, loss, expected):
    """An error of the user's code is a result, and leaves nothing behind."""
    model = deep()
    before = state_of(model)
    result = replay(model, recommend(name), deep_batches()[0], loss_fn=loss)
    assert result.verdict is Verdict.FAILED
    assert expected in result.reason
    assert alike(before, state_of(model))


def train_and_capture(model, loss, data, steps=1):
    """Train a watched model at rate 0; return its last gradients and the capture."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    watch = gradwatch.watch(model, every=1, console=None)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, data[step % len(data)]).backward()
        optimizer.step()
    watch.close()
    return [p.grad.clone() for p in model.parameters()], watch._observer.capture


def replayed_gradients(model, capture):
    """Return the gradients of a copy that replays the last captured batch."""
    twin = make_twin(model, "a test")
    with no_trace():
        captured = CapturedLoss(capture.batches[-1])
        loss, how = captured.forward(twin)
        loss.backward()
    return [p.grad for p in twin.parameters()], how


@pytest.mark.parametrize("make", MODELS)
def test_a_replayed_cotangent_gives_the_same_gradients_bit_by_bit(make):
    """Clones, random state and modes of the captured forward are those of training."""

    def squares(model, batch):
        output = model(batch[0])
        return (output["logits"] if isinstance(output, dict) else output).pow(2).mean()

    model = make()
    own, capture = train_and_capture(model, squares, batches(), steps=3)
    again, how = replayed_gradients(model, capture)
    assert how == "captured cotangent"
    assert alike(own, again)


@pytest.mark.parametrize("make", MODELS)
def test_a_recognised_cross_entropy_gives_the_same_gradients(make):
    """Targets and weights are recovered, so the loss is the user's to rounding."""
    model = make()
    own, capture = train_and_capture(model, loss_fn, batches(), steps=3)
    again, how = replayed_gradients(model, capture)
    assert how == "cross-entropy recognised"
    for left, right in zip(own, again, strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-7)


def test_a_recognised_loss_of_another_network_is_its_true_loss():
    """Replayed on other weights it is the cross-entropy of those, not the old one."""
    model, data = deep(activation=nn.Tanh), deep_batches()
    _, capture = train_and_capture(model, loss_fn, data)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.2)
    with no_trace():
        loss, _ = CapturedLoss(capture.batches[-1]).forward(make_twin(other, "a test"))
    assert loss.item() == pytest.approx(loss_fn(other, data[0]).item(), rel=1e-4)


def test_the_loss_scale_is_not_in_a_recognised_loss():
    """A scaler multiplies the gradient; a trial trains on the user's loss."""
    model, (x, y) = deep(2), deep_batches()[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.watch(model, every=1, console=None) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(loss_fn(model, (x, y))).backward()
            scaler.step(optimizer)
            scaler.update()
    twin = make_twin(model, "a test")
    with no_trace():
        loss, how = CapturedLoss(watch._observer.capture.batches[-1]).forward(twin)
    assert how == "cross-entropy recognised"
    assert loss.item() == pytest.approx(loss_fn(model, (x, y)).item(), rel=1e-4)


def test_a_model_that_returns_its_loss_is_replayed_with_it():
    """Labels are among the inputs, so nothing need be recognised."""

    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = deep(2)

        def forward(self, x, labels=None):
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    model = WithLoss()
    own, capture = train_and_capture(
        model, lambda m, b: m(b[0], labels=b[1])["loss"], deep_batches()
    )
    again, how = replayed_gradients(model, capture)
    assert how == "the model's own loss"
    assert alike(own, again)
