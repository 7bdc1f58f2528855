"""A deep copy of a model to edit, also where `copy.deepcopy` gives up."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from gradwatch.errors import ModelError
from gradwatch.foreign_forward import foreign_forward
from gradwatch.layers import is_sharded

_SPLIT = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


def copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy to edit: no gradients, no live watch, not compiled.

    Tensors that a module keeps from its last forward are copied without their history,
    where `copy.deepcopy` gives up.

    Args:
        model: The user's model. Read only.

    Returns:
        The copy.

    Raises:
        ModelError: If it is no module, cannot be copied, or is spread over processes.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"`model` (={type(model).__name__}) must be an `nn.Module`: pass the one "
            "that is to be treated."
        )
    kind = type(model).__name__
    if kind in _SPLIT:
        raise ModelError(
            f"`model` (={kind}) is spread over processes; treat `model.module` and "
            "wrap the treated copy again."
        )
    if is_sharded(model):
        raise ModelError(
            f"`model` (={kind}) is sharded over processes; treat it before "
            "`fully_shard`, and shard the treated copy."
        )
    replaced = foreign_forward(model)
    if replaced is not None:
        raise ModelError(
            f"`{replaced}` was replaced by a function that holds the original module: "
            "a treated copy would run the original. Bind it with "
            "`types.MethodType(function, module)`, or use `torch.compile(model)`."
        )
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in _kept_tensors(module.__dict__):
            if not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        twin: nn.Module = copy.deepcopy(_uncompiled(model), memo)
    except Exception as error:
        raise ModelError(
            f"`model` (={kind}) cannot be copied, and a treatment changes a copy "
            f"({str(error).partition('. ')[0]}); make it deep-copyable, or change your "
            "own code as the recommendation shows."
        ) from error
    for parameter in twin.parameters():
        parameter.grad = None
    for module in twin.modules():
        _drop_dead_hooks(module)
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _uncompiled(child)
    return twin


def _kept_tensors(values: dict[str, Any]) -> Iterator[Tensor]:
    for value in values.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (part for part in value if isinstance(part, Tensor))
        elif isinstance(value, dict):
            yield from (part for part in value.values() if isinstance(part, Tensor))


def _uncompiled(module: nn.Module) -> nn.Module:
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else module


def _drop_dead_hooks(module: nn.Module) -> None:
    """Remove what hooks of a live watch became in the copy: no-ops."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), contextlib.nullcontext):
                del hooks[key]
