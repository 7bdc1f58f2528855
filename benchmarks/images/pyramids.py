"""Pyramid transformers: PVT, Twins, CvT, EdgeNeXt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.class_attention import CrossCovariance
from benchmarks.images.hybrids import to_image
from benchmarks.images.mixers import CNBlock
from benchmarks.images.parts import (
    NUM_CLASSES,
    Attention,
    LayerNorm2d,
    Mlp,
    truncated_normal,
)
from benchmarks.images.transformers import from_windows, to_windows


class ReducedAttention(nn.Module):
    """Keys and values from a strided convolution of the image."""

    def __init__(self, dim: int, ratio: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.ratio = heads, ratio
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if ratio > 1:
            self.sr = nn.Conv2d(dim, dim, ratio, ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        head = dim // self.heads
        q = self.q(x).reshape(batch, length, self.heads, head).transpose(1, 2)
        if self.ratio > 1:
            reduced = self.sr(to_image(x)).flatten(2).transpose(1, 2)
            kv = self.kv(self.norm(reduced))
        else:
            kv = self.kv(x)
        kv = kv.reshape(batch, -1, 2, self.heads, head).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, kv[0], kv[1])
        return self.proj(out.transpose(1, 2).reshape(batch, length, dim))


class ConvMlp(nn.Module):
    """PVT v2's perceptron with a depthwise convolution inside."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(to_image(self.fc1(x))).flatten(2).transpose(1, 2)
        return self.fc2(self.act(x))


