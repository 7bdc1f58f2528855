"""Networks that fuse parallel paths: HRNet, DLA, VoVNet, RepVGG, NFNet, 3-D ResNet."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import (
    NUM_CLASSES,
    SqueezeExcite,
    conv_norm,
    kaiming_fan_out,
)
from benchmarks.images.residual import BasicBlock


class FuseLayer(nn.Module):
    """Each output resolution is the sum of all inputs, resampled."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.rows = nn.ModuleList()
        for i, outputs in enumerate(channels):
            row = nn.ModuleList()
            for j, inputs in enumerate(channels):
                if j == i:
                    row.append(nn.Identity())
                elif j > i:
                    up = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
                    conv = conv_norm(inputs, outputs, 1, act=None)
                    row.append(nn.Sequential(conv, up))
                else:
                    downs = [conv_norm(inputs, inputs, 3, 2) for _ in range(i - j - 1)]
                    downs.append(conv_norm(inputs, outputs, 3, 2, act=None))
                    row.append(nn.Sequential(*downs))
            self.rows.append(row)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        fused = []
        for row in self.rows:
            assert isinstance(row, nn.ModuleList)
            total = row[0](xs[0])
            for layer, x in zip(list(row)[1:], xs[1:], strict=True):
                total = total + layer(x)
            fused.append(functional.relu(total))
        return fused


class HrNet(nn.Module):
    def __init__(self, width: int = 8, modules: tuple[int, ...] = (1, 2, 2)) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 16, 3, 2), conv_norm(16, 16, 3, 2))
        self.layer1 = BasicBlock(16, width)
        self.transitions = nn.ModuleList()
        self.branches = nn.ModuleList()
        self.fuses = nn.ModuleList()
        channels = [width]
        for repeat in modules:
            self.transitions.append(conv_norm(channels[-1], channels[-1] * 2, 3, 2))
            channels = [*channels, channels[-1] * 2]
            branches, fuses = nn.ModuleList(), nn.ModuleList()
            for _ in range(repeat):
                branches.append(
                    nn.ModuleList(
                        nn.Sequential(BasicBlock(c, c), BasicBlock(c, c))
                        for c in channels
                    )
                )
                fuses.append(FuseLayer(channels))
            self.branches.append(branches)
            self.fuses.append(fuses)
        self.incre = nn.ModuleList(conv_norm(c, 4 * width, 1) for c in channels)
        self.downsamp = nn.ModuleList(
            conv_norm(4 * width, 4 * width, 3, 2) for _ in channels[1:]
        )
        self.final = conv_norm(4 * width, 64, 1)
        self.classifier = nn.Linear(64, NUM_CLASSES)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        xs = [self.layer1(self.stem(x))]
        for number, transition in enumerate(self.transitions):
            xs = [*xs, transition(xs[-1])]
            pairs = zip(
                self.branches[number].children(),
                self.fuses[number].children(),
                strict=True,
            )
            for branches, fuse in pairs:
                parts = zip(branches.children(), xs, strict=True)
                xs = fuse([branch(part) for branch, part in parts])
        y = self.incre[0](xs[0])
        for number, down in enumerate(self.downsamp):
            y = self.incre[number + 1](xs[number + 1]) + down(y)
        return self.classifier(self.final(y).mean((2, 3)))


class Root(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, children: list[Tensor]) -> Tensor:
        return self.relu(self.bn(self.conv(torch.cat(children, 1))))


class DlaBasic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(inputs, outputs, 3, stride)
        self.conv2 = conv_norm(outputs, outputs, 3, act=None)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        skip = x if shortcut is None else shortcut
        return functional.relu(self.conv2(self.conv1(x)) + skip)


class DlaTree(nn.Module):
    def __init__(
        self, levels: int, inputs: int, outputs: int, stride: int = 1, root: int = 0
    ) -> None:
        super().__init__()
        self.levels = levels
        root = root or 2 * outputs
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.project: nn.Module = nn.Identity()
        if inputs != outputs:
            self.project = conv_norm(inputs, outputs, 1, act=None)
        self.tree1: nn.Module
        self.tree2: nn.Module
        if levels == 1:
            self.tree1 = DlaBasic(inputs, outputs, stride)
            self.tree2 = DlaBasic(outputs, outputs, 1)
            self.root = Root(root, outputs)
        else:
            self.tree1 = DlaTree(levels - 1, inputs, outputs, stride)
            self.tree2 = DlaTree(levels - 1, outputs, outputs, root=root + outputs)

    def forward(
        self, x: Tensor, shortcut: object = None, below: list[Tensor] | None = None
    ) -> Tensor:
        below = list(below or [])
        if self.levels == 1:
            skip = self.project(self.downsample(x))
            first = self.tree1(x, skip)
            return self.root([self.tree2(first), first, *below])
        first = self.tree1(x)
        return self.tree2(first, None, [*below, first])


