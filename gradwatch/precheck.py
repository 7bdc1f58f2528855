"""`check()`: one probe of a copy before training; nothing of the model changes."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from gradwatch.detector import Detector
from gradwatch.errors import ModelError
from gradwatch.history import History
from gradwatch.layers import count_entries
from gradwatch.observer import Observer
from gradwatch.report import Report
from gradwatch.run_facts import compose_report
from gradwatch.session import LossFn, _check_callable, _check_model
from gradwatch.settings import Settings
from gradwatch.statistics import tensors_in

_RANDOM = (
    "No loss was given: a random cotangent was back-propagated. Shapes of profiles are "
    "right, absolute sizes are not."
)


def check(
    model: nn.Module,
    batch: Any,
    *,
    loss_fn: LossFn | None = None,
    settings: Settings | Mapping[str, Any] | str | Path | None = None,
) -> Report:
    """Probe a deep copy of a model once, forward and backward, before training.

    Parameters, buffers, gradients, mode and random state of `model` stay as they are.
    One probe confirms nothing: findings come with low confidence, and a clean result
    reads "1 probe: no sign of ...".

    Args:
        model: The module to train.
        batch: What `loss_fn` takes as its second argument. Without a `loss_fn`: a
            tensor, a tuple of positional arguments (a last integer tensor is taken as
            the target and left out if the model does not accept it), or a mapping of
            keyword arguments.
        loss_fn: `loss_fn(model, batch) -> scalar Tensor`. Without it `output.loss` is
            used where the model computes one, else a random cotangent, labelled so.
        settings: `Settings`, a dict of them, or the path of a TOML or YAML file.

    Returns:
        The report.

    Raises:
        ModelError: If `model` is not an `nn.Module`, has no parameters, does not accept
            `batch`, or `loss_fn` does not return a scalar tensor with a gradient.
        SettingsError: If a setting is unknown or out of range.
    """  # noqa: DOC502 - raised by what it calls
    _check_model(model)
    options = Settings.coerce(settings)
    _check_callable("loss_fn", loss_fn)
    twin = _twin(model)
    history = History()
    observer = Observer(twin, options, history, lambda record: False)
    with _as_it_was(batch), torch.enable_grad():
        observer.attach()
        try:
            loss, how = _loss(twin, batch, loss_fn)
            observer.log_loss(loss if how == "loss" else None)
            loss.backward()
            observer.hooks.guard(observer.probe_now)
        finally:
            observer.detach()
    detector = Detector(options)
    detector.update(history, observer.structure)
    return compose_report(
        observer=observer,
        detector=detector,
        settings=options,
        model_name=type(model).__name__,
        num_parameters=count_entries(model.parameters()),
        notes=() if how == "loss" else (_RANDOM,),
    )


def _twin(model: nn.Module) -> nn.Module:
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"`model` (={type(model).__name__}) cannot be copied, and `check` runs a "
            f"copy ({str(error).partition('. ')[0]}); call it before the first "
            "forward, or drop tensors that the model keeps from its last one."
        ) from error
    twin.train()
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


@contextlib.contextmanager
def _as_it_was(batch: Any) -> Iterator[None]:
    """Leave random states and the batch's own gradients as they were."""
    kept = [(t, t.grad) for t in tensors_in(batch) if t.is_leaf and t.requires_grad]
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    for tensor, _ in kept:
        tensor.grad = None
    try:
        with torch.random.fork_rng(devices=_devices()):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(drawn)
        for tensor, grad in kept:
            tensor.grad = grad


def _loss(twin: nn.Module, batch: Any, loss_fn: LossFn | None) -> tuple[Tensor, str]:
    """Return a scalar to back-propagate and what it is."""
    if loss_fn is not None:
        given: object = loss_fn(twin, batch)
        if _is_scalar(given):
            return given, "loss"
        raise ModelError(
            "`loss_fn` must return a scalar tensor with a gradient; got "
            f"{_describe(given)}."
        )
    output = _call(twin, batch)
    own = getattr(output, "loss", None)
    if _is_scalar(own):
        return own, "loss"
    if _is_scalar(output):
        return output, "loss"
    parts = [t for t in tensors_in(output) if t.requires_grad]
    if not parts:
        raise ModelError(
            "`model` returned no tensor with a gradient for `batch` "
            f"(={_describe(batch)}); pass a `loss_fn(model, batch)`."
        )
    terms = [
        (part * torch.randn_like(part)).sum() / (len(part) if part.dim() else 1)
        for part in parts
        if part.numel()
    ]
    return torch.stack([term.float() for term in terms]).sum(), "random cotangent"


def _is_scalar(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad


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
        f"`batch` (={_describe(batch)}) does not fit the model's forward: {errors[0]}; "
        "pass a `loss_fn(model, batch)` that calls it the right way."
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__


def _devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
