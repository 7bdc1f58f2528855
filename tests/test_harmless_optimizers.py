"""Twenty steps of many kinds of optimizers are the same with gradwatch, bit by bit."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.harmless import RHYTHMS, compare
from tests.harmless import noisy_net as mlp
from tests.harmless import random_loss as loss_of

STEPS = 20
rhythms = pytest.mark.parametrize("rhythm", RHYTHMS)


@rhythms
def test_accumulation_clipping_and_schedule(rhythm):
    """Four micro-batches a step, clipped, with a learning-rate schedule."""

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
        for _ in range(STEPS):
            optimizer.zero_grad()
            for _ in range(4):
                (loss_of(model) / 4).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
            schedule.step()
        return optimizer

    watch = compare(mlp, loop, **rhythm)
    factors = [pulse.clip_factor for pulse in watch.history.pulses]
    assert all(factor is not None and factor < 1.0 for factor in factors)


@rhythms
@pytest.mark.parametrize("fused", [False, True], ids=["scaler", "fused"])
def test_a_gradient_scaler_with_an_overflow(rhythm, fused):
    """The first steps overflow and are skipped; a fused optimizer unscales itself."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=6)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model)
            if step in {0, 1, 9}:
                loss = loss * 1e30
            scaler.scale(loss).backward()
            if not fused:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        return optimizer

    watch = compare(mlp, loop, **rhythm)
    report = watch.report()
    assert report.run.skipped_steps == 3
    assert "GW205" not in {finding.code for finding in report.findings}
    for probe in watch.history.probes:
        norms = [r.grad_norm for r in probe.layers if r.grad_norm is not None]
        assert probe.non_finite is None
        assert not norms or max(norms) < 1e3


@rhythms
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_closures_of_lbfgs(rhythm, line_search):
    """The closure runs many times inside one step."""

    def loop(model):
        optimizer = torch.optim.LBFGS(
            model.parameters(), lr=0.1, max_iter=4, line_search_fn=line_search
        )
        x, y = torch.randn(7, 6), torch.randn(7, 3)

        def closure():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        losses = [optimizer.step(closure).detach() for _ in range(STEPS)]
        return [optimizer, *losses]

    watch = compare(mlp, loop, **rhythm)
    assert all(pulse.loss is not None for pulse in watch.history.pulses)


class MyAdam(torch.optim.Adam):
    """Overrides `step` and calls the base class's."""

    def step(self, closure=None):
        """Step, with a closure as a keyword."""
        return super().step(closure=closure)


@rhythms
def test_an_optimizer_that_overrides_step(rhythm):
    """Nested steps count once, with and without a closure."""

    def loop(model):
        optimizer = MyAdam(model.parameters(), lr=0.01)
        for step in range(STEPS):
            optimizer.zero_grad()
            if step % 2:
                loss_of(model).backward()
                optimizer.step()
            else:

                def closure():
                    loss = loss_of(model)
                    loss.backward()
                    return loss

                optimizer.step(closure)
        return optimizer

    watch = compare(mlp, loop, **rhythm)
    assert watch._observer.step == STEPS


class Gan(nn.Module):
    """A generator and a discriminator; never called as a whole."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
        self.critic = nn.Sequential(
            nn.Linear(4, 9), nn.LeakyReLU(0.2), nn.Linear(9, 9), nn.Linear(9, 1)
        )


@rhythms
def test_two_optimizers(rhythm):
    """Each is read at its own step; the one with the most parameters is the clock."""

    def loop(model):
        first = torch.optim.Adam(model.generator.parameters(), lr=0.01)
        second = torch.optim.Adam(model.critic.parameters(), lr=0.01)
        for _ in range(STEPS):
            second.zero_grad()
            fake = model.generator(torch.randn(5, 3))
            real = torch.randn(5, 4)
            loss = F.softplus(-model.critic(real)) + F.softplus(
                model.critic(fake.detach())
            )
            loss.mean().backward()
            second.step()
            first.zero_grad()
            F.softplus(-model.critic(fake)).mean().backward()
            first.step()
        return [first, second]

    watch = compare(Gan, loop, **rhythm)
    assert watch._observer.step == STEPS
    if rhythm.get("every") == 1:
        seen = {p.name for p in watch.history.latest.parameters if p.update_ratio}
        assert len(seen) == 10  # of both optimizers


@rhythms
def test_set_to_none_and_optimizer_in_backward(rhythm):
    """A step for every parameter inside the backward pass."""

    def loop(model):
        optimizers = {p: torch.optim.SGD([p], lr=0.05) for p in model.parameters()}

        def hook(parameter):
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        handles = [
            p.register_post_accumulate_grad_hook(hook) for p in model.parameters()
        ]
        for _ in range(STEPS):
            loss_of(model).backward()
        for handle in handles:
            handle.remove()

    compare(mlp, loop, **rhythm)
