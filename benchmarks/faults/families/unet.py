"""U-Nets that find a disk in a noisy picture. Held out of threshold choice."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.parts import Activation, builder, initialise, mask_entropy
from benchmarks.faults.setups import Batch, Run, SetUp

HE = 2**0.5
Norm = Callable[[int], nn.Module]


class Pair(nn.Module):
    """Two convolutions, each with a norm, if any, and an activation."""

    def __init__(
        self, inputs: int, width: int, act: Activation, norm: Norm | None
    ) -> None:
        super().__init__()
        self.act = act
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = norm(width) if norm else nn.Identity()
        self.norm2 = norm(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """Three levels, skips by concatenation, transposed convolutions upwards."""

    def __init__(
        self,
        act: Activation = F.relu,
        norm: Norm | None = None,
        gain: float | None = None,
        bias: float = 0.0,
        width: int = 8,
        skips: bool = True,
    ) -> None:
        super().__init__()
        self.skips = skips
        self.down1 = Pair(1, width, act, norm)
        self.down2 = Pair(width, 2 * width, act, norm)
        self.middle = Pair(2 * width, 4 * width, act, norm)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = Pair(4 * width, 2 * width, act, norm)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1 = Pair(2 * width, width, act, norm)
        self.out = nn.Conv2d(width, 1, 1)
        if gain is not None:
            initialise(self, gain, bias)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        low = self.down2(F.max_pool2d(high, 2))
        y = self.up2(self.middle(F.max_pool2d(low, 2)))
        y = self.join2(torch.cat([y, low if self.skips else 0 * low], dim=1))
        y = self.up1(y)
        y = self.join1(torch.cat([y, high if self.skips else 0 * high], dim=1))
        mask: Tensor = self.out(y)
        return mask


class Cut(UNet):
    """The result is detached before the last convolution, which is a blank one."""

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        low = self.down2(F.max_pool2d(high, 2))
        y = self.up1(self.up2(self.middle(F.max_pool2d(low, 2))))
        mask: Tensor = self.out(F.avg_pool2d(y.detach(), 15, 1, 7))
        return mask


def zero_out() -> nn.Module:
    model = UNet(gain=HE)
    nn.init.zeros_(model.out.weight)
    return model


def frozen_encoder() -> nn.Module:
    model = UNet(gain=HE, norm=nn.BatchNorm2d)
    model.down1.requires_grad_(False)
    model.down2.requires_grad_(False)
    return model


def group(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


def log_dice(model: nn.Module, batch: Batch) -> Tensor:
    """A hand-written entropy on scores that were never squashed to (0, 1)."""
    x, mask = batch
    p = model(x) + 0.5
    return -(mask * torch.log(p) + (1 - mask) * torch.log(1 - p)).mean()


def _disks(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    for key, value in (("size", 16), ("loss", mask_entropy), ("lr", 3e-3)):
        options.setdefault(key, value)
    return builder(make, tasks.disks, **options)  # type: ignore[arg-type]


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
) -> SetUp:
    return SetUp(
        f"unet-{name}",
        "unet",
        "disks",
        kind,
        accepted,
        build,
        steps=120,
        hard_negative=row,
    )


SETUPS: tuple[SetUp, ...] = (
    _add("norm-free-default", _disks(UNet), row="norm-free U-Net"),
    _add(
        "batchnorm-sgd",
        _disks(lambda: UNet(norm=nn.BatchNorm2d), opt="momentum", lr=0.1),
    ),
    _add(
        "groupnorm-silu",
        _disks(lambda: UNet(F.silu, norm=group), opt="adamw"),
        row="biases and norm gains",
    ),
    _add("he-relu", _disks(lambda: UNet(gain=HE))),
    _add("tanh-xavier", _disks(lambda: UNet(torch.tanh, gain=1.0))),
    _add("zero-out", _disks(zero_out), row="zero-init head"),
    _add("frozen-encoder", _disks(frozen_encoder), row="frozen prefix"),
    # The skips carry some of the picture past the depth; without a signal in them
    # nothing does: chi < 1 in every convolution, with them or not.
    _add(
        "sigmoid-sgd",
        _disks(lambda: UNet(torch.sigmoid, skips=False), opt="sgd", lr=0.05),
        s.VANISHING,
        s.VANISHES,
    ),
    _add(
        "small-init-sgd",
        _disks(lambda: UNet(gain=0.15), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add("large-init", _disks(lambda: UNet(gain=20.0)), s.EXPLODING, s.EXPLODES),
    _add("dead-bias", _disks(lambda: UNet(gain=HE, bias=-10.0)), s.DEAD, s.DIES),
    _add(
        "tanh-saturated",
        _disks(lambda: UNet(torch.tanh, gain=50.0), opt="sgd", lr=0.05),
        s.SATURATED,
        s.CHAOS | s.SATURATES,
    ),
    _add("detached", _disks(lambda: Cut(torch.tanh)), s.NO_GRADIENT, s.CUT),
    _add(
        "rate-too-high",
        _disks(lambda: UNet(gain=HE), lr=1.0),
        s.UNSTABLE,
        s.TOO_FAST_RELU,
    ),
    _add("rate-too-low", _disks(lambda: UNet(gain=HE), lr=1e-7), s.STALLED, s.TOO_SLOW),
    _add(
        "log-of-negative",
        _disks(lambda: UNet(gain=HE), loss=log_dice),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
