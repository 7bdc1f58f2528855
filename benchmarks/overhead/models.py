"""The models that are trained under each tool, each with its batches and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model with what it is trained on.

    Attributes:
        model: The model.
        inputs: One batch; the same at every step, so that only the tool differs.
        loss: From the model's output to the loss.
    """

    model: nn.Module
    inputs: Tensor
    loss: Callable[[Tensor], Tensor]


class Block(nn.Module):
    """The basic block of ResNet-18 (He et al. 2015, arXiv:1512.03385, table 1)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.short = nn.Identity()
        if stride != 1 or before != width:
            self.short = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        body = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(body + self.short(x))


class Attention(nn.Module):
    """A pre-norm transformer block with causal attention, as in GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after the block."""
        batch, time, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A small GPT."""

    def __init__(self, vocabulary: int, layers: int, width: int, time: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(time, width)
        self.blocks = nn.Sequential(*(Attention(width, 8) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.places(places)
        return self.head(self.norm(self.blocks(x)))


class Recurrent(nn.Module):
    """An LSTM that reads a sequence and classifies it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits from the last step."""
        return self.head(self.lstm(x)[0][:, -1])


def _classes(count: int, classes: int) -> Callable[[Tensor], Tensor]:
    target = torch.randint(0, classes, (count,))
    return lambda output: F.cross_entropy(output.reshape(count, -1), target)


def mlp() -> Case:
    """64 layers of 256 units, batch 64: 4.2 million parameters."""
    layers: list[nn.Module] = []
    for _ in range(64):
        layers += [nn.Linear(256, 256), nn.ReLU()]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    return Case(model, torch.randn(64, 256), _classes(64, 10))


def resnet() -> Case:
    """A ResNet-18 on 64 x 64 pixels, batch 16: 11 million parameters."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [
        Block(before, width, 2 if width > before else 1)
        for before, width in pairwise(widths)
    ]
    model = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    return Case(model, torch.randn(16, 3, 64, 64), _classes(16, 10))


def gpt() -> Case:
    """6 layers of width 256 on 4 x 128 tokens: 5.3 million parameters."""
    model = GPT(1000, 6, 256, 128)
    return Case(model, torch.randint(0, 1000, (4, 128)), _classes(512, 1000))


def tiny() -> Case:
    """1,000 tiny tensors: 500 linear layers of 8 units, on a residual stream."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(500))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + 0.04 * torch.tanh(layer(x))
            return x

    return Case(Stream(), torch.randn(32, 8), _classes(32, 8))


def lstm() -> Case:
    """An LSTM of 128 units over 100 steps, batch 16."""
    return Case(Recurrent(), torch.randn(16, 100, 32), _classes(16, 10))


#: Models by name.
MODELS: dict[str, Callable[[], Case]] = {
    "MLP 64x256": mlp,
    "ResNet-18": resnet,
    "GPT 6x256": gpt,
    "1,000 tiny tensors": tiny,
    "LSTM T=100": lstm,
}
