"""Finds a replaced `forward` whose copy would still run the original module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

#: Functions in functions that are looked into.
_MAX_DEPTH = 4


def foreign_forward(model: nn.Module) -> str | None:
    """Return the name of a module whose `forward` a copy would share.

    A deep copy binds a bound method, or a `functools.partial` of the module, anew. A
    plain function stays the same object, and one that holds the original in its closure
    (`torch.compile(model.forward)`, a wrapper of one's own) runs the original.

    Args:
        model: The module, with its submodules.

    Returns:
        The name, "forward" with its path; None where every `forward` follows a copy.
    """
    own = set(map(id, model.modules()))
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules:  # a compiled wrapper: copies are unwrapped
            continue
        if _holds(vars(module).get("forward"), own, _MAX_DEPTH):
            return f"{name}.forward" if name else "forward"
    return None


def _holds(function: Any, own: set[int], depth: int) -> bool:
    """Whether a plain function's closure reaches one of the modules."""
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType) or not depth:
        return False
    held = [*(function.__defaults__ or ()), *_closed_over(function)]
    return any(
        id(value) in own
        or id(getattr(value, "__self__", None)) in own
        or _holds(value, own, depth - 1)
        for value in held
    )


def _closed_over(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield cell.cell_contents
