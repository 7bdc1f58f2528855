"""The Lightning callback is harmless, and measures what a plain loop would."""

import contextlib
import copy
import sys

import pytest
import torch
from torch import nn

import gradwatch

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from tests.lightning_fits import (  # noqa: E402
    BATCHES,
    callback,
    data,
    fit,
    gan_class,
    module_class,
    net,
    same_weights,
    trainer_of,
)

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("direct", [False, True], ids=["self(x)", "self.model(x)"])
def test_both_packages_find_the_sick_layers(tmp_path, package, direct):
    """Whichever the Trainer is from, and whether or not the root is called."""
    pytest.importorskip(package)
    ours = callback()
    fit(tmp_path, ours, package=package, direct=direct)
    assert ours.report.findings[0].code == "GW101"
    assert ours.report.findings[0].layers[0].startswith("model.")
    assert ours.report.run.steps == 2 * BATCHES
    assert ours.report.run.loss_known


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd"},
        {"direct": True},
        {"accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"fast_dev_run": True},
    ],
    ids=str,
)
def test_training_is_bit_identical_with_the_callback(tmp_path, options):
    """Weights at the end are the same to the last bit, dropout included."""
    start = net(4, nn.Tanh)
    plain, _ = fit(tmp_path, None, start, **options)
    ours = callback(every=1)
    watched, _ = fit(tmp_path, ours, start, **options)
    assert same_weights(plain, watched)
    assert ours.report.run.failure == ""
    assert ours.report.run.steps > 0
    assert not any(m._forward_hooks for m in watched.modules())


def plain_loop(start, epochs=2, scaler=None, clip=None):
    """Train as Lightning does, by hand, under a watch; return the history."""
    torch.manual_seed(0)
    module = module_class()(copy.deepcopy(start), "sgd")
    optimizer = module.configure_optimizers()
    cast = contextlib.nullcontext()
    if scaler is not None:
        cast = torch.autocast("cpu", torch.float16, cache_enabled=False)
    with gradwatch.watch(module, console=None, every=3, scaler=scaler) as watch:
        for _ in range(epochs):
            for x, y in data():
                optimizer.zero_grad()
                with cast:
                    loss = nn.functional.cross_entropy(module(x), y)
                watch.log(loss=loss)
                if scaler is None:
                    loss.backward()
                else:
                    scaler.scale(loss).backward()
                    scaler.unscale_(optimizer)
                if clip is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
    return watch.history


def assert_equal(first, second):
    """Compare two histories to the last digit; the layers' times are not in them."""
    assert [p.step for p in first.probes] == [p.step for p in second.probes]
    for a, b in zip(first.probes, second.probes, strict=True):
        assert (a.layers, a.parameters) == (b.layers, b.parameters)
        assert (a.chains, a.activations, a.loss) == (b.chains, b.activations, b.loss)
    for a, b in zip(first.pulses, second.pulses, strict=True):
        for name in ("step", "grad_norm", "step_grad_norm", "clip_factor", "loss"):
            assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("clip", [None, 1e-3], ids=["", "clipped"])
def test_statistics_are_those_of_a_plain_loop(tmp_path, clip):
    """The same numbers to the last digit, before clipping and after."""
    start = net(4, nn.Tanh)
    ours = callback(every=3)
    fit(tmp_path, ours, start, optimizer="sgd", gradient_clip_val=clip)
    plain = plain_loop(start, clip=clip)
    assert_equal(plain, ours.watch.history)
    if clip is not None:
        assert plain.pulses[0].grad_norm > 10 * clip
        assert plain.pulses[0].step_grad_norm == pytest.approx(clip, rel=1e-3)


def test_the_loss_scale_is_divided_out(tmp_path):
    """Norms and loss under a scaler are those of a plain loop with one."""
    from lightning.pytorch.plugins import MixedPrecision

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=256.0)

    start = net(4, nn.Tanh)
    ours = callback(every=3)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler())
    fit(tmp_path, ours, start, optimizer="sgd", plugins=[plugin])
    assert_equal(plain_loop(start, scaler=scaler()), ours.watch.history)
    assert ours.watch.history.pulses[0].loss == pytest.approx(1.386, abs=0.4)


