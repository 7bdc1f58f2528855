"""Norms that fit a weight layer: the module and its code."""

from __future__ import annotations

import math

from torch import nn

from gradwatch.anatomy import WeightFacts

#: Twice the 32 groups of the paper (Wu & He 2018, arXiv:1803.08494, section 4.1).
_TWICE_GROUPS = 64
_BATCH_NORMS = {
    0: nn.BatchNorm1d,
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}


def groups_of(channels: int) -> int:
    """Return the groups of a group norm: up to 32, of at least two channels each."""
    return max(1, math.gcd(channels, _TWICE_GROUPS) // 2)


def norm_after(kind: str, dims: int, size: int) -> nn.Module:
    """Return a norm for the output of a weight layer.

    Args:
        kind: `batch`, `layer` or `group`; linear layers have no groups and get a layer
            norm for `group`, convolutions one group for `layer`.
        dims: Spatial dimensions of the layer, 0 for a linear one.
        size: Its output features or channels.

    Returns:
        The module.
    """
    if kind == "batch":
        return _BATCH_NORMS[dims](size)
    if dims == 0:
        return nn.LayerNorm(size)
    return nn.GroupNorm(1 if kind == "layer" else groups_of(size), size)


def norm_code(kind: str, facts: WeightFacts, *, inputs: bool = False) -> str:
    """Return the expression of a norm for a weight layer called `layer`.

    Args:
        kind: As for `norm_after`.
        facts: The layer.
        inputs: Whether the norm is for its input.

    Returns:
        Such as `nn.BatchNorm1d(layer.out_features)`.
    """
    side = "in" if inputs else "out"
    size = f"layer.{side}_{'channels' if facts.dims else 'features'}"
    if "Conv1D" in facts.kind:  # transformers' linear layer: nx, nf
        size = f"layer.{'nx' if inputs else 'nf'}"
    if kind == "batch":
        return f"nn.{_BATCH_NORMS[facts.dims].__name__}({size})"
    if facts.dims == 0:
        return f"nn.LayerNorm({size})"
    width = facts.in_size if inputs else facts.out_size
    groups = 1 if kind == "layer" else groups_of(width)
    return f"nn.GroupNorm({groups}, {size})"


def norm_literal(facts: WeightFacts) -> str:
    """Return the expression of a norm for what a layer reads, its size as a number."""
    name = f"nn.GroupNorm(1, {facts.in_size})" if facts.dims else ""
    return name or f"nn.LayerNorm({facts.in_size})"


def dims_of(module: nn.Module) -> int:
    """Return the spatial dimensions of a weight layer."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return len(module.kernel_size)
    return 0


def sizes_of(module: nn.Module) -> tuple[int, int]:
    """Return features or channels in and out of a weight layer.

    Args:
        module: A linear layer or convolution; transformers' Conv1D as well.

    Returns:
        The pair.

    Raises:
        TypeError: If it is neither.
    """
    for names in (
        ("in_features", "out_features"),
        ("in_channels", "out_channels"),
        ("nx", "nf"),
    ):
        sizes = [getattr(module, name, None) for name in names]
        if all(isinstance(size, int) for size in sizes):
            return int(sizes[0] or 0), int(sizes[1] or 0)
    raise TypeError(
        f"`module` (={type(module).__name__}) must be a linear layer or a convolution: "
        "its features or channels are not known. Put the norm in by hand."
    )
