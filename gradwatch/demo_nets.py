"""The networks of `gradwatch demo`: six that were made sick and three that are well.

All learn the digits that scikit-learn bundles (1,797 grey images of 8 by 8 pixels). The
mistakes are ones that are made: an initialisation that does not fit the activation, raw
pixels with a large learning rate, a division by a standard deviation of zero.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch.findings import Finding, Health
from gradwatch.recommendations import Recommendation
from gradwatch.report import Report

SIDE = 8
PIXELS = SIDE * SIDE
CLASSES = 10
_WIDTH = 64

Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
#: `standardised`: mean 0, deviation 1; `raw`: 0 to 16, as stored; `upper-half`:
#: standardised, rows below the middle blank.
Pixels = Literal["standardised", "raw", "upper-half"]


@dataclass(frozen=True, slots=True)
class DemoNet:
    """One network of the demo, how it is trained, and what is wrong with it.

    Attributes:
        name: What `only` calls it.
        title: What it is, in a few words.
        expected: What gradwatch is to say. It is not told.
        rule: Code of the rule that names the defect; None for a healthy network.
        build: Makes the network.
        optimizer: Makes its optimizer.
        steps: Optimizer steps.
        pixels: What the network is shown.
        max_norm: Norm that the loop clips gradients to, if it does.
    """

    name: str
    title: str
    expected: Health
    rule: str | None
    build: Callable[[], nn.Module]
    optimizer: Optimizer
    steps: int = 600
    pixels: Pixels = "standardised"
    max_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Cure:
    """What came of the remedies that were tried.

    Attributes:
        tried: The remedies with their trials, in order; the last one helped if any did.
        treated: The network with that remedy, trained as long as the sick one; None if
            none helped.
    """

    tried: tuple[Recommendation, ...]
    treated: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of training one network, and what gradwatch said about it.

    Attributes:
        net: The network.
        steps: Optimizer steps taken.
        first_loss: Loss of the first batch.
        last_loss: Mean loss of the last pass over the data.
        accuracy: Share of the training images that it reads rightly in the end.
        seconds: Time of the training loop, gradwatch's own included.
        report: What gradwatch said.
        cure: What came of the remedies; None for a healthy network, or without a
            remedy that code can apply.
    """

    net: DemoNet
    steps: int
    first_loss: float
    last_loss: float
    accuracy: float
    seconds: float
    report: Report
    cure: Cure | None = None

    @property
    def finding(self) -> Finding | None:
        """The finding that the verdict rests on, if there is one."""
        alarms = [finding for finding in self.report.findings if finding.is_alarm]
        return alarms[0] if alarms else None

    @property
    def well(self) -> bool:
        """Whether gradwatch calls it healthy."""
        return self.report.health is Health.HEALTHY

    @property
    def as_expected(self) -> bool:
        """Whether health and, for a sick network, the first finding are right."""
        code = self.finding.code if self.finding is not None else None
        return self.report.health is self.net.expected and code == self.net.rule


def mlp(
    depth: int,
    activation: Callable[[], nn.Module],
    draw: Callable[[nn.Linear], object] | None = None,
) -> nn.Sequential:
    """Return `depth` hidden layers of 64 units and a head.

    Args:
        depth: Hidden layers.
        activation: Makes the module after each of them.
        draw: Draws the weights of a hidden layer; PyTorch's default if None.

    Returns:
        The network; its layers are called fc1, act1, fc2, ..., head.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = PIXELS
    for place in range(1, depth + 1):
        layer = nn.Linear(inputs, _WIDTH)
        if draw is not None:
            draw(layer)
        layers[f"fc{place}"], layers[f"act{place}"] = layer, activation()
        inputs = _WIDTH
    layers["head"] = nn.Linear(inputs, CLASSES)
    return nn.Sequential(layers)


def he(layer: nn.Linear) -> None:
    """Draw the weights that keep the size of a signal through ReLUs."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def too_large(layer: nn.Linear) -> None:
    """Draw weights of deviation 0.5: each layer of 64 makes the signal 2.8 times."""
    nn.init.normal_(layer.weight, std=0.5)
    nn.init.zeros_(layer.bias)


class PixelRNN(nn.Module):
    """Reads an image pixel by pixel and names the digit after the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, _WIDTH, batch_first=True)
        self.head = nn.Linear(_WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images `[batch, 64]`."""
        states, _ = self.rnn(images.unsqueeze(-1))
        logits: Tensor = self.head(states[:, -1])
        return logits


