"""Small networks of inverted residuals, gates and channel shuffles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.images.parts import (
    NUM_CLASSES,
    DropPath,
    Maker,
    SqueezeExcite,
    conv_norm,
    kaiming_fan_out,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One stage: kernel, expansion, channels, stride, repeats and what is in it."""

    kernel: int
    expand: float
    channels: int
    stride: int
    repeat: int
    gated: bool = False
    act: Maker = nn.ReLU6
    gate: Maker = nn.Sigmoid
    fused: bool = False


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, row: Row, stride: int, drop: float = 0.0) -> None:
        super().__init__()
        hidden = int(inputs * row.expand)
        layers: list[nn.Module] = []
        if row.fused:
            layers.append(conv_norm(inputs, hidden, row.kernel, stride, act=row.act))
        else:
            if hidden != inputs:
                layers.append(conv_norm(inputs, hidden, 1, act=row.act))
            layers.append(
                conv_norm(
                    hidden, hidden, row.kernel, stride, groups=hidden, act=row.act
                )
            )
        if row.gated:
            act = nn.SiLU if row.act is nn.SiLU else nn.ReLU
            squeeze = max(4, inputs // 4)
            layers.append(SqueezeExcite(hidden, squeeze, act, row.gate))
        layers.append(conv_norm(hidden, row.channels, 1, act=None))
        self.block = nn.Sequential(*layers)
        self.use_skip = stride == 1 and inputs == row.channels
        self.stochastic_depth = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        return self.stochastic_depth(out) + x if self.use_skip else out


class Inverted(nn.Module):
    """MobileNet, MNASNet and EfficientNet: a table of rows between stem and head."""

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        act: Maker,
        last: int = 96,
        hidden: int = 0,
        drop_path: float = 0.0,
        linear_std: float | None = 0.01,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 16, 3, 2, act=act)]
        inputs, count = 16, 0
        total = sum(row.repeat for row in rows)
        for row in rows:
            for number in range(row.repeat):
                stride = row.stride if number == 0 else 1
                drop = drop_path * count / total
                layers.append(InvertedResidual(inputs, row, stride, drop))
                inputs = row.channels
                count += 1
        layers.append(conv_norm(inputs, last, 1, act=act))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        head: list[nn.Module] = [nn.Dropout(0.2), nn.Linear(last, NUM_CLASSES)]
        if hidden:
            head = [
                nn.Linear(last, hidden),
                act(),
                nn.Dropout(0.2),
                nn.Linear(hidden, NUM_CLASSES),
            ]
        self.classifier = nn.Sequential(*head)
        kaiming_fan_out(self, linear_std)
        if linear_std is None:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    bound = 1.0 / math.sqrt(module.out_features)
                    nn.init.uniform_(module.weight, -bound, bound)
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2() -> nn.Module:
    rows = (
        Row(3, 1, 8, 1, 1),
        Row(3, 6, 12, 2, 2),
        Row(3, 6, 16, 2, 3),
        Row(3, 6, 24, 2, 4),
        Row(3, 6, 32, 1, 3),
        Row(3, 6, 48, 2, 3),
        Row(3, 6, 64, 1, 1),
    )
    return Inverted(rows, act=nn.ReLU6)


def mobilenet_v3() -> nn.Module:
    relu, swish, gate = nn.ReLU, nn.Hardswish, nn.Hardsigmoid
    rows = (
        Row(3, 1, 16, 1, 1, act=relu),
        Row(3, 4, 16, 2, 2, act=relu),
        Row(5, 3, 24, 2, 3, gated=True, act=relu, gate=gate),
        Row(3, 4, 32, 2, 4, act=swish),
        Row(3, 6, 40, 1, 2, gated=True, act=swish, gate=gate),
        Row(5, 6, 48, 2, 3, gated=True, act=swish, gate=gate),
    )
    return Inverted(rows, act=nn.Hardswish, hidden=96)


def mnasnet() -> nn.Module:
    rows = (
        Row(3, 1, 8, 1, 1, act=nn.ReLU),
        Row(3, 3, 12, 2, 3, act=nn.ReLU),
        Row(5, 3, 16, 2, 3, act=nn.ReLU),
        Row(5, 6, 24, 2, 3, act=nn.ReLU),
        Row(3, 6, 32, 1, 2, act=nn.ReLU),
        Row(5, 6, 48, 2, 4, act=nn.ReLU),
    )
    model = Inverted(rows, act=nn.ReLU)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, mode="fan_out")
    return model


