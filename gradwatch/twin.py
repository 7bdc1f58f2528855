"""Copies of a model that run beside it and leave no trace; one probe of such a copy.

`check()` and trials run the user's code on a deep copy: the model, its gradients, the
optimizers' hooks and every random state are afterwards as they were.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.errors import ModelError
from gradwatch.foreign_forward import foreign_forward
from gradwatch.history import History
from gradwatch.layers import is_sharded
from gradwatch.losses import own_loss, random_cotangent
from gradwatch.observer import Observer
from gradwatch.settings import Settings
from gradwatch.statistics import tensors_in
from gradwatch.step_hooks import only_new_step_hooks

#: `loss_fn(model, batch) -> scalar Tensor`, everywhere in gradwatch.
LossFn = Callable[[nn.Module, Any], Tensor]
#: Runs a copy forward; returns a scalar to back-propagate, and what it is.
Forward = Callable[[nn.Module], tuple[Tensor, str]]

RANDOM_COTANGENT = "random cotangent"
OWN_LOSS = "the model's own loss"
#: Dictionaries of hooks that `nn.Module` keeps.
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_KEPT = ("torch.", "gradwatch.")
_SPLIT = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


def make_twin(model: nn.Module, caller: str) -> nn.Module:
    """Return a deep copy to run beside the model: no gradients, no hooks, not compiled.

    Hooks of torch itself (spectral norm, weight norm, pruning) and of a treatment stay,
    because they compute; the user's own would record the copy's runs as the model's.

    Args:
        model: The user's model. Read only.
        caller: Who asks, for the message.

    Returns:
        The copy, each module in the mode (training or not) of its original.

    Raises:
        ModelError: If the model cannot be copied, or is spread over processes.
    """
    if type(model).__name__ in _SPLIT:
        raise ModelError(
            f"`model` (={type(model).__name__}) is spread over processes, where a copy "
            f"would wait for the others; pass `model.module` to {caller}."
        )
    if is_sharded(model):
        raise ModelError(
            f"`model` (={type(model).__name__}) is sharded over processes: a copy "
            f"would wait for the others; pass an unsharded model to {caller}."
        )
    replaced = foreign_forward(model)
    if replaced is not None:
        raise ModelError(
            f"`{replaced}` was replaced by a function that holds the original module: "
            f"a copy would run the original, and {caller} runs a copy. Bind it with "
            "`types.MethodType(function, module)`, or use `torch.compile(model)`."
        )
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"`model` (={type(model).__name__}) cannot be copied, and {caller} runs a "
            f"copy ({str(error).partition('. ')[0]}); call it before the first "
            "forward, or drop tensors that the model keeps from its last one."
        ) from error
    twin = _uncompiled(twin)
    for parameter in twin.parameters():
        parameter.grad = None
    for module in twin.modules():
        _drop_hooks(module)
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _uncompiled(child)
    return twin


def _uncompiled(module: nn.Module) -> nn.Module:
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else module


def _drop_hooks(module: nn.Module) -> None:
    for kind in _HOOKS:
        hooks = getattr(module, kind)
        for key, hook in list(hooks.items()):
            if not type(hook).__module__.startswith(_KEPT):
                del hooks[key]


@contextlib.contextmanager
def no_trace(*values: Any) -> Iterator[None]:
    """Leave random states, gradients of leaf tensors and optimizer hooks as they were.

    Gradients are on inside. Global optimizer hooks (a live watch has some) do not see
    the copies' steps.

    Args:
        *values: Whatever holds the user's tensors: batches and the like.

    Yields:
        Nothing.
    """
    kept = [(t, t.grad) for t in tensors_in(values) if t.is_leaf and t.requires_grad]
    for tensor, _ in kept:
        tensor.grad = None
    try:
        with same_randomness(), only_new_step_hooks(), torch.enable_grad():
            yield
    finally:
        for tensor, grad in kept:
            tensor.grad = grad


@contextlib.contextmanager
def same_randomness(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of Python, numpy and torch at the end.

    Args:
        seed: What they start from inside; None leaves them as they are.

    Yields:
        Nothing.
    """
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    devices = _devices()
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                random.seed(seed)
                if numpy is not None:
                    numpy.random.seed(seed % 2**32)
                # Not `torch.manual_seed`: it would seed a GPU not yet in use as well.
                torch.default_generator.manual_seed(seed)
                if devices:
                    torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(drawn)


def _devices() -> list[int]:
    """Return the GPUs in use; starting CUDA here would break a later fork."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return list(range(torch.cuda.device_count()))
    return []


def probe_twin(
    twin: nn.Module, settings: Settings, forward: Forward
) -> tuple[Observer, str]:
    """Run a copy once, forward and backward, under one probe; call in `no_trace`.

    Args:
        twin: The copy. Its gradients are left in it.
        settings: The limits.
        forward: Runs the copy and returns what to back-propagate.

    Returns:
        The detached observer with its history and structure, and what was
        back-propagated.
    """
    limits = settings.model_copy(update={"capture_limit": 0, "nan_origin": "off"})
    observer = Observer(twin, limits, History(), lambda record: False)
    observer.attach()
    try:
        loss, how = forward(twin)
        observer.log_loss(loss if is_loss(how) else None)
        loss.backward()
        observer.hooks.guard(observer.probe_now)
    finally:
        observer.detach()
    return observer, how


def is_loss(how: str) -> bool:
    """Whether what was back-propagated has a value that is the loss."""
    return "cotangent" not in how


def loss_of(twin: nn.Module, batch: Any, loss_fn: LossFn | None) -> tuple[Tensor, str]:
    """Return a scalar to back-propagate and what it is.

    Args:
        twin: The copy to run.
        batch: What `loss_fn` takes as its second argument, or the model's inputs.
        loss_fn: The user's loss; without it the loss that the model computes, else a
            random cotangent.

    Returns:
        The scalar and one of `loss_fn`, `the model's own loss`, `random cotangent`.

    Raises:
        ModelError: If the model does not accept the batch, or there is nothing to
            back-propagate.
    """
    if loss_fn is not None:
        given: object = loss_fn(twin, batch)
        loss = own_loss(given)
        if loss is not None:
            return loss, "loss_fn"
        raise ModelError(
            "`loss_fn` must return a scalar tensor with a gradient; got "
            f"{describe(given)}."
        )
    output = _call(twin, batch)
    loss = own_loss(output)
    if loss is not None:
        return loss, OWN_LOSS
    parts = [t for t in tensors_in(output) if t.requires_grad]
    if not parts:
        raise ModelError(
            "`model` returned no tensor with a gradient for `batch` "
            f"(={describe(batch)}); pass a `loss_fn(model, batch)`."
        )
    return random_cotangent(parts), RANDOM_COTANGENT


def _call(twin: nn.Module, batch: Any) -> Any:
    candidates: list[tuple[tuple[Any, ...], dict[str, Any]]]
    if isinstance(batch, Mapping):
        candidates = [((), dict(batch)), ((batch,), {})]
    elif isinstance(batch, tuple | list):
        candidates = [(tuple(batch), {}), (tuple(batch[:-1]), {}), ((batch,), {})]
    else:
        candidates = [((batch,), {})]
    errors = []
    for args, kwargs in candidates:
        try:
            return twin(*args, **kwargs)
        except TypeError as error:  # noqa: PERF203 - three candidates at most
            errors.append(str(error))
    raise ModelError(
        f"`batch` (={describe(batch)}) does not fit the model's forward: {errors[0]}; "
        "pass a `loss_fn(model, batch)` that calls it the right way."
    )


def describe(value: Any) -> str:
    """Return what a value is, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
