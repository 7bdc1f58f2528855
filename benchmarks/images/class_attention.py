"""Transformers with class attention or two branches: CaiT, XCiT, CrossViT, VOLO."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.images.parts import (
    NUM_CLASSES,
    Attention,
    Mlp,
    PatchEmbed,
    conv_norm,
    parameter,
    truncated_normal,
)
from benchmarks.images.transformers import Block


class ClassAttention(nn.Module):
    """Only the class token asks; all tokens answer."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, _length, dim = x.shape
        head = (batch, -1, self.heads, dim // self.heads)
        q = self.q(x[:, 0]).unsqueeze(1).reshape(head).transpose(1, 2)
        k = self.k(x).reshape(head).transpose(1, 2)
        v = self.v(x).reshape(head).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, 1, dim))


class ClassBlock(nn.Module):
    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = ClassAttention(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.gamma_1 = nn.Parameter(scale * torch.ones(dim))
        self.gamma_2 = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        joined = torch.cat((token, x), dim=1)
        token = token + self.gamma_1 * self.attn(self.norm1(joined))
        return token + self.gamma_2 * self.mlp(self.norm2(token))


class TalkingHeads(nn.Module):
    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.proj_l, self.proj_w = nn.Linear(heads, heads), nn.Linear(heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attn = q * (dim // self.heads) ** -0.5 @ k.transpose(-2, -1)
        attn = self.proj_l(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        attn = self.proj_w(attn.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((attn @ v).transpose(1, 2).reshape(batch, length, dim))


class Cait(nn.Module):
    def __init__(self, dim: int = 48, depth: int = 8, scale: float = 1e-5) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, 8)
        self.cls_token = parameter(1, 1, dim)
        self.pos_embed = parameter(1, 16, dim)
        blocks = []
        for _ in range(depth):
            block = Block(dim, scale, 0.05)
            block.attn = TalkingHeads(dim)
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.blocks_token_only = nn.ModuleList(ClassBlock(dim, scale) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch_embed(x) + self.pos_embed)
        token = self.cls_token.expand(len(x), -1, -1)
        for block in self.blocks_token_only:
            token = block(x, token)
        return self.head(self.norm(torch.cat((token, x), dim=1))[:, 0])


class CrossCovariance(nn.Module):
    """Attention among channels with a learned temperature."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 4, 1).unbind(0)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        attn = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        return self.proj((attn @ v).permute(0, 3, 1, 2).reshape(batch, length, dim))


class LocalPatches(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.act, self.bn = nn.GELU(), nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        size = math.isqrt(length)
        x = x.permute(0, 2, 1).reshape(batch, dim, size, size)
        x = self.conv2(self.bn(self.act(self.conv1(x))))
        return x.reshape(batch, dim, length).permute(0, 2, 1)


class XcaBlock(nn.Module):
    def __init__(self, dim: int, eta: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.attn = CrossCovariance(dim)
        self.local_mp = LocalPatches(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.gamma1 = nn.Parameter(eta * torch.ones(dim))
        self.gamma2 = nn.Parameter(eta * torch.ones(dim))
        self.gamma3 = nn.Parameter(eta * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = x + self.gamma3 * self.local_mp(self.norm3(x))
        return x + self.gamma2 * self.mlp(self.norm2(x))


class XcitClassBlock(nn.Module):
    def __init__(self, dim: int, eta: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = ClassAttention(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.gamma1 = nn.Parameter(eta * torch.ones(dim))
        self.gamma2 = nn.Parameter(eta * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        attn = torch.cat([self.attn(normed), normed[:, 1:]], dim=1)
        x = self.norm2(x + self.gamma1 * attn)
        token = self.gamma2 * self.mlp(x[:, 0:1])
        return x + torch.cat([token, x[:, 1:]], dim=1)


class Xcit(nn.Module):
    def __init__(self, dim: int = 48, depth: int = 6, eta: float = 1.0) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            conv_norm(3, dim // 4, 3, 2, act=nn.GELU),
            conv_norm(dim // 4, dim // 2, 3, 2, act=nn.GELU),
            conv_norm(dim // 2, dim, 3, 2, act=None),
        )
        self.token_projection = nn.Conv2d(32, dim, 1)
        angles = (
            torch.arange(16.0).view(4, 4)[None]
            / (torch.arange(16.0) + 1)[:, None, None]
        )
        fourier = torch.cat((angles.sin(), angles.cos()))[None]
        self.register_buffer("fourier", fourier)
        self.cls_token = parameter(1, 1, dim)
        self.blocks = nn.Sequential(*[XcaBlock(dim, eta) for _ in range(depth)])
        self.cls_attn_blocks = nn.Sequential(
            *[XcitClassBlock(dim, eta) for _ in range(2)]
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        position = self.token_projection(self.fourier).flatten(2).transpose(1, 2)
        x = self.blocks(x + position)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        return self.head(self.norm(self.cls_attn_blocks(x))[:, 0])


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.wq, self.wk = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.wv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        head = (batch, -1, self.heads, dim // self.heads)
        q = self.wq(x[:, 0:1]).reshape(head).transpose(1, 2)
        k = self.wk(x).reshape(head).transpose(1, 2)
        v = self.wv(x).reshape(head).transpose(1, 2)
        attn = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(batch, 1, dim))


class CrossBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), CrossAttention(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0:1] + self.attn(self.norm1(x))


class MultiScaleBlock(nn.Module):
    """Two branches, each with blocks of its own, that exchange their class tokens."""

    def __init__(self, dims: tuple[int, int], depths: tuple[int, int]) -> None:
        super().__init__()
        pairs = (dims, dims[::-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(*[Block(dim) for _ in range(depth)])
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.projs = nn.ModuleList(_projection(a, b) for a, b in pairs)
        self.fusion = nn.ModuleList(CrossBlock(b) for _, b in pairs)
        self.revert_projs = nn.ModuleList(_projection(b, a) for a, b in pairs)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        outs = [block(x) for block, x in zip(self.blocks, xs, strict=True)]
        tokens = [proj(out[:, 0:1]) for proj, out in zip(self.projs, outs, strict=True)]
        fused = []
        for number in range(2):
            other = outs[1 - number][:, 1:]
            token = self.fusion[number](torch.cat((tokens[number], other), dim=1))
            token = self.revert_projs[number](token)
            fused.append(torch.cat((token, outs[number][:, 1:]), dim=1))
        return fused


def _projection(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(inputs), nn.GELU(), nn.Linear(inputs, outputs))


class CrossVit(nn.Module):
    def __init__(self, dims: tuple[int, int] = (32, 48)) -> None:
        super().__init__()
        patches = (4, 8)
        self.patch_embed = nn.ModuleList(
            PatchEmbed(dim, patch) for dim, patch in zip(dims, patches, strict=True)
        )
        self.cls_token = nn.ParameterList(parameter(1, 1, dim) for dim in dims)
        self.pos_embed = nn.ParameterList(
            parameter(1, 1 + (32 // patch) ** 2, dim)
            for dim, patch in zip(dims, patches, strict=True)
        )
        self.blocks = nn.Sequential(*[MultiScaleBlock(dims, (1, 3)) for _ in range(2)])
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.head = nn.ModuleList(nn.Linear(dim, NUM_CLASSES) for dim in dims)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        xs = []
        for number, embed in enumerate(self.patch_embed):
            token = self.cls_token[number].expand(len(x), -1, -1)
            patches = torch.cat((token, embed(x)), dim=1)
            xs.append(patches + self.pos_embed[number])
        xs = self.blocks(xs)
        logits = [
            head(norm(x)[:, 0])
            for head, norm, x in zip(self.head, self.norm, xs, strict=True)
        ]
        return torch.mean(torch.stack(logits), dim=0)


class OutlookAttention(nn.Module):
    """Weights for a 3x3 window come from its centre by a linear layer."""

    def __init__(self, dim: int, heads: int = 4, kernel: int = 3) -> None:
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.v, self.proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.attn = nn.Linear(dim, kernel**4 * heads)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        area, head = self.kernel**2, dim // self.heads
        v = self.v(x).permute(0, 3, 1, 2)
        v = functional.unfold(v, self.kernel, padding=1)
        v = v.reshape(batch, self.heads, head, area, -1).permute(0, 1, 4, 3, 2)
        attn = self.attn(x).reshape(batch, -1, self.heads, area, area)
        attn = (attn.permute(0, 2, 1, 3, 4) * head**-0.5).softmax(dim=-1)
        x = (attn @ v).permute(0, 1, 4, 3, 2).reshape(batch, dim * area, -1)
        x = functional.fold(x, (height, width), self.kernel, padding=1)
        return self.proj(x.permute(0, 2, 3, 1))


class VoloBlock(nn.Module):
    def __init__(self, dim: int, attn: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = attn, Mlp(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Volo(nn.Module):
    """Outlook stage, transformer stage, class blocks and a token-labelling head."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            conv_norm(3, 16, 3, 2), conv_norm(16, 16), nn.Conv2d(16, dim, 2, 2)
        )
        self.outlook = nn.Sequential(
            *[VoloBlock(dim, OutlookAttention(dim)) for _ in range(3)]
        )
        self.downsample = nn.Conv2d(dim, 2 * dim, 2, 2)
        dim *= 2
        self.pos_embed = parameter(1, 16, dim)
        self.stages = nn.Sequential(*[VoloBlock(dim, Attention(dim)) for _ in range(4)])
        self.post = nn.ModuleList(ClassBlock(dim, 1.0) for _ in range(2))
        self.cls_token = parameter(1, 1, dim)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, NUM_CLASSES)
        self.aux_head = nn.Linear(dim, NUM_CLASSES)
        truncated_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.outlook(self.patch_embed(x).permute(0, 2, 3, 1))
        x = self.downsample(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = self.stages(x + self.pos_embed)
        token = self.cls_token.expand(len(x), -1, -1)
        for block in self.post:
            token = block(x, token)
        x = self.norm(torch.cat((token, x), dim=1))
        aux = self.aux_head(x[:, 1:])
        return self.head(x[:, 0]) + 0.5 * aux.max(1)[0]