def test_micro_batches_are_one_step_with_the_mean_of_their_losses(tmp_path):
    """Four batches a step, and two in the last one: each mean is over its own."""
    losses = []

    class Noting(module_class()):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    torch.manual_seed(0)
    ours = callback(every=1)
    trainer = trainer_of(tmp_path, [ours], max_epochs=1, accumulate_grad_batches=4)
    trainer.fit(Noting(net(3, nn.Tanh), "sgd"), data())
    pulses = ours.watch.history.pulses
    assert [pulse.step for pulse in pulses] == [0, 1]
    assert pulses[0].loss == pytest.approx(sum(losses[:4]) / 4, rel=1e-6)
    assert pulses[1].loss == pytest.approx(sum(losses[4:]) / 2, rel=1e-6)


def test_sanity_checking_and_validation_are_not_watched(tmp_path):
    """Only steps of the optimizer count."""

    class Validated(module_class()):
        def validation_step(self, batch, batch_idx):
            self.log("val", self(batch[0]).mean())

    torch.manual_seed(0)
    ours = callback(every=1)
    trainer = trainer_of(tmp_path, [ours], num_sanity_val_steps=2, max_epochs=1)
    trainer.fit(Validated(net(3, nn.Tanh)), data(), data(32))
    history = ours.watch.history
    assert [probe.step for probe in history.probes] == list(range(BATCHES))
    assert ours.report.run.failure == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_manual_optimization_with_two_optimizers(tmp_path, package):
    """Both are read, each at its step; the loss is that of the clock's step."""
    pytest.importorskip(package)

    def train(callbacks):
        torch.manual_seed(0)
        module = gan_class(package)()
        trainer_of(tmp_path, callbacks, package, max_epochs=1).fit(module, data())
        return module

    ours = callback(every=1)
    watched = train([ours])
    assert same_weights(watched, train([]))
    updates = {p.layer for p in ours.watch.history.latest.parameters if p.update_ratio}
    assert {"critic.0", "maker.0"} <= updates
    assert ours.report.run.steps == BATCHES
    known = [pulse.loss for pulse in ours.watch.history.pulses]
    assert known == pytest.approx(watched.critic_losses, rel=1e-6)


def test_a_compiled_module_trains_the_same(tmp_path):
    """What cannot be seen inside is said; nothing is changed."""

    class Silent(module_class()):
        def training_step(self, batch, batch_idx):
            # `self.log` cannot be compiled: Lightning 2.6 on torch 2.13.
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    start = net(3, nn.Tanh)

    def train(callbacks):
        torch.manual_seed(0)
        module = Silent(copy.deepcopy(start), "sgd")
        compiled = torch.compile(module, backend="eager")
        trainer_of(tmp_path, callbacks).fit(compiled, data())
        return module

    ours = callback()
    assert same_weights(train([ours]), train([]))
    assert ours.report.run.steps == 2 * BATCHES
    assert ours.report.run.failure == ""


def test_a_second_fit_has_a_report_of_its_own(tmp_path):
    """The callback begins anew with every fit."""
    ours = callback()
    fit(tmp_path, ours, net(3, nn.ReLU))
    first = ours.report
    fit(tmp_path, ours, net())
    assert first.findings == ()
    assert ours.report.findings[0].code == "GW101"
    assert ours.report.run.steps == 2 * BATCHES


def test_it_is_a_callback_of_every_package_in_use(tmp_path):
    """A `LightningCLI` asks for its own package's class; Trainers take either."""
    from gradwatch.integrations import lightning as ours

    packages = [pytest.importorskip(name) for name in PACKAGES]
    assert ours._bases() == tuple(package.Callback for package in packages)
    both = type("Both", (ours._Hooks, *ours._bases()), {})
    for package in PACKAGES:
        one = both(console=None)
        fit(tmp_path, one, package=package)
        assert one.report.findings[0].code == "GW101"


def test_without_lightning_it_says_what_to_install(monkeypatch):
    """Either package will do; with none the message names both."""
    from gradwatch.integrations import lightning as ours

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    other = pytest.importorskip("pytorch_lightning")
    assert ours._bases() == (other.Callback,)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(gradwatch.GradWatchError, match="pip install lightning"):
        ours._bases()
