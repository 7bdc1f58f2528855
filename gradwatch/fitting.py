"""Fits a new module to the place that it takes in a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradwatch.layers import own_parameters

#: Longest list of options that still reads as one line.
_LONG = 60


def fit(new: nn.Module, beside: nn.Module, model: nn.Module) -> None:
    """Give a new module the device, dtype and mode of a layer.

    Args:
        new: Changed in place.
        beside: The layer.
        model: The model, asked where the layer has no floating tensor.
    """
    like = reference_of(beside, model)
    new.to(device=like.device, dtype=like.dtype)
    new.train(beside.training)


def reference_of(module: nn.Module, model: nn.Module) -> Tensor:
    """Return a tensor with the device and dtype of a layer, else of its model."""
    for owner in (module, model):
        tensors = [t for _, t in own_parameters(owner)]
        tensors += [*owner.parameters(), *owner.buffers()]
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor
    return torch.empty(0)


def forget_fast_path(parent: nn.Module, key: str) -> None:
    """Keep torch's fused inference path from computing the old activation."""
    if key == "activation" and hasattr(parent, "activation_relu_or_gelu"):
        vars(parent)["activation_relu_or_gelu"] = 0


def learns(module: nn.Module) -> bool:
    """Whether a layer is trained: what is added to a frozen one is frozen too."""
    flags = [parameter.requires_grad for _, parameter in own_parameters(module)]
    flags = flags or [parameter.requires_grad for parameter in module.parameters()]
    return any(flags) or not flags


def follow_freeze(new: nn.Module, beside: nn.Module) -> None:
    """Freeze a new module if the layer is frozen."""
    if not learns(beside):
        new.requires_grad_(requires_grad=False)


def set_inplace(activation: nn.Module, *, to: bool) -> None:
    """Let an activation work in place, or not, if it can."""
    if "inplace" in vars(activation):
        vars(activation)["inplace"] = to


def title(module: nn.Module) -> str:
    """Return a module for a reader: its class and options, in one line."""
    text = type(module).__name__
    size = getattr(module, "normalized_shape", None) or getattr(
        module, "num_features", getattr(module, "num_channels", None)
    )
    if size is not None:  # a norm, whose other options are the usual ones
        sizes = size if isinstance(size, tuple) else (size,)
        return f"{text}({', '.join(map(str, sizes))})"
    inside = module.extra_repr()
    return f"{text}({inside})" if inside and len(inside) <= _LONG else text
