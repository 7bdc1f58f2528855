"""Twenty steps of many kinds of loops are the same with gradwatch, bit by bit."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.harmless import RHYTHMS, compare
from tests.harmless import noisy_net as mlp
from tests.harmless import random_loss as loss_of

STEPS = 20
rhythms = pytest.mark.parametrize("rhythm", RHYTHMS)


def test_the_comparison_can_fail():
    """A watch that drew a random number would be noticed."""

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if model[0]._forward_pre_hooks:  # only while a probe is armed
            torch.rand(1)
        loss_of(model).backward()
        optimizer.step()

    with pytest.raises(AssertionError, match="differ"):
        compare(mlp, loop)


@rhythms
def test_autocast_in_bfloat16(rhythm):
    """The forward runs under autocast, the backward outside."""

    def loop(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model)
            loss.backward()
            optimizer.step()
        return optimizer

    compare(mlp, loop, **rhythm)


@rhythms
def test_gradient_penalty(rhythm):
    """A double backward through the input, and a backward that creates a graph."""

    def loop(model):
        optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            x = torch.randn(5, 6, requires_grad=True)
            out = model(x).square().mean()
            (grad,) = torch.autograd.grad(out, x, create_graph=True)
            penalty = (grad.norm(dim=1) - 1).square().mean()
            (out + penalty).backward()
            optimizer.step()
        return optimizer

    watch = compare(mlp, loop, **rhythm)
    assert watch.history.latest.layers[0].grad_norm > 0


@rhythms
def test_retained_graphs_and_functional_calls(rhythm):
    """Two backward passes of one graph, other weights, and per-sample gradients."""

    def loop(model):
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True
        )
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward(retain_graph=True)
            loss.backward()
            weights = {k: v.detach() for k, v in model.named_parameters()}
            buffers = {k: v.clone() for k, v in model.named_buffers()}
            torch.func.functional_call(model, (weights, buffers), (torch.randn(4, 6),))

            def sample_loss(weights, x, buffers=buffers):
                model.eval()
                out = torch.func.functional_call(model, (weights, buffers), (x[None],))
                model.train()
                return out.square().sum()

            torch.func.vmap(torch.func.grad(sample_loss), in_dims=(None, 0))(
                weights, torch.randn(3, 6)
            )
            optimizer.step()
        return optimizer

    compare(mlp, loop, **rhythm)


class Halves(nn.Module):
    """A model that is used by its methods only."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.dec = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))

    def encode(self, x):
        """Return the code."""
        return self.enc(x)

    def decode(self, z):
        """Return the reconstruction."""
        return self.dec(z)


@rhythms
def test_a_root_that_is_never_called(rhythm):
    """`model.encode(x)`, then `model.decode(z)`."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad()
            x = torch.randn(5, 6)
            F.mse_loss(model.decode(model.encode(x)), x).backward()
            optimizer.step()
        return optimizer

    watch = compare(Halves, loop, **rhythm)
    (chain,) = watch.history.latest.chains
    assert [p.layer for p in chain.points] == ["enc.0", "enc.2", "dec.0"]


@rhythms
def test_evaluation_between_steps(rhythm):
    """Passes in eval mode, under no_grad and inference_mode, and without a backward."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        seen = []
        for _ in range(STEPS):
            model.eval()
            with torch.no_grad():
                seen.append(model(torch.randn(5, 6)))
            with torch.inference_mode():
                seen.append(model(torch.randn(5, 6)).clone())
            model.train()
            loss_of(model)  # no backward
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            copy.deepcopy(model)(torch.randn(5, 6)).sum().backward()
        return [optimizer, *seen]

    watch = compare(mlp, loop, **rhythm)
    assert watch._observer.step == STEPS


@rhythms
def test_exceptions_in_the_loop(rhythm):
    """Errors in forward, closure and step are survived by loop and watch."""

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def broken():
            raise ValueError("closure")

        for step in range(STEPS):
            optimizer.zero_grad()
            with contextlib.suppress(RuntimeError):
                model(torch.randn(5, 7))  # wrong width
            with contextlib.suppress(ValueError):
                optimizer.step(broken)
            if step % 2:
                loss_of(model).backward()
                optimizer.step()
        return optimizer

    watch = compare(mlp, loop, **rhythm)
    assert watch._observer.step == STEPS // 2


@rhythms
def test_layers_that_thaw_and_change(rhythm):
    """Layers are unfrozen, replaced and added while training goes on."""

    def loop(model):
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(STEPS):
            if step == 4:
                model[0].requires_grad_(True)
            if step == 8:
                model[6] = nn.Linear(8, 3)
                optimizer.add_param_group({"params": model[6].parameters()})
            if step == 12:
                optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            optimizer.zero_grad()
            (loss_of(model) * 0.0 if step < 6 else loss_of(model)).backward()
            optimizer.step()
        return optimizer

    watch = compare(mlp, loop, **rhythm)
    # A new optimizer is the clock once the old one is silent for three steps.
    assert watch._observer.step >= STEPS - 3
    latest = {p.name: p.grad_norm for p in watch.history.latest.parameters}
    if rhythm:
        assert latest["0.weight"] > 0
        assert latest["6.weight"] > 0


@rhythms
def test_anomaly_mode_and_deterministic_algorithms(rhythm):
    """Debugging switches of torch do not mind the watch, nor the watch them."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        torch.use_deterministic_algorithms(True)
        try:
            with torch.autograd.set_detect_anomaly(True):
                for _ in range(STEPS):
                    optimizer.zero_grad()
                    loss_of(model).backward()
                    optimizer.step()
        finally:
            torch.use_deterministic_algorithms(False)
        return optimizer

    compare(mlp, loop, **rhythm)


@rhythms
def test_saved_tensors_on_the_host(rhythm):
    """Activations packed by `save_on_cpu` are not unpacked early."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.autograd.graph.save_on_cpu():
                loss = loss_of(model)
            loss.backward()
            optimizer.step()
        return optimizer

    compare(mlp, loop, **rhythm)
