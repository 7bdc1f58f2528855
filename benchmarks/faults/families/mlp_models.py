"""Fully connected models, sound ones and faulty ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.faults.parts import Activation, initialise
from benchmarks.faults.setups import Batch

HE = 2**0.5


class Mlp(nn.Module):
    """Hidden layers in a ModuleList, activations as functions."""

    def __init__(
        self,
        depth: int,
        act: Activation,
        width: int = 64,
        gain: float | None = None,
        bias: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
        residual: bool = False,
        sizes: tuple[int, int] = (64, 10),
        reuse: bool = False,
    ) -> None:
        super().__init__()
        self.act = act
        self.residual = residual
        self.stem = nn.Linear(sizes[0], width)
        count = 1 if reuse else depth - 1
        self.repeats = depth - 1 if reuse else 1
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.norms = nn.ModuleList(norm(width) for _ in range(count)) if norm else None
        self.head = nn.Linear(width, sizes[1])
        if gain is not None:
            initialise(self, gain, bias)
            nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for _ in range(self.repeats):
            for index, block in enumerate(self.blocks):
                y = block(x)
                if self.norms is not None:
                    y = self.norms[index](y)
                y = self.act(y)
                x = x + y if self.residual else y
        return x

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def sequential(norm: Callable[[int], nn.Module], depth: int = 6) -> nn.Module:
    """Return a plain nn.Sequential with in-place ReLU."""
    layers: list[nn.Module] = []
    width = 64
    for _ in range(depth):
        layers += [nn.Linear(width, 64), norm(64), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def funnel() -> nn.Module:
    """Return a net that narrows from 512 to 8."""
    widths = (64, 512, 128, 32, 8)
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Linear(8, 10))


def zero_head() -> nn.Module:
    model = Mlp(6, F.relu, gain=HE)
    nn.init.zeros_(model.head.weight)
    return model


def frozen_prefix() -> nn.Module:
    model = Mlp(6, F.relu, width=128, gain=HE)
    model.stem.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    return model


class TwoHeads(Mlp):
    """A second head that no forward pass calls."""

    def __init__(self) -> None:
        super().__init__(5, F.relu, gain=HE)
        self.auxiliary = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))


class Cut(Mlp):
    """The features are detached: only a narrow head learns."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).detach())
        return logits


class Probability(Mlp):
    """One probability; a softmax over one unit makes it 1 for every input."""

    def __init__(self, softmax: bool) -> None:
        super().__init__(4, F.relu, gain=HE, sizes=(64, 1))
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        score = super().forward(x)
        return F.softmax(score, dim=1) if self.softmax else torch.sigmoid(score)


def constant(value: float) -> nn.Module:
    model = Mlp(4, F.relu)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def log_loss(model: nn.Module, batch: Batch) -> Tensor:
    """A hand-written likelihood: the logarithm of what is no probability."""
    x, y = batch
    scores = model(x) + 1.5
    picked = scores.gather(1, y.unsqueeze(1))
    return -torch.log(picked).mean()
