"""Convolutions and attention together: CoaT, LeViT, MaxViT and pyramids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import (
    NUM_CLASSES,
    Attention,
    DropPath,
    LayerScale,
    Mlp,
    SqueezeExcite,
    conv_norm,
    parameter,
    truncated_normal,
)
from benchmarks.images.transformers import from_windows, relative_index, to_windows


def to_image(x: Tensor) -> Tensor:
    """Return [batch, channels, size, size] of a sequence of patches."""
    size = math.isqrt(x.shape[1])
    return x.transpose(1, 2).reshape(len(x), -1, size, size)


class FactorAttention(nn.Module):
    """CoaT: factorised attention with a convolutional relative position term."""

    def __init__(self, dim: int, crpe: nn.Module, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.crpe = heads, crpe
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        head = dim // self.heads
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        factor = q @ (k.softmax(dim=2).transpose(-1, -2) @ v)
        image = v[:, :, 1:].transpose(-1, -2).reshape(batch, dim, length - 1)
        image = to_image(image.transpose(1, 2))
        position = self.crpe(image).reshape(batch, self.heads, head, length - 1)
        position = q[:, :, 1:] * position.transpose(-1, -2)
        position = functional.pad(position, (0, 0, 1, 0, 0, 0))
        x = (head**-0.5 * factor + position).transpose(1, 2)
        return self.proj(x.reshape(batch, length, dim))


class CoatStage(nn.Module):
    """Serial blocks that share a position encoding and a relative one."""

    def __init__(self, inputs: int, dim: int, patch: int, depth: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(inputs, dim, patch, patch)
        self.patch_norm = nn.LayerNorm(dim)
        self.cls_token = parameter(1, 1, dim)
        self.cpe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        crpe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.attn = nn.ModuleList(FactorAttention(dim, crpe) for _ in range(depth))
        self.norm1 = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.norm2 = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.mlp = nn.ModuleList(Mlp(dim, 4 * dim) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_norm(self.patch(x).flatten(2).transpose(1, 2))
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        for number, attn in enumerate(self.attn):
            token, image = x[:, :1], to_image(x[:, 1:])
            image = (self.cpe(image) + image).flatten(2).transpose(1, 2)
            x = torch.cat((token, image), dim=1)
            x = x + attn(self.norm1[number](x))
            x = x + self.mlp[number](self.norm2[number](x))
        return x


class CoatLite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rows = ((3, 24, 4), (24, 32, 2), (32, 48, 2))
        self.stages = nn.ModuleList(CoatStage(i, o, p, 2) for i, o, p in rows)
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        for number, stage in enumerate(self.stages):
            if number:
                x = to_image(x[:, 1:])
            x = stage(x)
        return self.head(self.norm(x)[:, 0])


class LinearNorm(nn.Module):
    """LeViT's linear layer without bias and its batch norm."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.bn.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class LevitAttention(nn.Module):
    def __init__(self, dim: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.heads, self.key, self.stride, self.size = 4, 8, stride, size
        self.value = 2 * self.key
        self.kv = LinearNorm(dim, self.heads * (self.key + self.value))
        self.q = LinearNorm(dim, self.heads * self.key)
        self.attention_biases = nn.Parameter(
            torch.zeros(self.heads, (2 * size - 1) ** 2)
        )
        index = relative_index(size).view(size, size, -1)[::stride, ::stride]
        self.register_buffer("bias_index", index.reshape(-1, size * size))
        self.act = nn.Hardswish()
        gain = 0.0 if stride == 1 else 1.0
        self.proj = LinearNorm(self.heads * self.value, outputs, gain)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        kv = self.kv(x).view(batch, length, self.heads, -1).permute(0, 2, 1, 3)
        k, v = kv.split([self.key, self.value], dim=3)
        asking = x
        if self.stride > 1:
            image = x.view(batch, self.size, self.size, dim)
            asking = image[:, :: self.stride, :: self.stride].reshape(batch, -1, dim)
        q = self.q(asking).view(batch, -1, self.heads, self.key).permute(0, 2, 1, 3)
        attn = q @ k.transpose(-2, -1) * self.key**-0.5
        attn = attn + self.attention_biases[:, self.bias_index]  # type: ignore[index]
        x = (attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, q.shape[2], -1)
        return self.proj(self.act(x))


class LevitMlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln1, self.act = LinearNorm(dim, 2 * dim), nn.Hardswish()
        self.ln2 = LinearNorm(2 * dim, dim, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln2(self.act(self.ln1(x)))


class LevitBlock(nn.Module):
    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.attn, self.mlp = LevitAttention(dim, dim, size), LevitMlp(dim)
        self.drop_path = DropPath(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


class LevitDown(nn.Module):
    def __init__(self, dim: int, outputs: int, size: int) -> None:
        super().__init__()
        self.attn_downsample = LevitAttention(dim, outputs, size, 2)
        self.mlp = LevitMlp(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn_downsample(x)
        return x + self.mlp(x)


class Levit(nn.Module):
    """Batch norms everywhere, zero gains on branches, two averaged heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, 16, 3, 2, act=nn.Hardswish), conv_norm(16, 32, 3, 2, act=None)
        )
        self.stages = nn.Sequential(
            LevitBlock(32, 8),
            LevitBlock(32, 8),
            LevitDown(32, 48, 8),
            LevitBlock(48, 4),
            LevitBlock(48, 4),
            LevitDown(48, 64, 4),
            LevitBlock(64, 2),
        )
        self.head_bn, self.head_dist_bn = nn.BatchNorm1d(64), nn.BatchNorm1d(64)
        self.head, self.head_dist = nn.Linear(64, NUM_CLASSES), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x).flatten(2).transpose(1, 2)).mean(1)
        x, y = self.head(self.head_bn(x)), self.head_dist(self.head_dist_bn(x))
        return (x + y) / 2


class MaxVitAttention(nn.Module):
    """torchvision's attention on windows or on a grid with a bias table."""

    def __init__(self, dim: int, size: int, *, grid: bool) -> None:
        super().__init__()
        self.size, self.grid, self.heads = size, grid, 4
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv, self.merge = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.relative_position_bias_table = parameter((2 * size - 1) ** 2, 4)
        self.register_buffer("index", relative_index(size).view(-1))
        self.mlp = Mlp(dim, 4 * dim)

    def _attend(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.to_qkv(x).reshape(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.index]  # type: ignore[index]
        bias = bias.view(length, length, -1).permute(2, 0, 1).unsqueeze(0)
        attn = (q @ (k * (dim // self.heads) ** -0.5).transpose(-1, -2) + bias).softmax(
            -1
        )
        return self.merge((attn @ v).transpose(1, 2).reshape(batch, length, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        batch, height, width, dim = x.shape
        if self.grid:
            cell = height // self.size
            x = x.view(batch, self.size, cell, self.size, cell, dim)
            x = x.permute(0, 2, 4, 1, 3, 5).reshape(-1, self.size**2, dim)
        else:
            x = to_windows(x, self.size)
        x = x + self._attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        if self.grid:
            x = x.view(batch, cell, cell, self.size, self.size, dim)
            x = x.permute(0, 3, 1, 4, 2, 5).reshape(batch, height, width, dim)
        else:
            x = from_windows(x, self.size, height, width)
        return x.permute(0, 3, 1, 2)


class MaxVitLayer(nn.Module):
    def __init__(self, inputs: int, dim: int, stride: int, size: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.proj: nn.Module = nn.Identity()
        if stride > 1 or inputs != dim:
            self.proj = nn.Sequential(
                nn.AvgPool2d(3, stride, 1), nn.Conv2d(inputs, dim, 1)
            )
        self.pre_norm = nn.BatchNorm2d(inputs)
        self.conv_a = conv_norm(inputs, hidden, 1, act=nn.GELU)
        self.conv_b = conv_norm(hidden, hidden, 3, stride, hidden, act=nn.GELU)
        self.squeeze = SqueezeExcite(hidden, dim // 4, nn.SiLU)
        self.conv_c = nn.Conv2d(hidden, dim, 1)
        self.window_attention = MaxVitAttention(dim, size, grid=False)
        self.grid_attention = MaxVitAttention(dim, size, grid=True)
        self.stochastic_depth = DropPath(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.squeeze(self.conv_b(self.conv_a(self.pre_norm(x))))
        x = self.proj(x) + self.stochastic_depth(self.conv_c(out))
        return self.grid_attention(self.window_attention(x))


class MaxVit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, 16, 3, 2, act=nn.GELU), nn.Conv2d(16, 16, 3, 1, 1)
        )
        self.blocks = nn.Sequential(
            MaxVitLayer(16, 24, 2, 4),
            MaxVitLayer(24, 24, 1, 4),
            MaxVitLayer(24, 32, 2, 2),
            MaxVitLayer(32, 32, 1, 2),
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(32),
            nn.Linear(32, 32),
            nn.Tanh(),
            nn.Linear(32, NUM_CLASSES, bias=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)))


class MetaBlock4d(nn.Module):
    """EfficientFormer: pooling and a convolutional perceptron, LayerScale 1e-5."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_mixer = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.ls1 = LayerScale(dim, 1e-5, image=True)
        self.fc1 = conv_norm(dim, 4 * dim, 1, act=nn.GELU)
        self.fc2 = conv_norm(4 * dim, dim, 1, act=None)
        self.ls2 = LayerScale(dim, 1e-5, image=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.token_mixer(x) - x)
        return x + self.ls2(self.fc2(self.fc1(x)))


class MetaBlock3d(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim), Mlp(dim, 4 * dim)
        self.ls1, self.ls2 = LayerScale(dim, 1e-5), LayerScale(dim, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class EfficientFormer(nn.Module):
    def __init__(self, dims: tuple[int, ...] = (16, 24, 48)) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 16, 3, 2), conv_norm(16, dims[0], 3, 2)]
        for number, dim in enumerate(dims):
            if number:
                layers.append(conv_norm(dims[number - 1], dim, 3, 2, act=None))
            layers += [MetaBlock4d(dim) for _ in range(3)]
        self.stages = nn.Sequential(*layers)
        self.blocks = nn.Sequential(*[MetaBlock3d(dims[-1]) for _ in range(2)])
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], NUM_CLASSES)
        self.head_dist = nn.Linear(dims[-1], NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(x)).mean(dim=1)
        return (self.head(x) + self.head_dist(x)) / 2
