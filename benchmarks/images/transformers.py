"""Vision transformers on one sequence of patches: ViT, DeiT, BEiT, Swin."""

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
    PatchEmbed,
    parameter,
    truncated_normal,
)


class EncoderBlock(nn.Module):
    """torchvision's block with `nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.dropout = nn.Dropout(0.0)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.normal_(module.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.ln_1(x)
        out, _ = self.self_attention(out, out, out, need_weights=False)
        x = self.dropout(out) + x
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    """torchvision's ViT: class token, position parameter, head of zeros."""

    def __init__(self, dim: int = 48, depth: int = 6, patch: int = 8) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        length = (32 // patch) ** 2 + 1
        self.pos_embedding = nn.Parameter(torch.empty(1, length, dim).normal_(std=0.02))
        self.encoder = nn.Sequential(*[EncoderBlock(dim, 4) for _ in range(depth)])
        self.ln = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, NUM_CLASSES)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch**2)))
        nn.init.zeros_(self.conv_proj.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        x = self.ln(self.encoder(x + self.pos_embedding))
        return self.head(x[:, 0])


class Block(nn.Module):
    """timm's pre-norm block."""

    def __init__(self, dim: int, scale: float | None = None, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn: nn.Module = Attention(dim)
        self.ls1 = nn.Identity() if scale is None else LayerScale(dim, scale)
        self.drop_path1 = DropPath(drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls2 = nn.Identity() if scale is None else LayerScale(dim, scale)
        self.drop_path2 = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class TimmVit(nn.Module):
    """timm's ViT with global average pooling, or DeiT's two tokens and two heads."""

    def __init__(
        self,
        *,
        distilled: bool = False,
        scale: float | None = None,
        depth: int = 6,
        dim: int = 48,
        patch: int = 8,
    ) -> None:
        super().__init__()
        length = (32 // patch) ** 2 + 2 * distilled
        self.patch_embed = PatchEmbed(dim, patch)
        self.pos_embed = parameter(1, length, dim)
        drops = [0.1 * n / depth for n in range(depth)]
        self.blocks = nn.Sequential(*[Block(dim, scale, drop) for drop in drops])
        self.norm = nn.Identity() if not distilled else nn.LayerNorm(dim)
        self.fc_norm = nn.LayerNorm(dim) if not distilled else nn.Identity()
        self.head = nn.Linear(dim, NUM_CLASSES)
        truncated_normal(self)
        self.distilled = distilled
        if distilled:
            self.cls_token = parameter(1, 1, dim)
            self.dist_token = parameter(1, 1, dim)
            self.head_dist = nn.Linear(dim, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.patch_embed(x)
        if self.distilled:
            tokens = (self.cls_token, self.dist_token)
            x = torch.cat([*(t.expand(len(x), -1, -1) for t in tokens), x], dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        if self.distilled:
            return self.head(x[:, 0]), self.head_dist(x[:, 1])
        return self.head(self.fc_norm(x.mean(dim=1)))


def relative_index(size: int) -> Tensor:
    """Return the index into a table of (2 size - 1)^2 relative positions."""
    axis = torch.arange(size)
    coords = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + size - 1
    return offset[..., 0] * (2 * size - 1) + offset[..., 1]


class BeitAttention(nn.Module):
    """Query and value biases apart, so that the projection is called as a function."""

    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("k_bias", torch.zeros(dim), persistent=False)
        table = torch.zeros((2 * size - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("index", relative_index(size))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))  # type: ignore[arg-type]
        qkv = functional.linear(x, self.qkv.weight, bias)
        qkv = qkv.reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        index = self.index.view(-1)  # type: ignore[operator, union-attr]
        position = self.relative_position_bias_table[index]
        position = position.view(length, length, -1).permute(2, 0, 1).unsqueeze(0)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=position)
        return self.proj(x.transpose(1, 2).reshape(batch, length, dim))


class Beit(nn.Module):
    def __init__(self, dim: int = 48, depth: int = 6, patch: int = 8) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, patch)
        blocks = []
        for number in range(depth):
            block = Block(dim, 0.1, 0.1 * number / depth)
            block.attn = BeitAttention(dim, 4, 32 // patch)
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.fc_norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, NUM_CLASSES)
        truncated_normal(self)
        for number, block in enumerate(blocks):
            assert isinstance(block.attn, BeitAttention)
            block.attn.proj.weight.data.div_(math.sqrt(2.0 * (number + 1)))
            block.mlp.fc2.weight.data.div_(math.sqrt(2.0 * (number + 1)))
        self.head.weight.data.mul_(0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch_embed(x))
        return self.head(self.fc_norm(x.mean(dim=1)))


def to_windows(x: Tensor, size: int) -> Tensor:
    """Return [windows x batch, size^2, channels] of an image with channels last."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // size, size, width // size, size, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, dim)


def from_windows(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """Undo `to_windows`."""
    dim = x.shape[-1]
    x = x.view(-1, height // size, width // size, size, size, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, dim)


class WindowAttention(nn.Module):
    """Shifted windows.

    torchvision hands the weights to a function (`functional_style`), timm calls the
    modules. The second version has cosine attention and a bias from a small network
    on a constant table.
    """

    def __init__(
        self, dim: int, heads: int, size: int, shift: int, *, version: int, timm: bool
    ) -> None:
        super().__init__()
        self.heads, self.size, self.shift = heads, size, shift
        self.version, self.timm = version, timm
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("index", relative_index(size))
        if version == 1:
            self.relative_position_bias_table = parameter((2 * size - 1) ** 2, heads)
            return
        self.logit_scale = nn.Parameter(torch.log(10 * torch.ones((heads, 1, 1))))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 128),
            nn.ReLU(inplace=True),
            nn.Linear(128, heads, bias=False),
        )
        axis = torch.arange(-(size - 1), size, dtype=torch.float32) / (size - 1) * 8
        table = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
        table = torch.sign(table) * torch.log2(table.abs() + 1.0) / 3.0
        self.register_buffer("relative_coords_table", table)

    def _bias(self) -> Tensor:
        index = self.index.view(-1)  # type: ignore[operator, union-attr]
        if self.version == 1:
            bias = self.relative_position_bias_table[index]
        else:
            bias = self.cpb_mlp(self.relative_coords_table)[index]
        length = self.size**2
        bias = bias.view(length, length, -1).permute(2, 0, 1).contiguous()
        return bias if self.version == 1 else 16 * torch.sigmoid(bias)

    def _mask(self, height: int, width: int) -> Tensor:
        zones = torch.zeros(1, height, width, 1)
        slices = (
            slice(0, -self.size),
            slice(-self.size, -self.shift),
            slice(-self.shift, None),
        )
        for number, (rows, columns) in enumerate(
            (r, c) for r in slices for c in slices
        ):
            zones[:, rows, columns] = number
        zones = to_windows(zones, self.size).squeeze(-1)
        apart = zones.unsqueeze(1) != zones.unsqueeze(2)
        return apart.float() * -100.0

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = to_windows(x, self.size)
        if self.timm:
            qkv = self.qkv(x)
        else:
            qkv = functional.linear(x, self.qkv.weight, self.qkv.bias)
        qkv = qkv.reshape(len(x), -1, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.version == 2:
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
            scale = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
            attn = q.matmul(k.transpose(-2, -1)) * scale
        else:
            attn = (q * (dim // self.heads) ** -0.5).matmul(k.transpose(-2, -1))
        attn = attn + self._bias().unsqueeze(0)
        if self.shift:
            mask = self._mask(height, width)
            attn = attn.view(batch, len(mask), self.heads, *attn.shape[-2:])
            attn = (attn + mask.unsqueeze(1).unsqueeze(0)).flatten(0, 1)
        out = torch.softmax(attn, -1).matmul(v).transpose(1, 2).reshape(x.shape)
        if self.timm:
            out = self.proj(out)
        else:
            out = functional.linear(out, self.proj.weight, self.proj.bias)
        out = from_windows(out, self.size, height, width)
        if self.shift:
            out = torch.roll(out, (self.shift, self.shift), (1, 2))
        return out


class SwinBlock(nn.Module):
    def __init__(
        self, dim: int, shift: int, size: int, *, version: int, timm: bool, drop: float
    ) -> None:
        super().__init__()
        self.version = version
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, 4, size, shift, version=version, timm=timm)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.stochastic_depth = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        if self.version == 1:
            x = x + self.stochastic_depth(self.attn(self.norm1(x)))
            return x + self.stochastic_depth(self.mlp(self.norm2(x)))
        x = x + self.stochastic_depth(self.norm1(self.attn(x)))
        return x + self.stochastic_depth(self.norm2(self.mlp(x)))


class PatchMerging(nn.Module):
    def __init__(self, dim: int, version: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim if version == 1 else 2 * dim)
        self.version = version

    def forward(self, x: Tensor) -> Tensor:
        rows = (x[:, 0::2], x[:, 1::2])
        parts = [row[:, :, start::2] for start in (0, 1) for row in rows]
        x = torch.cat(parts, -1)
        if self.version == 1:
            return self.reduction(self.norm(x))
        return self.norm(self.reduction(x))


class Swin(nn.Module):
    def __init__(
        self,
        *,
        version: int = 1,
        timm: bool = False,
        depths: tuple[int, ...] = (2, 2, 4),
        dim: int = 24,
        window: int = 4,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 2, 2)
        self.embed_norm = nn.LayerNorm(dim)
        layers: list[nn.Module] = []
        count = 0
        for stage, depth in enumerate(depths):
            if stage > 0:
                layers.append(PatchMerging(dim, version))
                dim *= 2
            blocks = []
            for number in range(depth):
                shift = window // 2 if number % 2 and stage < len(depths) - 1 else 0
                drop = 0.1 * count / sum(depths)
                block = SwinBlock(
                    dim, shift, window, version=version, timm=timm, drop=drop
                )
                blocks.append(block)
                count += 1
            layers.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(dim, NUM_CLASSES)
        truncated_normal(self)
        if timm and version == 2:
            # The published code starts every residual branch at zero.
            for block in self.modules():
                if isinstance(block, SwinBlock):
                    nn.init.zeros_(block.norm1.weight)
                    nn.init.zeros_(block.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_norm(self.embed(x).permute(0, 2, 3, 1))
        x = self.norm(self.features(x)).permute(0, 3, 1, 2)
        return self.head(self.avgpool(x).flatten(1))