class Contrast(nn.Module):
    """Normalises each quarter of an image, and forgets that one may be blank."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images `[batch, 64]`, quarter by quarter; 0 / 0 where one is blank."""
        half = SIDE // 2
        parts = images.view(-1, 2, half, 2, half).transpose(2, 3).flatten(3)
        centred = parts - parts.mean(3, keepdim=True)
        return (centred / parts.std(3, keepdim=True)).flatten(1)


def contrast_mlp() -> nn.Sequential:
    """Return a healthy MLP behind a `Contrast` that has no epsilon."""
    return nn.Sequential(OrderedDict(contrast=Contrast(), net=mlp(3, nn.ReLU, he)))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        inner = functional.relu(self.norm1(self.conv1(maps)))
        return functional.relu(maps + self.norm2(self.conv2(inner)))


class ResidualCNN(nn.Module):
    """A stem, three residual blocks, a mean over positions and a head."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(3)))
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images `[batch, 64]`."""
        maps = functional.relu(self.norm(self.stem(images.view(-1, 1, SIDE, SIDE))))
        logits: Tensor = self.head(self.blocks(maps).mean((2, 3)))
        return logits


class PreNormBlock(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(features)
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)
        self.norm2 = nn.LayerNorm(features)
        self.up = nn.Linear(features, 4 * features)
        self.down = nn.Linear(4 * features, features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens `[batch, rows, features]` of the same shape."""
        batch, rows, features = tokens.shape
        split = self.qkv(self.norm1(tokens)).view(batch, rows, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, rows, features)
        tokens = tokens + self.proj(mixed)
        hidden = functional.gelu(self.up(self.norm2(tokens)))
        return tokens + self.down(hidden)  # type: ignore[no-any-return]


class RowTransformer(nn.Module):
    """A pre-LN transformer whose tokens are the rows of the image."""

    def __init__(self, features: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE, features)
        self.position = nn.Parameter(torch.randn(SIDE, features) * 0.02)
        self.blocks = nn.Sequential(*(PreNormBlock(features, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images `[batch, 64]`."""
        tokens = self.embed(images.view(-1, SIDE, SIDE)) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def adam(lr: float) -> Optimizer:
    """Return a maker of Adam optimizers."""
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def sgd(lr: float) -> Optimizer:
    """Return a maker of SGD optimizers."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


NETS: tuple[DemoNet, ...] = (
    DemoNet(
        "sigmoid-mlp",
        "10 sigmoid layers, default initialisation",
        Health.VANISHING,
        "GW101",
        lambda: mlp(10, nn.Sigmoid),
        adam(1e-3),
    ),
    DemoNet(
        "default-mlp",
        "30 ReLU layers, default initialisation (too small for ReLU)",
        Health.VANISHING,
        "GW101",
        lambda: mlp(30, nn.ReLU),
        adam(1e-3),
    ),
    DemoNet(
        "large-mlp",
        "12 ReLU layers, weights too large, gradients clipped to 1",
        Health.EXPLODING,
        "GW201",
        lambda: mlp(12, nn.ReLU, too_large),
        sgd(1e-2),
        max_norm=1.0,
    ),
    DemoNet(
        "dead-relu",
        "6 ReLU layers, raw pixels, learning rate 0.1",
        Health.DEAD,
        "GW103",
        lambda: mlp(6, nn.ReLU, he),
        adam(0.1),
        pixels="raw",
    ),
    DemoNet(
        "pixel-rnn",
        # What it must remember lies 32 steps and more back: a plain RNN that is shown
        # the whole image learns something from its last rows. An MLP reads 92 % of
        # these halves.
        "tanh RNN over 64 pixels, the last 32 of them blank",
        Health.VANISHING,
        "GW102",
        PixelRNN,
        adam(1e-3),
        pixels="upper-half",
    ),
    DemoNet(
        "no-epsilon",
        "3 ReLU layers behind a contrast normalisation that divides by 0",
        Health.NON_FINITE,
        "GW205",
        contrast_mlp,
        adam(1e-3),
    ),
    DemoNet(
        "he-mlp",
        "30 ReLU layers, He initialisation",
        Health.HEALTHY,
        None,
        lambda: mlp(30, nn.ReLU, he),
        adam(1e-3),
    ),
    DemoNet(
        "residual-cnn",
        "3 residual blocks with batch norm",
        Health.HEALTHY,
        None,
        ResidualCNN,
        adam(3e-3),
        steps=300,
    ),
    DemoNet(
        "transformer",
        "4 pre-LN blocks over the 8 rows of pixels",
        Health.HEALTHY,
        None,
        RowTransformer,
        adam(2e-3),
        steps=300,
    ),
)