class PvtBlock(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = ReducedAttention(dim, ratio), ConvMlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PvtStage(nn.Module):
    def __init__(
        self, inputs: int, dim: int, ratio: int, depth: int, *, first: bool
    ) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.proj = nn.Conv2d(inputs, dim, kernel, stride, kernel // 2)
        self.embed_norm = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*[PvtBlock(dim, ratio) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_norm(self.proj(x).flatten(2).transpose(1, 2))
        return to_image(self.norm(self.blocks(x)))


class PvtV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            PvtStage(3, 16, 4, 2, first=True),
            PvtStage(16, 32, 2, 2, first=False),
            PvtStage(32, 48, 1, 2, first=False),
        )
        self.head = nn.Linear(48, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).flatten(2).mean(-1))


class WindowedAttention(nn.Module):
    """Attention within windows, without positions (Twins' local groups)."""

    def __init__(self, dim: int, size: int = 4) -> None:
        super().__init__()
        self.size, self.inner = size, Attention(dim)

    def forward(self, x: Tensor) -> Tensor:
        image = to_image(x).permute(0, 2, 3, 1)
        height, width = image.shape[1:3]
        out = self.inner(to_windows(image, self.size))
        return from_windows(out, self.size, height, width).flatten(1, 2)


class TwinsBlock(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        local = ratio == 0
        self.attn = WindowedAttention(dim) if local else ReducedAttention(dim, ratio)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Twins(nn.Module):
    """Local groups and reduced global attention in turn, convolutional positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embeds, self.norms = nn.ModuleList(), nn.ModuleList()
        self.pos, self.blocks = nn.ModuleList(), nn.ModuleList()
        inputs = 3
        for dim, patch, ratio in ((16, 4, 4), (32, 2, 2)):
            self.patch_embeds.append(nn.Conv2d(inputs, dim, patch, patch))
            self.norms.append(nn.LayerNorm(dim))
            self.pos.append(nn.Conv2d(dim, dim, 3, 1, 1, groups=dim))
            blocks = [TwinsBlock(dim, r) for r in (0, ratio, 0, ratio)]
            self.blocks.append(nn.ModuleList(blocks))
            inputs = dim
        self.norm = nn.LayerNorm(inputs)
        self.head = nn.Linear(inputs, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        for number, embed in enumerate(self.patch_embeds):
            x = self.norms[number](embed(x).flatten(2).transpose(1, 2))
            for position, block in enumerate(self.blocks[number].children()):
                x = block(x)
                if position == 0:
                    image = to_image(x)
                    image = self.pos[number](image) + image
                    x = image.flatten(2).transpose(1, 2)
            x = to_image(x)
        x = self.norm(x.flatten(2).transpose(1, 2))
        return self.head(x.mean(dim=1))


def _conv_projection(dim: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False), nn.BatchNorm2d(dim)
    )


class CvtAttention(nn.Module):
    """Query, key and value through depthwise convolutions, then linear layers."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.conv_q, self.conv_k = _conv_projection(dim, 1), _conv_projection(dim, 2)
        self.conv_v = _conv_projection(dim, 2)
        self.proj_q, self.proj_k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.proj_v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        image = to_image(x)
        shape = (batch, -1, self.heads, dim // self.heads)
        q, k, v = (
            proj(conv(image).flatten(2).transpose(1, 2)).reshape(shape).transpose(1, 2)
            for conv, proj in (
                (self.conv_q, self.proj_q),
                (self.conv_k, self.proj_k),
                (self.conv_v, self.proj_v),
            )
        )
        attn = ((q @ k.transpose(-2, -1)) * dim**-0.5).softmax(-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(batch, length, dim))


class CvtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = CvtAttention(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Cvt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeds, self.norms = nn.ModuleList(), nn.ModuleList()
        self.blocks = nn.ModuleList()
        inputs = 3
        for dim, kernel, stride in ((16, 7, 4), (32, 3, 2)):
            self.embeds.append(nn.Conv2d(inputs, dim, kernel, stride, kernel // 2))
            self.norms.append(nn.LayerNorm(dim))
            self.blocks.append(nn.Sequential(*[CvtBlock(dim) for _ in range(3)]))
            inputs = dim
        self.norm = nn.LayerNorm(inputs)
        self.head = nn.Linear(inputs, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        for embed, norm, blocks in zip(
            self.embeds, self.norms, self.blocks, strict=True
        ):
            x = norm(embed(x).flatten(2).transpose(1, 2))
            x = to_image(blocks(x))
        return self.head(self.norm(x.flatten(2).transpose(1, 2)).mean(dim=1))


class SplitTransposeBlock(nn.Module):
    """EdgeNeXt's encoder: hierarchical depthwise convolutions, then XCA, then MLP."""

    def __init__(self, dim: int, parts: int = 2, scale: float = 1e-6) -> None:
        super().__init__()
        width = dim // (parts + 1)
        self.parts = parts
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, 1, 1, groups=width) for _ in range(parts)
        )
        self.norm_xca, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gamma_xca = nn.Parameter(scale * torch.ones(dim))
        self.gamma = nn.Parameter(scale * torch.ones(dim))
        self.xca, self.mlp = CrossCovariance(dim), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        chunks = x.chunk(self.parts + 1, dim=1)
        outs: list[Tensor] = []
        for number, conv in enumerate(self.convs):
            fed = chunks[number] if number == 0 else chunks[number] + outs[-1]
            outs.append(conv(fed))
        x = torch.cat((*outs, chunks[-1]), dim=1)
        x = x.flatten(2).transpose(1, 2)
        x = x + self.gamma_xca * self.xca(self.norm_xca(x))
        x = to_image(self.gamma * self.mlp(self.norm(x)))
        return shortcut + x


class EdgeNext(nn.Module):
    def __init__(self, dims: tuple[int, ...] = (24, 48, 72)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0])]
        for number, dim in enumerate(dims):
            if number:
                inputs = dims[number - 1]
                layers += [LayerNorm2d(inputs), nn.Conv2d(inputs, dim, 2, 2)]
            layers += [CNBlock(dim, 1e-6, 0.0), CNBlock(dim, 1e-6, 0.0)]
            if number:
                layers.append(SplitTransposeBlock(dim))
        self.stages = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.stages(x), 1).flatten(1)
        return self.head(self.norm(x))
