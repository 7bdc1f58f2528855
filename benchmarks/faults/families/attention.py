"""Attention blocks that the transformer and encoder-decoder families share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class Attention(nn.Module):
    """Query, key, value and output as separate projections.

    Args:
        width: Width of the stream.
        heads: Number of heads.
        strict: Whether a position may look only at those before it: the first at none,
            which makes its softmax 0 / 0.
    """

    def __init__(self, width: int, heads: int = 4, strict: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.strict = strict
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        source = x if memory is None else memory
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        if self.strict:
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu()
            y = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return result


class Block(nn.Module):
    """Attention and feed-forward; where norms and sums stand is a choice.

    Args:
        width: Width of the stream.
        style: `pre`, `post`, `bare` (sums without norms) or `plain` (neither).
        act: Activation of the feed-forward part.
        scale: LayerScale or ReZero factor of both branches; None for none.
        cross: Whether the block attends to a memory too.
    """

    def __init__(
        self,
        width: int,
        style: str = "pre",
        act: Callable[[Tensor], Tensor] = F.gelu,
        scale: float | None = None,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.style = style
        self.act = act
        self.attention = Attention(width)
        self.cross = Attention(width) if cross else None
        self.expand = nn.Linear(width, 2 * width)
        self.project = nn.Linear(2 * width, width)
        count = 3 if cross else 2
        normed = style in ("pre", "post")
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if normed else nn.Identity() for _ in range(count)
        )
        self.scales = (
            None
            if scale is None
            else nn.ParameterList(torch.full((width,), scale) for _ in range(count))
        )

    def feed_forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.project(self.act(self.expand(x)))
        return result

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        parts: list[Callable[[Tensor], Tensor]] = [self.attention, self.feed_forward]
        if self.cross is not None:
            cross = self.cross
            parts.insert(1, lambda y: cross(y, memory))
        for index, part in enumerate(parts):
            norm = self.norms[index]
            y = part(norm(x) if self.style == "pre" else x)
            if self.scales is not None:
                y = y * self.scales[index]
            x = y if self.style == "plain" else x + y
            if self.style == "post":
                x = norm(x)
        return x
