"""The training loop of the bench: what a user writes, and nothing of gradwatch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.faults.setups import Run

#: Called after backward and before the optimizers' step, with the step.
Observer = Callable[[int], None]


def train(run: Run, steps: int, observe: Observer | None = None) -> list[float]:
    """Train for some steps and return the loss of each, in the task's own unit.

    The loop goes on after a NaN, as a user's loop does: what is seen then is part of
    what a tool must report.
    """
    losses = []
    for step in range(steps):
        batch = run.batches(step)
        for optimizer in run.optimizers:
            optimizer.zero_grad()
        loss = run.loss_fn(run.model, batch)
        loss.backward()
        if observe is not None:
            observe(step)
        if run.clip is not None:
            nn.utils.clip_grad_norm_(run.model.parameters(), run.clip)
        for optimizer in run.optimizers:
            optimizer.step()
        if run.after_step is not None:
            run.after_step(step)
        losses.append(float(loss.detach()) / run.unit)
    return losses


def rescale(run: Run, factor: float) -> Run:
    """Return the same training with the loss multiplied by a factor.

    Learning rate, weight decay and epsilon are adapted, so that the weights take
    the same path up to rounding: what differs is the size of the gradients, and nothing
    that could make a network sick or healthy.

    Raises:
        TypeError: If an optimizer's rule of scaling is not known.
    """
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            if isinstance(optimizer, torch.optim.SGD):
                group["lr"] /= factor
                group["chosen_lr_ratio"] = factor
                group["weight_decay"] *= factor
                if "initial_lr" in group:
                    group["initial_lr"] /= factor
            elif "eps" in group:
                group["eps"] *= factor
            else:
                raise TypeError(f"cannot scale {type(optimizer).__name__}")
    inner = run.loss_fn
    return Run(
        model=run.model,
        optimizers=run.optimizers,
        batches=run.batches,
        loss_fn=lambda model, batch: inner(model, batch) * factor,
        unit=run.unit * factor,
        clip=None if run.clip is None else run.clip * factor,
        after_step=run.after_step,
    )
