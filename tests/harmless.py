"""Run a training loop twice, with and without gradwatch, and compare bit by bit."""

import gc
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.optim import optimizer as optim

import gradwatch
from gradwatch.statistics import tensors_in

#: Options of a watch: a probe at every step, at every third, and as it comes.
RHYTHMS = [
    pytest.param({"every": 1}, id="every"),
    pytest.param({"every": 3}, id="third"),
    pytest.param({}, id="default"),
]


def same(left, right):
    """Return whether two tensors are equal bit by bit, NaN included."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.layout is not torch.strided:
        left, right = left.to_dense(), right.to_dense()
    if left.is_complex():
        left, right = torch.view_as_real(left), torch.view_as_real(right)
    return bool(((left == right) | ((left != left) & (right != right))).all())


def alike(left, right):
    """Return whether two values of any nesting are equal, tensors bit by bit."""
    if isinstance(left, torch.Tensor):
        return same(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(
            alike(left[key], right[key]) for key in left
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(alike, left, right))
    return left == right or left != left


def state_of(model, optimizers=()):
    """Return everything that training changes."""
    return {
        "parameters": [p.detach().clone() for p in model.parameters()],
        "gradients": [
            None if p.grad is None else p.grad.detach().clone()
            for p in model.parameters()
        ],
        "buffers": {name: b.clone() for name, b in model.named_buffers()},
        "mode": [module.training for module in model.modules()],
        "random": torch.get_rng_state(),
        "optimizers": [optimizer.state_dict()["state"] for optimizer in optimizers],
    }


def seed_generators(seed):
    """Seed the random generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the one that everybody shares


def generators():
    """Return the states of the random generators of torch, Python and NumPy."""
    shared = np.random.get_state()  # noqa: NPY002 - the one that everybody shares
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [shared[1].tolist(), *shared[2:]],
    }


@contextmanager
def light_heap():
    """Keep what is loaded out of sight of the collector: many watches go faster."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def global_hooks():
    """Return gradwatch's hooks that are left in torch's optimizers."""
    stores = optim._global_optimizer_pre_hooks, optim._global_optimizer_post_hooks
    hooks = [hook for store in stores for hook in store.values()]
    return [hook for hook in hooks if "gradwatch" in type(hook).__module__]


def hooks_on(model):
    """Return the hooks that are left on a model, its parameters and in torch."""
    left = global_hooks()
    for module in model.modules():
        for store in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_pre_hooks_with_kwargs,
            module._backward_hooks,
            module._backward_pre_hooks,
        ):
            left += list(store.values())
    for parameter in model.parameters():
        left += list(parameter._backward_hooks or ())
        left += list(getattr(parameter, "_post_accumulate_grad_hooks", None) or ())
    return left


def small_net():
    """Return a small net without randomness."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))


def noisy_net():
    """Return a small net with dropout and batch norm."""
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )


def random_loss(model):
    """Return the loss of a random batch."""
    return F.cross_entropy(model(torch.randn(7, 6)), torch.randint(3, (7,)))


def train_briefly(model, steps=5):
    """Train on random batches; return the optimizer."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
    return optimizer


@contextmanager
def watched(model, **options):
    """Watch a model; assert at the end that gradwatch met no error of its own."""
    with gradwatch.watch(model, **({"console": None} | options)) as watch:
        yield watch
    assert watch._observer.hooks.failure is None, watch._observer.hooks.failure
    watch.report()
    assert watch._observer.hooks.failure is None, watch._observer.hooks.failure


def compare(make, train, **options):
    """Train twice from one seed; assert that nothing differs; return the watch.

    Args:
        make: Returns a model, or (model, root to watch).
        train: `train(model)` runs the loop; it may return optimizers, outputs, or None.
        options: Options of the watch.
    """
    torch.manual_seed(0)
    plain = make()
    expected = train(plain)
    before = state_of(plain, _optimizers(expected))
    torch.manual_seed(0)
    model = make()
    kept = hooks_on(model)
    with watched(model, **options) as watch:
        result = train(model)
    after = state_of(model, _optimizers(result))
    for part, value in before.items():
        assert alike(value, after[part]), f"{part} differ"
    assert alike(_outputs(expected), _outputs(result)), "outputs differ"
    left = [hook for hook in hooks_on(model) if hook not in kept]
    assert not [h for h in left if "gradwatch" in type(h).__module__], left
    return watch


def _optimizers(result):
    found = result if isinstance(result, list | tuple) else [result]
    return [r for r in found if isinstance(r, torch.optim.Optimizer)]


def _outputs(result):
    found = result if isinstance(result, list | tuple) else [result]
    return [r for r in found if isinstance(r, torch.Tensor | float)]


class Gain(nn.Module):
    """A module behind one trainable factor: its floating inputs are not leaves."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.gain = nn.Parameter(torch.tensor(0.75))

    def forward(self, *args, **kwargs):
        def scale(value):
            if isinstance(value, torch.Tensor) and value.requires_grad:
                return value * self.gain.to(value.dtype)
            if isinstance(value, list | tuple) and type(value) in (list, tuple):
                return type(value)(map(scale, value))
            return value

        args = tuple(map(scale, args))
        kwargs = {key: scale(value) for key, value in kwargs.items()}
        return self.inner(*args, **kwargs)


def random_scalar(output):
    """Return a scalar with a random gradient for every differentiable output."""
    terms = [
        (tensor * torch.randn(tensor.shape, dtype=tensor.dtype)).abs().sum()
        if tensor.is_complex()
        else (tensor * torch.randn(tensor.shape, dtype=tensor.dtype)).sum()
        for tensor in tensors_in(output)
        if tensor.requires_grad
    ]
    return sum(terms) if terms else None


def probe_once(model, *inputs):
    """Return the record and structure of one probe of a training step."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watched(model, every=1) as watch:
        out = model(*inputs)
        out = out if isinstance(out, torch.Tensor) else out[0]
        (out * torch.randn_like(out)).sum().backward()
        optimizer.step()
    return watch.history.first_probe, watch.structure
