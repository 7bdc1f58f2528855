"""Residual networks with convolutions: ResNet and its relatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import (
    NUM_CLASSES,
    SqueezeExcite,
    conv_norm,
    kaiming_fan_out,
)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int = 1,
        groups: int = 1,
        wide: float = 1.0,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != width:
            self.downsample = conv_norm(inputs, width, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int = 1,
        groups: int = 1,
        wide: float = 1.0,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        inner, outputs = int(width * wide), width * 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride, dilation, dilation, groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = conv_norm(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """torchvision's ResNet; `features` returns the four stages for dense models."""

    def __init__(
        self,
        block: Block,
        layers: tuple[int, ...],
        *,
        width: int = 8,
        groups: int = 1,
        wide: float = 1.0,
        zero_init: bool = False,
        dilated: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, repeat in enumerate(layers):
            blocks: list[nn.Module] = []
            keep = dilated and stage >= 2
            for number in range(repeat):
                stride = 2 if number == 0 and stage > 0 and not keep else 1
                dilation = 2 ** (stage - 1) if keep else 1
                outputs = width * 2**stage
                blocks.append(block(inputs, outputs, stride, groups, wide, dilation))
                inputs = outputs * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(layers)
        self.channels = inputs
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, NUM_CLASSES)
        kaiming_fan_out(self)
        if zero_init:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)
                elif isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def features(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[-1]
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(functional.relu(self.bn2(self.conv1(out))))
        return out + skip


class PreActResNet(nn.Module):
    """He et al. 2016, 110 layers: 18 blocks in each of three stages."""

    def __init__(self, repeat: int = 18, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for number in range(repeat):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(PreActBlock(inputs, width * 2**stage, stride))
                inputs = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, NUM_CLASSES)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class RegNetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, gated: bool) -> None:
        super().__init__()
        self.proj: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.proj = conv_norm(inputs, outputs, 1, stride, act=None)
        layers = [
            conv_norm(inputs, outputs, 1),
            conv_norm(outputs, outputs, 3, stride, groups=outputs // 8),
        ]
        if gated:
            layers.append(SqueezeExcite(outputs, inputs // 4))  # type: ignore[arg-type]
        layers.append(conv_norm(outputs, outputs, 1, act=None))
        self.f = nn.Sequential(*layers)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.proj is None else self.proj(x)
        return self.activation(skip + self.f(x))


class RegNet(nn.Module):
    def __init__(self, *, gated: bool, depths: tuple[int, ...] = (1, 3, 6, 2)) -> None:
        super().__init__()
        self.stem = conv_norm(3, 16, 3, 2)
        blocks: list[nn.Module] = []
        inputs = 16
        for depth, outputs in zip(depths, (16, 24, 48, 96), strict=True):
            for number in range(depth):
                stride = 2 if number == 0 else 1
                blocks.append(RegNetBlock(inputs, outputs, stride, gated=gated))
                inputs = outputs
        self.trunk_output = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.trunk_output(self.stem(x)))
        return self.fc(x.flatten(1))


class Res2Block(nn.Module):
    """Splits the channels and feeds each part with the one before it."""

    def __init__(self, inputs: int, outputs: int, stride: int, scale: int = 4) -> None:
        super().__init__()
        self.scale, self.stride, self.first = scale, stride, inputs != outputs
        width = outputs // 4
        self.conv1 = conv_norm(inputs, width * scale, 1)
        self.convs = nn.ModuleList(
            conv_norm(width, width, 3, stride) for _ in range(scale - 1)
        )
        self.pool = nn.AvgPool2d(3, stride, 1)
        self.conv3 = conv_norm(width * scale, outputs, 1, act=None)
        self.downsample: nn.Module | None = None
        if self.first:
            self.downsample = conv_norm(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(self.conv1(x), self.scale, 1)
        outs: list[Tensor] = []
        for number, conv in enumerate(self.convs):
            fresh = number == 0 or self.first
            outs.append(conv(parts[number] if fresh else outs[-1] + parts[number]))
        outs.append(self.pool(parts[-1]) if self.first else parts[-1])
        out = self.conv3(torch.cat(outs, 1))
        skip = x if self.downsample is None else self.downsample(x)
        return functional.relu(out + skip)


class SelectiveKernel(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            conv_norm(channels, channels, 3, stride, dilation=d) for d in (1, 2)
        )
        self.fc_reduce = conv_norm(channels, 8, 1)
        self.fc_select = nn.Conv2d(8, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([path(x) for path in self.paths], dim=1)
        pooled = stacked.sum(1).mean((2, 3), keepdim=True)
        select = self.fc_select(self.fc_reduce(pooled))
        batch, _, channels = stacked.shape[:3]
        weights = torch.softmax(select.view(batch, 2, channels, 1, 1), dim=1)
        return torch.sum(stacked * weights, dim=1)


class SkBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 2
        self.conv1 = conv_norm(inputs, width, 1)
        self.conv2 = SelectiveKernel(width, stride)
        self.conv3 = conv_norm(width, outputs, 1, act=None)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = conv_norm(inputs, outputs, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(x)))
        return functional.relu(out + (self.downsample or nn.Identity())(x))


class Staged(nn.Module):
    """A stem, stages of blocks made by `block`, a mean and a head."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        depths: tuple[int, ...],
        width: int = 16,
    ) -> None:
        super().__init__()
        self.stem = conv_norm(3, width, 3, 2)
        blocks: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            outputs = width * 2**stage * 2
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(block(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, NUM_CLASSES)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class DualPathBlock(nn.Module):
    """DPN: one part of the output is added, the rest is concatenated."""

    def __init__(
        self, inputs: int, width: int, growth: int, stride: int, *, first: bool
    ) -> None:
        super().__init__()
        self.width = width
        self.proj = None
        if first:
            self.proj = nn.Sequential(
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, width + 2 * growth, 1, stride, bias=False),
            )
        mid = width // 2
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, mid, 1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(),
            nn.Conv2d(mid, mid, 3, stride, 1, groups=4, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(),
            nn.Conv2d(mid, width + growth, 1, bias=False),
        )

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        joined = torch.cat(x, 1) if isinstance(x, tuple) else x
        if self.proj is not None:
            skip = self.proj(joined)
            left, right = skip[:, : self.width], skip[:, self.width :]
        else:
            assert isinstance(x, tuple)
            left, right = x
        out = self.body(joined)
        added = left + out[:, : self.width]
        return added, torch.cat([right, out[:, self.width :]], 1)


class DualPath(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (2, 3, 3)) -> None:
        super().__init__()
        growth = 8
        self.stem = conv_norm(3, 16, 3, 2)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage, depth in enumerate(depths):
            width = 32 * 2**stage
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                first = number == 0
                blocks.append(DualPathBlock(inputs, width, growth, stride, first=first))
                inputs = width + (3 + number) * growth
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.fc = nn.Conv2d(inputs, NUM_CLASSES, 1)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat(self.blocks(self.stem(x)), 1)
        x = functional.relu(self.norm(joined)).mean((2, 3), keepdim=True)
        return self.fc(x).flatten(1)