def efficientnet() -> nn.Module:
    rows = (
        Row(3, 1, 16, 1, 1, gated=True, act=nn.SiLU),
        Row(3, 6, 16, 2, 2, gated=True, act=nn.SiLU),
        Row(5, 6, 24, 2, 2, gated=True, act=nn.SiLU),
        Row(3, 6, 32, 2, 3, gated=True, act=nn.SiLU),
        Row(5, 6, 40, 1, 3, gated=True, act=nn.SiLU),
        Row(5, 6, 48, 2, 4, gated=True, act=nn.SiLU),
        Row(3, 6, 64, 1, 1, gated=True, act=nn.SiLU),
    )
    return Inverted(rows, act=nn.SiLU, drop_path=0.2, linear_std=None)


def efficientnet_v2() -> nn.Module:
    rows = (
        Row(3, 1, 16, 1, 2, act=nn.SiLU, fused=True),
        Row(3, 4, 24, 2, 4, act=nn.SiLU, fused=True),
        Row(3, 4, 32, 2, 4, act=nn.SiLU, fused=True),
        Row(3, 4, 40, 2, 6, gated=True, act=nn.SiLU),
        Row(3, 6, 48, 1, 6, gated=True, act=nn.SiLU),
    )
    return Inverted(rows, act=nn.SiLU, drop_path=0.2, linear_std=None)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_norm(inputs, inputs, 3, stride, groups=inputs, act=None),
                *conv_norm(inputs, half, 1),
            )
        self.branch2 = nn.Sequential(
            *conv_norm(inputs if stride > 1 else half, half, 1),
            *conv_norm(half, half, 3, stride, groups=half, act=None),
            *conv_norm(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, dim=1)
            out = torch.cat((left, self.branch2(right)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNet(nn.Module):
    def __init__(self, repeats: tuple[int, ...] = (4, 8, 4)) -> None:
        super().__init__()
        self.conv1 = conv_norm(3, 24, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Module] = []
        inputs = 24
        for repeat, outputs in zip(repeats, (32, 64, 128), strict=True):
            units = [ShuffleUnit(inputs, outputs, 2)]
            units += [ShuffleUnit(outputs, outputs, 1) for _ in range(repeat - 1)]
            stages.append(nn.Sequential(*units))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.conv5 = conv_norm(inputs, 128, 1)
        self.fc = nn.Linear(128, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stages(self.maxpool(self.conv1(x))))
        return self.fc(x.mean([2, 3]))


class GhostModule(nn.Module):
    """Half of the channels by a convolution, half cheaply from those."""

    def __init__(self, inputs: int, outputs: int, *, relu: bool) -> None:
        super().__init__()
        half = outputs // 2
        act: Maker | None = nn.ReLU if relu else None
        self.primary_conv = conv_norm(inputs, half, 1, act=act)
        self.cheap_operation = conv_norm(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], dim=1)


class GhostBottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, gated: bool) -> None:
        super().__init__()
        hidden = outputs * 3
        self.ghost1 = GhostModule(inputs, hidden, relu=True)
        self.conv_dw: nn.Module = nn.Identity()
        if stride > 1:
            self.conv_dw = conv_norm(hidden, hidden, 3, stride, hidden, act=None)
        self.se: nn.Module = nn.Identity()
        if gated:
            self.se = SqueezeExcite(hidden, 8, gate=nn.Hardsigmoid, timm=True)
        self.ghost2 = GhostModule(hidden, outputs, relu=False)
        self.shortcut = nn.Sequential()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                *conv_norm(inputs, inputs, 3, stride, inputs, act=None),
                *conv_norm(inputs, outputs, 1, act=None),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.ghost2(self.se(self.conv_dw(self.ghost1(x))))
        return out + self.shortcut(x)


class GhostNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = conv_norm(3, 16, 3, 2)
        rows = [
            (16, 1, False),
            (16, 2, False),
            (16, 1, False),
            (24, 2, True),
            (24, 1, True),
            (40, 2, False),
            (40, 1, False),
            (40, 1, True),
            (64, 2, True),
            (64, 1, True),
        ]
        blocks: list[nn.Module] = []
        inputs = 16
        for outputs, stride, gated in rows:
            blocks.append(GhostBottleneck(inputs, outputs, stride, gated=gated))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_last = conv_norm(inputs, 96, 1)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_head = nn.Conv2d(96, 128, 1)
        self.act2 = nn.ReLU()
        self.classifier = nn.Linear(128, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.global_pool(self.conv_last(self.blocks(self.conv_stem(x))))
        return self.classifier(self.act2(self.conv_head(x)).flatten(1))
