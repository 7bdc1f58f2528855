"""Training is the same with gradwatch, bit by bit: every cell of one whole matrix.

Models, optimizers, precisions and ways to watch, all with all. Each run trains five
steps on batches of its own; what is compared is all that training changes: parameters,
gradients, buffers, modes, optimizer states, losses and the states of three random
generators. Odd models and loops are in `test_harmless_*.py`.
"""

import contextlib
import itertools
from functools import cache

import pytest
import torch
from torch import nn

import gradwatch
from tests.harmless import (
    alike,
    generators,
    global_hooks,
    hooks_on,
    light_heap,
    seed_generators,
    state_of,
)

STEPS = 5


class Convolutional(nn.Module):
    """Convolutions with batch norm and a ReLU in place, a shortcut, a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        """Return one row of outputs an image."""
        x = self.act(self.norm(self.conv(x)))
        x = self.act(x + self.other(x))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Two LSTM layers with dropout between them, read at the last step."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        """Return one row of outputs a sequence."""
        return self.head(self.lstm(x)[0][:, -1])


class Transformer(nn.Module):
    """Words, one encoder layer with dropout, a head."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        """Return one row of outputs a sentence."""
        return self.head(self.layer(self.words(x)).mean(1))


def mlp():
    """Return two hidden layers."""
    return nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def floats(*shape):
    """Return a maker of batches of four, given the precision."""
    return lambda dtype: torch.randn(4, *shape, dtype=dtype)


#: Each with what makes its batches.
MODELS = {
    "mlp": (mlp, floats(6)),
    "cnn": (Convolutional, floats(2, 5, 5)),
    "lstm": (Recurrent, floats(5, 3)),
    "transformer": (Transformer, lambda dtype: torch.randint(7, (4, 5))),
}

OPTIMIZERS = {
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam-foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}

PRECISIONS = ("float32", "bfloat16-autocast", "float64")

#: Ways to watch; the last one also trains with two batches a step.
WAYS = {
    "default": {},
    "every": {"every": 1},
    "record": {"every": 2},
    "no-capture": {"every": 1, "settings": {"capture_limit": 0}},
    "accumulation": {"every": 1},
}

ROWS = list(itertools.product(MODELS, OPTIMIZERS, PRECISIONS))


@pytest.fixture(scope="module", autouse=True)
def _light_heap():
    """Keep what is loaded out of sight of the collector."""
    with light_heap():
        yield
    assert global_hooks() == []


def train(model, optimizer, precision, batches, watch=None):
    """Train and return all that training changes; under a watch if it is told how."""
    seed_generators(0)
    make, batch = MODELS[model]
    model = make()
    dtype = torch.float64 if precision == "float64" else torch.float32
    model.to(dtype)
    autocast = torch.autocast(
        "cpu", torch.bfloat16, enabled=precision == "bfloat16-autocast"
    )
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    losses = []

    def closure():
        optimizer.zero_grad()
        for _ in range(batches):
            x, labels = batch(dtype), torch.randint(3, (4,))
            with autocast:
                loss = nn.functional.cross_entropy(model(x), labels)
            (loss / batches).backward()
            losses.append(loss.item())
        return loss

    with contextlib.ExitStack() as stack:
        if watch is not None:
            watched = stack.enter_context(gradwatch.watch(model, console=None, **watch))
        for _ in range(STEPS):
            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    if watch is not None:
        assert watched._observer.hooks.failure is None
        assert watched.report().run.steps == STEPS
        assert watched.history.num_probes >= 3
        assert hooks_on(model) == []
    return state_of(model, [optimizer]) | generators() | {"losses": losses}


@cache
def unwatched(*row):
    """Return what training without gradwatch leaves."""
    return train(*row)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_training_is_the_same_in_every_way_to_watch(row, tmp_path):
    """Parameters, gradients, buffers, optimizer, losses, generators."""
    for way, options in WAYS.items():
        folder = {"record": tmp_path} if way == "record" else {}
        cell = *row, 2 if way == "accumulation" else 1
        expected, result = unwatched(*cell), train(*cell, options | folder)
        for part, value in expected.items():
            assert alike(value, result[part]), f"{way}: {part} differ"
    assert len(list(tmp_path.glob("*/run.jsonl"))) == 1


def test_the_comparison_sees_one_bit():
    """The last bit of one weight, or one number drawn, is a difference."""
    row = "mlp", "sgd-momentum", "float32", 1
    expected, result = unwatched(*row), train(*row)
    assert alike(expected, result)
    weight = result["parameters"][0]
    weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] + 1)
    assert not alike(expected["parameters"], result["parameters"])
    state = torch.get_rng_state()
    torch.rand(1)
    assert not alike(state, torch.get_rng_state())
