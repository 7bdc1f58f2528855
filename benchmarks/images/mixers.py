"""Networks of blocks without attention: ConvNeXt, mixers, PoolFormer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import (
    NUM_CLASSES,
    Affine,
    DropPath,
    LayerNorm2d,
    LayerScale,
    Mlp,
    PatchEmbed,
    truncated_normal,
)


class CNBlock(nn.Module):
    """torchvision's ConvNeXt block."""

    def __init__(self, dim: int, scale: float, drop: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)
        self.layer_scale = nn.Parameter(torch.ones(dim, 1, 1) * scale)
        self.stochastic_depth = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x).permute(0, 2, 3, 1)
        out = self.fc2(self.act(self.fc1(self.norm(out)))).permute(0, 3, 1, 2)
        return x + self.stochastic_depth(self.layer_scale * out)


class ConvNext(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (3, 3, 9, 3), width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, width, 4, 4), LayerNorm2d(width, eps=1e-6))
        ]
        count = 0
        for stage, depth in enumerate(depths):
            dim = width * 2**stage
            if stage > 0:
                layers.append(
                    nn.Sequential(
                        LayerNorm2d(dim // 2, eps=1e-6), nn.Conv2d(dim // 2, dim, 2, 2)
                    )
                )
            blocks = []
            for _ in range(depth):
                blocks.append(CNBlock(dim, 1e-6, 0.1 * count / sum(depths)))
                count += 1
            layers.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            LayerNorm2d(dim, eps=1e-6), nn.Flatten(1), nn.Linear(dim, NUM_CLASSES)
        )
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


def conv_mixer(dim: int = 48, depth: int = 8, patch: int = 4) -> nn.Module:
    """Return ConvMixer as its paper writes it."""
    return nn.Sequential(
        nn.Conv2d(3, dim, patch, patch),
        nn.GELU(),
        nn.BatchNorm2d(dim),
        *[
            nn.Sequential(
                Residual(
                    nn.Sequential(
                        nn.Conv2d(dim, dim, 5, groups=dim, padding="same"),
                        nn.GELU(),
                        nn.BatchNorm2d(dim),
                    )
                ),
                nn.Conv2d(dim, dim, 1),
                nn.GELU(),
                nn.BatchNorm2d(dim),
            )
            for _ in range(depth)
        ],
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(dim, NUM_CLASSES),
    )


class MixerBlock(nn.Module):
    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mlp_tokens = Mlp(length, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp_channels = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class ResMlpBlock(nn.Module):
    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.norm1 = Affine(dim)
        self.linear_tokens = nn.Linear(length, length)
        self.norm2 = Affine(dim)
        self.mlp_channels = Mlp(dim, 4 * dim)
        self.ls1 = nn.Parameter(1e-4 * torch.ones(dim))
        self.ls2 = nn.Parameter(1e-4 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.linear_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.ls1 * tokens
        return x + self.ls2 * self.mlp_channels(self.norm2(x))


class SpatialGatingUnit(nn.Module):
    """Half of the channels gate the other half; near identity at first."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim // 2)
        self.proj = nn.Linear(length, length)
        nn.init.normal_(self.proj.weight, std=1e-6)
        nn.init.ones_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        u, v = x.chunk(2, dim=-1)
        v = self.proj(self.norm(v).transpose(-1, -2))
        return u * v.transpose(-1, -2)


class GmlpBlock(nn.Module):
    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 6 * dim)
        self.act = nn.GELU()
        self.gate = SpatialGatingUnit(6 * dim, length)
        self.fc2 = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.gate(self.act(self.fc1(self.norm(x)))))


class Mixer(nn.Module):
    """timm's MLP-Mixer frame: patches, blocks, norm, mean over tokens, head."""

    def __init__(
        self,
        block: Callable[[int, int], nn.Module],
        *,
        dim: int = 48,
        depth: int = 8,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        image: int = 32,
        patch: int = 4,
    ) -> None:
        super().__init__()
        self.stem = PatchEmbed(dim, patch)
        length = (image // patch) ** 2
        self.blocks = nn.Sequential(*[block(dim, length) for _ in range(depth)])
        self.norm = norm(dim)
        self.head = nn.Linear(dim, NUM_CLASSES)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))
        return self.head(x.mean(dim=1))


class PoolingBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.ls1 = LayerScale(dim, 1e-5, image=True)
        self.norm2 = nn.GroupNorm(1, dim)
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)
        self.ls2 = LayerScale(dim, 1e-5, image=True)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.ls1(self.pool(normed) - normed)
        return x + self.ls2(self.fc2(self.act(self.fc1(self.norm2(x)))))


class PoolFormer(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (2, 2, 6, 2), width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage, depth in enumerate(depths):
            dim = width * 2**stage
            kernel, stride = (7, 4) if stage == 0 else (3, 2)
            layers.append(nn.Conv2d(inputs, dim, kernel, stride, kernel // 2))
            layers.append(nn.Sequential(*[PoolingBlock(dim) for _ in range(depth)]))
            inputs = dim
        self.stages = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(1, inputs)
        self.head = nn.Linear(inputs, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stages(x))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
