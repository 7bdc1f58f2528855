"""Convolutional networks on 8x8 digits, and one on long signals."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.parts import Activation, builder, initialise
from benchmarks.faults.setups import Batch, Run, SetUp

HE = 2**0.5


class Cnn(nn.Module):
    """A plain stack of 3x3 convolutions with functional activations."""

    def __init__(
        self,
        depth: int,
        act: Activation,
        width: int = 16,
        gain: float | None = None,
        bias: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
        stride_at: int = 1,
    ) -> None:
        super().__init__()
        self.act = act
        layers: list[nn.Module] = []
        for index in range(depth):
            stride = 2 if index == stride_at else 1
            inputs = 1 if index == 0 else width
            layers.append(nn.Conv2d(inputs, width, 3, stride, padding=1))
        self.convs = nn.ModuleList(layers)
        self.norms = nn.ModuleList(norm(width) for _ in range(depth)) if norm else None
        self.fc = nn.Linear(width * 16, 10)
        if gain is not None:
            initialise(self, gain, bias)
            nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms is not None:
                x = self.norms[index](x)
            x = self.act(x)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits


class BasicBlock(nn.Module):
    """The block of torchvision's ResNet: in-place ReLU, in-place sum."""

    def __init__(self, width: int, norm: bool, gain: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.bn1: nn.Module = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.bn2: nn.Module = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        initialise(self, gain)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        result: Tensor = self.relu(out)
        return result


class PreBlock(nn.Module):
    """Pre-activation: the stream itself is never normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        initialise(self, HE)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        result: Tensor = x + out
        return result


class ConvNextBlock(nn.Module):
    """Depthwise convolution, LayerNorm, two linear layers, LayerScale."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.project(F.gelu(self.expand(y)))
        result: Tensor = x + y.permute(0, 3, 1, 2)
        return result


def resnet(
    blocks: list[nn.Module], width: int = 16, stem_gain: float = HE
) -> nn.Module:
    """Return a strided stem, blocks at one width, pooling and a head."""
    stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, stride=2), nn.ReLU())
    initialise(stem, stem_gain)
    return nn.Sequential(
        stem,
        *blocks,
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def zero_gamma() -> nn.Module:
    blocks: list[nn.Module] = []
    for _ in range(4):
        block = BasicBlock(16, norm=True, gain=HE)
        nn.init.zeros_(block.bn2.weight)  # type: ignore[arg-type]
        blocks.append(block)
    return resnet(blocks)


def inplace_plain() -> nn.Module:
    """Return a VGG-like net with pooling."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        nn.Linear(64, 10),
    )
    initialise(model, HE)
    return model


def long_signal(generator: Generator, size: int) -> Batch:
    """A thousand symbols of which one is frequent: one-hot, shape [size, 16, 1024]."""
    tokens, label = tasks.majority(1024)(generator, size)
    return F.one_hot(tokens, tasks.VOCABULARY).float().transpose(1, 2), label


class SignalNet(nn.Module):
    """A 1-D network that averages over 1,024 positions before its head."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(inputs, 16, 3, padding=1) for inputs in (16, 16, 16, 16)
        )
        self.head = nn.Linear(16, tasks.SYMBOLS)
        initialise(self, HE)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        logits: Tensor = self.head(x.mean(dim=2))
        return logits


class StandardisedPictures(Cnn):
    """Each column divided by its own spread, which is 0 where a column is empty."""

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True)
        return super().forward(x)


class DetachedFeatures(Cnn):
    """Convolutions under no_grad, as for a pre-trained network that is not one."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.features(x)
        logits: Tensor = self.fc(y[:, ::96])
        return logits


def narrow_cut() -> nn.Module:
    model = DetachedFeatures(3, F.relu)
    model.fc = nn.Linear(3, 10)
    return model


def _images(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    options.setdefault("size", 32)
    return builder(make, tasks.images, **options)  # type: ignore[arg-type]


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
) -> SetUp:
    return SetUp(
        f"cnn-{name}", "cnn", "digits", kind, accepted, build, hard_negative=row
    )


def group(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


SETUPS: tuple[SetUp, ...] = (
    _add("plain-he", _images(inplace_plain, lr=2e-3)),
    _add(
        "batchnorm-6-sgd",
        _images(lambda: Cnn(6, F.relu, norm=nn.BatchNorm2d), opt="momentum", lr=0.02),
    ),
    _add(
        "groupnorm-6",
        _images(lambda: Cnn(6, F.silu, norm=group), opt="adamw", lr=2e-3),
        row="biases and norm gains",
    ),
    _add("tanh-lecun-6", _images(lambda: Cnn(6, torch.tanh, gain=1.0))),
    _add(
        "resnet-zero-gamma",
        _images(zero_gamma, opt="momentum", lr=0.05),
        row="zero-init residual branch",
    ),
    _add(
        "preact-unnormalised-stream",
        _images(lambda: resnet([PreBlock(16) for _ in range(12)]), lr=2e-3),
        row="unnormalised BN stream",
    ),
    _add(
        "layerscale-1e-6",
        _images(
            lambda: resnet([ConvNextBlock(16, 1e-6) for _ in range(4)], stem_gain=HE),
            opt="adamw",
            lr=4e-3,
        ),
        row="LayerScale or ReZero",
    ),
    _add(
        "rezero",
        _images(lambda: resnet([ConvNextBlock(16, 0.0) for _ in range(6)]), lr=4e-3),
        row="LayerScale or ReZero",
    ),
    _add(
        "mean-over-256-positions",
        builder(SignalNet, long_signal, size=16, lr=3e-3),
        row="mean pool before the head",
    ),
    # chi < 1 as in fully connected nets; the border of a picture only lowers it.
    _add(
        "relu-default-18-sgd",
        _images(lambda: Cnn(18, F.relu), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "sigmoid-8",
        _images(lambda: Cnn(8, torch.sigmoid), opt="sgd", lr=0.05),
        s.VANISHING,
        s.VANISHES,
    ),
    _add(
        "small-init-16",
        _images(lambda: Cnn(16, F.relu, gain=0.4)),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "large-init-16",
        _images(lambda: Cnn(16, F.relu, gain=5.0)),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add(
        "tanh-chaos-24",
        _images(lambda: Cnn(24, torch.tanh, gain=5.0)),
        s.EXPLODING,
        s.CHAOS,
    ),
    _add(
        "residual-he-24-blocks",
        _images(
            lambda: resnet([BasicBlock(16, norm=False, gain=HE) for _ in range(24)]),
            opt="sgd",
            lr=0.05,
        ),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add(
        "dead-bias",
        _images(lambda: Cnn(5, F.relu, gain=HE, bias=-10.0)),
        s.DEAD,
        s.DIES,
    ),
    _add(
        "dead-by-rate",
        _images(lambda: Cnn(5, F.relu, gain=HE), opt="momentum", lr=2.0),
        s.DEAD,
        s.TOO_FAST_RELU,
    ),
    _add(
        "tanh-saturated",
        _images(lambda: Cnn(6, torch.tanh, gain=30.0), opt="sgd", lr=0.05),
        s.SATURATED,
        s.CHAOS | s.SATURATES,
    ),
    _add("no-grad-features", _images(narrow_cut), s.NO_GRADIENT, s.CUT),
    _add(
        "rate-too-low-sgd",
        _images(lambda: Cnn(4, F.relu, gain=HE), opt="sgd", lr=1e-6),
        s.STALLED,
        s.TOO_SLOW,
    ),
    _add(
        "empty-columns",
        _images(lambda: StandardisedPictures(3, F.relu, gain=HE)),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