class Dla(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = conv_norm(3, 8, 7)
        self.level0 = conv_norm(8, 8, 3)
        self.level1 = conv_norm(8, 16, 3, 2)
        self.level2 = DlaTree(1, 16, 32, 2)
        self.level3 = DlaTree(2, 32, 48, 2)
        self.level4 = DlaTree(2, 48, 64, 2)
        self.level5 = DlaTree(1, 64, 96, 2)
        self.fc = nn.Conv2d(96, NUM_CLASSES, 1)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.level1(self.level0(self.base_layer(x)))
        x = self.level5(self.level4(self.level3(self.level2(x))))
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.fc(x).flatten(1)


class EffectiveSe(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Hardsigmoid(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc(x.mean((2, 3), keepdim=True)))


class OsaBlock(nn.Module):
    """One-shot aggregation: all intermediate outputs are concatenated once."""

    def __init__(self, inputs: int, mid: int, outputs: int, layers: int = 4) -> None:
        super().__init__()
        self.residual = inputs == outputs
        self.conv_mid = nn.ModuleList(
            conv_norm(inputs if n == 0 else mid, mid) for n in range(layers)
        )
        self.conv_concat = conv_norm(inputs + layers * mid, outputs, 1)
        self.attn = EffectiveSe(outputs)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for conv in self.conv_mid:
            features.append(conv(features[-1]))
        out = self.attn(self.conv_concat(torch.cat(features, 1)))
        return out + x if self.residual else out


class VovNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 16, 3, 2), conv_norm(16, 24))
        stages: list[nn.Module] = []
        inputs = 24
        for outputs in (32, 48, 64, 80):
            stages += [
                nn.MaxPool2d(3, 2, 1),
                OsaBlock(inputs, outputs // 2, outputs),
                OsaBlock(outputs, outputs // 2, outputs),
            ]
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, NUM_CLASSES)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean((2, 3)))


class RepVggBlock(nn.Module):
    """Identity, 1x1 and 3x3 branches, each with its norm, summed before the ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, gated: bool) -> None:
        super().__init__()
        same = inputs == outputs and stride == 1
        self.identity = nn.BatchNorm2d(inputs) if same else None
        self.conv_kxk = conv_norm(inputs, outputs, 3, stride, act=None)
        self.conv_1x1 = conv_norm(inputs, outputs, 1, stride, act=None)
        self.attn = SqueezeExcite(outputs, 8) if gated else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_kxk(x) + self.conv_1x1(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return self.act(self.attn(out))


class RepVgg(nn.Module):
    def __init__(
        self, depths: tuple[int, ...] = (2, 4, 10, 1), *, gated: bool = False
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = [RepVggBlock(3, 16, 2, gated=gated)]
        inputs = 16
        for depth, outputs in zip(depths, (16, 24, 48, 96), strict=True):
            for number in range(depth):
                stride = 2 if number == 0 else 1
                blocks.append(RepVggBlock(inputs, outputs, stride, gated=gated))
                inputs = outputs
        self.stages = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(x).mean((2, 3)))


class ScaledStdConv2d(nn.Conv2d):
    """NFNet's weight standardisation with a learned gain."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups
        )
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.scale = 1.7139588594436646 / math.sqrt(self.weight[0].numel())
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="linear")
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return functional.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class NfBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, beta: float) -> None:
        super().__init__()
        mid = outputs // 2
        self.beta, self.alpha = beta, 0.2
        self.downsample: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride) if stride > 1 else nn.Identity(),
                ScaledStdConv2d(inputs, outputs, 1),
            )
        self.act1, self.act2, self.act3 = nn.GELU(), nn.GELU(), nn.GELU()
        self.conv1 = ScaledStdConv2d(inputs, mid, 1)
        self.conv2 = ScaledStdConv2d(mid, mid, 3, stride, groups=4)
        self.conv3 = ScaledStdConv2d(mid, outputs, 1)
        self.attn = SqueezeExcite(outputs, outputs // 2, timm=True)
        self.skipinit_gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(x) * self.beta
        skip = x if self.downsample is None else self.downsample(out)
        out = self.conv2(self.act2(self.conv1(out)))
        out = 2.0 * self.attn(self.conv3(self.act3(out)))
        return out.mul_(self.skipinit_gain) * self.alpha + skip


class NfNet(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (1, 2, 6, 3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ScaledStdConv2d(3, 8, 3, 2), nn.GELU(), ScaledStdConv2d(8, 16, 3)
        )
        blocks: list[nn.Module] = []
        inputs, variance = 16, 1.0
        for depth, outputs in zip(depths, (32, 48, 64, 96), strict=True):
            for number in range(depth):
                stride = 2 if number == 0 else 1
                beta = 1.0 / math.sqrt(variance)
                blocks.append(NfBlock(inputs, outputs, stride, beta))
                variance = 1.0 + 0.2**2 if number == 0 else variance + 0.2**2
                inputs = outputs
        self.stages = nn.Sequential(*blocks)
        self.final_conv = ScaledStdConv2d(inputs, 128, 1)
        self.final_act = nn.GELU()
        self.fc = nn.Linear(128, NUM_CLASSES)
        nn.init.normal_(self.fc.weight, 0.0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.final_act(self.final_conv(self.stages(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class BasicBlock3d(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs)
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm3d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


class R3d(nn.Module):
    """torchvision's video ResNet with full 3-D convolutions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            first = BasicBlock3d(inputs, outputs, 1 if stage == 0 else 2)
            layer = nn.Sequential(first, BasicBlock3d(outputs, outputs, 1))
            self.add_module(f"layer{stage + 1}", layer)
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.fc = nn.Linear(inputs, NUM_CLASSES)
        kaiming_fan_out(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))
