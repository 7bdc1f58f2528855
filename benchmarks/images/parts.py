"""Blocks that image models share, in the style of torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 4
Maker = Callable[[], nn.Module]


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    act: Maker | None = nn.ReLU,
) -> nn.Sequential:
    """Return convolution, batch norm and activation, as torchvision composes them."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            (kernel - 1) // 2 * dilation,
            dilation,
            groups,
            bias=False,
        ),
        nn.BatchNorm2d(outputs),
    ]
    if act is not None:
        layers.append(act())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channel gate; torchvision pools with a module, timm with a mean."""

    def __init__(
        self,
        channels: int,
        squeeze: int,
        act: Maker = nn.ReLU,
        gate: Maker = nn.Sigmoid,
        *,
        timm: bool = False,
    ) -> None:
        super().__init__()
        self.avgpool = nn.Identity() if timm else nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.activation = act()
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.scale_activation = gate()
        self.timm = timm

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True) if self.timm else self.avgpool(x)
        scale = self.fc2(self.activation(self.fc1(pooled)))
        return x * self.scale_activation(scale)


class DropPath(nn.Module):
    """Stochastic depth, one draw a sample."""

    def __init__(self, prob: float = 0.0) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        if self.prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.prob
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = functional.layer_norm(
            x, self.normalized_shape, self.weight, self.bias, self.eps
        )
        return x.permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """Learned gain of a residual branch."""

    def __init__(self, dim: int, value: float, *, image: bool = False) -> None:
        super().__init__()
        shape = (dim, 1, 1) if image else (dim,)
        self.gamma = nn.Parameter(torch.full(shape, value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Affine(nn.Module):
    """ResMLP's norm-free gain and shift."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class Mlp(nn.Module):
    """timm's two-layer perceptron."""

    def __init__(self, dim: int, hidden: int, act: Maker = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = act()
        self.drop1 = nn.Dropout(0.0)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop1(self.act(self.fc1(x))))


class Attention(nn.Module):
    """timm's attention with one projection for query, key and value."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, length, dim))


class PatchEmbed(nn.Module):
    """Image to a sequence of patches."""

    def __init__(self, dim: int, patch: int = 8, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def kaiming_fan_out(model: nn.Module, linear_std: float | None = None) -> None:
    """Torchvision's initialisation of its convolutional networks."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)


def truncated_normal(model: nn.Module, std: float = 0.02) -> None:
    """Initialise as vision transformers are: truncated normal weights, zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def parameter(*shape: int, std: float = 0.02) -> nn.Parameter:
    """Return a truncated normal parameter, such as a position embedding."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=std))
