"""Modules that bring inputs and targets to unit scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Subtracts a mean and divides by a standard deviation; nothing is learned.

    Args:
        mean: Mean of the data.
        std: Standard deviation of the data; not 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(self, values: Tensor) -> Tensor:
        """Return standardised values of the same shape and dtype."""
        standard: Tensor = (values - self.mean) / self.std
        return standard.to(values.dtype)

    def extra_repr(self) -> str:
        """Return mean and deviation for a reader."""
        return f"mean={float(self.mean):.4g}, std={float(self.std):.4g}"


class Rescale(nn.Module):
    """Multiplies by a constant; nothing is learned.

    Args:
        scale: The constant.
    """

    scale: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, values: Tensor) -> Tensor:
        """Return multiplied values of the same shape and dtype."""
        return (values * self.scale).to(values.dtype)

    def extra_repr(self) -> str:
        """Return the constant for a reader."""
        return f"scale={float(self.scale):.4g}"
