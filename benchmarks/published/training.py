"""Thirty steps of training, with or without gradwatch, and what came of them."""

from __future__ import annotations

import importlib
import math
import random
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published.architecture import Architecture
from benchmarks.published.data import NUM_BATCHES, label_entropy

NUM_STEPS = 30
TRAINS_SHARE = 0.95
"""A run trains if its last loss is at most this share of the first and of chance."""
SGD_MOMENTUM = 0.9

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What one training run left behind.

    Attributes:
        losses: Loss of each step, up to the one that raised.
        state: Parameters, buffers and the state of every random generator.
        seconds: Wall time of the loop, without building the model.
        model: The trained model.
        report: gradwatch's report; None without gradwatch.
        error: Message of the exception that ended the run; empty if none did.
    """

    losses: tuple[float, ...]
    state: State
    seconds: float
    model: nn.Module
    report: Any = None
    error: str = ""


def make_optimizer(
    architecture: Architecture, model: nn.Module, optimizer: str
) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with momentum, at the rate of the architecture.

    Args:
        architecture: Holds the learning rates.
        model: Holds the parameters.
        optimizer: `adamw` or `sgd`.

    Returns:
        The optimizer.

    Raises:
        ValueError: If `optimizer` is neither of the two.
    """
    if optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=architecture.adamw_lr)
    if optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=architecture.sgd_lr, momentum=SGD_MOMENTUM
        )
    raise ValueError(f"`optimizer` (={optimizer!r}) must be 'adamw' or 'sgd'")


def _seed_everything(seed: int) -> None:
    """Seed every generator a model may draw from (masking draws from numpy's)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the models use the global generator
    torch.manual_seed(seed)


def _state_of(model: nn.Module) -> State:
    """Return parameters, buffers (non-persistent ones too) and generator states."""
    state: State = {
        f"parameter {name}": value.detach().clone()
        for name, value in model.named_parameters()
    }
    state |= {
        f"buffer {name}": value.detach().clone()
        for name, value in model.named_buffers()
    }
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - as above
    state["rng torch"] = torch.get_rng_state()
    state["rng numpy"] = (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:])
    state["rng python"] = random.getstate()
    return state


def differing_entries(left: State, right: State) -> tuple[str, ...]:
    """Return the names of the entries that are not bit for bit the same.

    NaNs in the same place count as the same: both runs went the same way.

    Args:
        left: State of one run.
        right: State of the other.

    Returns:
        Names of differing or missing entries, sorted.
    """
    names = set(left) ^ set(right)
    for name in set(left) & set(right):
        a, b = left[name], right[name]
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            same = torch.equal(a, b) or (
                a.shape == b.shape
                and a.is_floating_point()
                and bool(((a == b) | (a.isnan() & b.isnan())).all())
            )
        else:
            same = a == b
        if not same:
            names.add(name)
    return tuple(sorted(names))


def train(
    architecture: Architecture,
    optimizer: str,
    *,
    seed: int = 0,
    watched: bool = False,
    num_steps: int = NUM_STEPS,
) -> Run:
    """Train a fresh model for a few steps.

    Args:
        architecture: What to train on what.
        optimizer: `adamw` or `sgd`.
        seed: Seed of weights, data and dropout.
        watched: Whether to train inside `gradwatch.watch`.
        num_steps: Number of optimizer steps.

    Returns:
        The run. An exception of the model (a distribution that refuses NaN) ends it
        and is kept as its error.
    """
    _seed_everything(seed)
    model = architecture.build(seed)
    stepper = make_optimizer(architecture, model, optimizer)
    _seed_everything(seed + 1)
    context: AbstractContextManager[Any] = nullcontext()
    if watched:
        context = importlib.import_module("gradwatch").watch(model, console=None)
    losses: list[float] = []
    error = ""
    start = time.perf_counter()
    with context as watch:
        try:
            for step in range(num_steps):
                stepper.zero_grad()
                loss = architecture.loss(model, architecture.batch(seed, step))
                loss.backward()
                stepper.step()
                losses.append(loss.item())
        except (ValueError, FloatingPointError) as refusal:
            if not losses:
                raise
            error = f"{type(refusal).__name__}: {str(refusal)[:200]}"
    seconds = time.perf_counter() - start
    report = watch.report() if watched else None
    return Run(tuple(losses), _state_of(model), seconds, model, report, error)


def chance_loss(architecture: Architecture, seed: int = 0) -> float:
    """Return the loss of the best constant prediction, infinite if not known."""
    if architecture.chance is not None:
        return architecture.chance
    batches = (architecture.batch(seed, step) for step in range(NUM_BATCHES))
    entropy = label_entropy(batches)
    return math.inf if entropy is None else entropy


def first_and_last_loss(losses: tuple[float, ...]) -> tuple[float, float]:
    """Return the mean loss of the first and of the last round of batches."""
    first, last = losses[:NUM_BATCHES], losses[-NUM_BATCHES:]
    return sum(first) / len(first), sum(last) / len(last)


def trains(run: Run, chance: float) -> bool:
    """Judge a run by its outcome alone, without gradwatch.

    It trains if all losses and parameters are finite and the mean loss of the last
    round of batches is at most 95 % of the first round's and of the loss of the best
    constant prediction: a net that collapses onto that constant does not count.

    Args:
        run: The run.
        chance: Loss of the best constant prediction, infinite if not known.

    Returns:
        Whether it trains.
    """
    if run.error or not all(map(math.isfinite, run.losses)):
        return False
    state: Mapping[str, Any] = run.state
    if not all(
        bool(value.isfinite().all())
        for name, value in state.items()
        if name.startswith("parameter ")
    ):
        return False
    first, last = first_and_last_loss(run.losses)
    return last <= TRAINS_SHARE * min(first, chance)
