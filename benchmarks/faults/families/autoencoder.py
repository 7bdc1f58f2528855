"""Autoencoders on digits. Held out of threshold choice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.parts import Activation, builder, initialise, squared_error
from benchmarks.faults.setups import Batch, Run, SetUp

HE = 2**0.5


class Autoencoder(nn.Module):
    """Linear layers down to a code and up again."""

    def __init__(
        self,
        act: Activation,
        depth: int = 2,
        width: int = 96,
        code: int = 24,
        gain: float | None = None,
        bias: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.act = act
        widths = [64, *([width] * depth), code, *([width] * depth)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(
            nn.LayerNorm(b) if norm else nn.Identity() for b in widths[1:]
        )
        self.out = nn.Linear(width, 64)
        if gain is not None:
            initialise(self, gain, bias)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        result: Tensor = self.out(x)
        return result


class Tied(nn.Module):
    """The decoder uses the encoder's matrices, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 96)
        self.second = nn.Linear(96, 32)
        self.bias1 = nn.Parameter(torch.zeros(96))
        self.bias2 = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.second(torch.tanh(self.first(x))))
        y = torch.tanh(F.linear(code, self.second.weight.t(), self.bias1))
        result: Tensor = F.linear(y, self.first.weight.t(), self.bias2)
        return result


class Variational(nn.Module):
    """Mean and spread of the code; `raw`: a spread that is not kept positive."""

    def __init__(self, raw: bool = False) -> None:
        super().__init__()
        self.raw = raw
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(inplace=True))
        self.mean = nn.Linear(96, 24)
        self.spread = nn.Linear(96, 24)
        self.decoder = nn.Sequential(
            nn.Linear(24, 96), nn.ReLU(inplace=True), nn.Linear(96, 64)
        )
        if not raw:
            nn.init.constant_(self.spread.bias, -4.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.encoder(x)
        mean, spread = self.mean(y), self.spread(y)
        deviation = torch.sqrt(spread) if self.raw else torch.exp(0.5 * spread)
        # Fixed points of the unit normal: the same for every step and every tool.
        noise = torch.linspace(-1.5, 1.5, mean.numel()).view_as(mean).roll(7, 1)
        return self.decoder(mean + deviation * noise), mean, spread


def evidence(model: nn.Module, batch: Batch) -> Tensor:
    x, target = batch
    result, mean, spread = model(x)
    divergence: Tensor = (mean**2 + spread.exp() - spread - 1).mean()
    loss: Tensor = F.mse_loss(result, target) + 1e-4 * divergence
    return loss


class ConvAutoencoder(nn.Module):
    """Two strided convolutions and two transposed ones."""

    def __init__(self, norm: bool, gain: float | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 2, stride=2)]
        layers += [nn.BatchNorm2d(16)] * norm + [nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(16, 32, 2, stride=2), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(32, 16, 2, stride=2)]
        layers += [nn.ReLU(inplace=True), nn.ConvTranspose2d(16, 1, 2, stride=2)]
        self.net = nn.Sequential(*layers)
        if gain is not None:
            initialise(self, gain)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x.view(-1, 1, 8, 8))
        return result.flatten(1)


class CutCode(Autoencoder):
    """The narrow code goes on as numbers, not as a tensor of the graph."""

    def __init__(self) -> None:
        super().__init__(torch.tanh, depth=2, code=1)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            if index == 2:
                x = x.detach()
        result: Tensor = self.out(x)
        return result


def raw_pixels(generator: Generator, size: int) -> Batch:
    """Bytes in and bytes out."""
    flat, _ = tasks.raw_digits(generator, size)
    return flat, flat


def noisy(generator: Generator, size: int) -> Batch:
    clean, _ = tasks.reconstruction(generator, size)
    return clean + 0.2 * torch.randn(clean.shape, generator=generator), clean


def _digits(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    for key, value in (("loss", squared_error), ("lr", 2e-3)):
        options.setdefault(key, value)
    return builder(make, tasks.reconstruction, **options)  # type: ignore[arg-type]


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
) -> SetUp:
    return SetUp(
        f"autoencoder-{name}",
        "autoencoder",
        "reconstruction",
        kind,
        accepted,
        build,
        hard_negative=row,
    )


SETUPS: tuple[SetUp, ...] = (
    _add("relu-he", _digits(lambda: Autoencoder(F.relu, code=48, gain=HE), lr=4e-3)),
    _add(
        "selu-deep",
        _digits(lambda: Autoencoder(F.selu, depth=5, code=48, gain=1.0), lr=1e-3),
    ),
    _add(
        "layernorm-gelu",
        _digits(lambda: Autoencoder(F.gelu, depth=2, code=48, norm=True), opt="adamw"),
        row="biases and norm gains",
    ),
    _add("tied", _digits(Tied, lr=5e-3), row="tied or reused modules"),
    _add("variational", _digits(Variational, loss=evidence, lr=5e-3)),
    _add("convolutional", _digits(lambda: ConvAutoencoder(False, gain=HE), lr=5e-3)),
    _add(
        "convolutional-batchnorm",
        _digits(lambda: ConvAutoencoder(True), lr=1e-2),
        row="biases and norm gains",
    ),
    _add(
        "denoising-sgd",
        builder(
            lambda: Autoencoder(torch.tanh, depth=1, code=48, gain=1.0),
            noisy,
            loss=squared_error,
            opt="momentum",
            lr=0.5,
        ),
    ),
    _add(
        "sigmoid-deep",
        _digits(lambda: Autoencoder(torch.sigmoid, depth=5)),
        s.VANISHING,
        s.VANISHES,
    ),
    _add(
        "relu-default-deep-sgd",
        _digits(lambda: Autoencoder(F.relu, depth=8), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "tanh-small-init-deep",
        _digits(lambda: Autoencoder(torch.tanh, depth=8, gain=0.4), opt="sgd", lr=0.1),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "tanh-chaos-deep",
        _digits(lambda: Autoencoder(torch.tanh, depth=14, gain=4.0), lr=1e-3),
        s.EXPLODING,
        s.CHAOS,
    ),
    _add(
        "large-init-deep",
        _digits(lambda: Autoencoder(F.relu, depth=8, gain=4.0)),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add(
        "dead-bias",
        _digits(lambda: Autoencoder(F.relu, gain=HE, bias=-10.0)),
        s.DEAD,
        s.DIES,
    ),
    _add(
        "dead-by-rate",
        _digits(lambda: Autoencoder(F.relu, gain=HE), lr=1.0),
        s.DEAD,
        s.TOO_FAST_RELU,
    ),
    _add(
        "tanh-saturated",
        _digits(lambda: Autoencoder(torch.tanh, gain=40.0), opt="sgd", lr=0.05),
        s.SATURATED,
        s.CHAOS | s.SATURATES,
    ),
    _add(
        "raw-pixels-sgd",
        builder(
            lambda: Autoencoder(F.relu, gain=HE),
            raw_pixels,
            loss=squared_error,
            opt="sgd",
            lr=0.05,
            unit=96.3**2,
        ),
        s.EXPLODING,
        s.TOO_FAST_RELU,
    ),
    _add("detached-code", _digits(CutCode), s.NO_GRADIENT, s.CUT),
    _add(
        "rate-too-low",
        _digits(lambda: Autoencoder(F.relu, gain=HE), opt="sgd", lr=1e-6),
        s.STALLED,
        s.TOO_SLOW,
    ),
    _add(
        "root-of-negative",
        _digits(lambda: Variational(raw=True), loss=evidence),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
