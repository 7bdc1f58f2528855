"""Setting a weight of a copy to new values, also where the weight is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gradwatch.errors import TreatmentError
from gradwatch.layers import peek

#: Largest relative error with which a computed weight must come out as asked for.
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


def fill_weight(
    module: nn.Module, parameter: str, draw: Callable[[Tensor], object], layer: str
) -> tuple[Tensor, Tensor]:
    """Set a weight to what `draw` makes of it.

    Parametrized weights are set through the parametrization, and weights behind the
    older `torch.nn.utils.weight_norm` by their norm and direction. 16-bit weights are
    drawn in float32.

    Args:
        module: The layer; changed in place.
        parameter: Attribute name, such as `weight`.
        draw: Changes the tensor it gets in place; it has no gradient.
        layer: Qualified name, for messages.

    Returns:
        The weight before and after, in float32 or wider.

    Raises:
        TreatmentError: If there is no such weight, or what computes it undoes the
            values.
    """
    present = peek(module, parameter)
    name = f"`{layer}.{parameter}`" if layer else f"`{parameter}`"
    if present is None:
        raise TreatmentError(
            f"{name} cannot be drawn anew: `{layer}` (={type(module).__name__}) has no "
            f"tensor `{parameter}`, or a lazy one; run one batch first."
        )
    wide = torch.float64 if present.dtype == torch.float64 else torch.float32
    before = present.to(wide, copy=True)
    values = before.clone()
    with torch.no_grad():
        draw(values)
        _set(module, parameter, values.to(present.dtype), name)
    after = peek(module, parameter)
    if after is None or not torch.allclose(
        after.to(wide),
        values,
        rtol=_TOLERANCE.get(present.dtype, 1e-4),
        atol=1e-4 * float(values.abs().max()) if values.numel() else 0.0,
    ):
        raise TreatmentError(
            f"{name} cannot be drawn anew: {_what_computes(module, parameter)} "
            "computes it and undoes the new values; remove that first, or leave this "
            "layer out."
        )
    return before, after.to(wide)


def _set(module: nn.Module, parameter: str, values: Tensor, name: str) -> None:
    hook = _old_style_norm(module, parameter)
    if is_parametrized(module, parameter):
        try:
            setattr(module, parameter, values)
        except Exception as error:  # whatever the parametrization of the user raises
            raise TreatmentError(
                f"{name} cannot be drawn anew: {_what_computes(module, parameter)} "
                f"computes it and cannot be set to given values ({error}); remove it "
                "first, or leave this layer out."
            ) from error
    elif hook is not None:
        getattr(module, f"{parameter}_v").copy_(values)
        norm = torch.norm_except_dim(values, 2, hook.dim)
        getattr(module, f"{parameter}_g").copy_(norm)
        setattr(module, parameter, hook.compute_weight(module).detach())
    elif parameter in module._parameters:
        getattr(module, parameter).copy_(values)
    elif isinstance(module._parameters.get(f"{parameter}_orig"), Tensor):
        # Pruned (the mask stays), or the older spectral norm, which undoes the values.
        getattr(module, f"{parameter}_orig").copy_(values)
        mask = module._buffers.get(f"{parameter}_mask")
        if mask is not None:
            values.mul_(mask)
            setattr(module, parameter, values)
    else:
        getattr(module, parameter).data.copy_(values)


def _old_style_norm(module: nn.Module, parameter: str) -> Any:
    hook: Any
    for hook in module._forward_pre_hooks.values():
        if type(hook).__name__ == "WeightNorm" and hook.name == parameter:
            return hook
    return None


def _what_computes(module: nn.Module, parameter: str) -> str:
    if is_parametrized(module, parameter):
        lists = module.get_submodule(f"parametrizations.{parameter}")
        kinds = [type(part).__name__.lstrip("_") for part in lists.children()]
        return "the parametrization " + " and ".join(kinds)
    for hook in module._forward_pre_hooks.values():
        if getattr(hook, "name", None) == parameter:
            return type(hook).__name__
    return f"`{type(module).__name__}`"


def spread(tensor: Tensor) -> str:
    """Return the size of a weight for a reader: `std 0.018`, `zeros`, `0.5`."""
    if not tensor.numel() or not bool(tensor.any()):
        return "zeros"
    if tensor.numel() == 1:
        return f"{float(tensor):.3g}"
    return f"std {float(tensor.std()):.2g}"
