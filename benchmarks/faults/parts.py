"""Pieces that several families share: initialisers, losses, optimizers, the builder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from benchmarks.faults import tasks
from benchmarks.faults.setups import Batch, LossFn, Run

Sample = Callable[[Generator, int], Batch]
Activation = Callable[[Tensor], Tensor]


def initialise(model: nn.Module, gain: float, bias: float = 0.0) -> None:
    """Draw all weight matrices and kernels from N(0, gain² / fan_in)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):
                # Kernel and stride agree here: each output reads one position.
                fan_in = module.weight.shape[0]
            nn.init.normal_(module.weight, 0.0, gain / math.sqrt(fan_in))
            if module.bias is not None:
                nn.init.constant_(module.bias, bias)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of the model's logits; classes are the last axis."""
    *inputs, target = batch
    logits = model(*inputs)
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    *inputs, target = batch
    return F.mse_loss(model(*inputs), target)


def mask_entropy(model: nn.Module, batch: Batch) -> Tensor:
    inputs, target = batch
    return F.binary_cross_entropy_with_logits(model(inputs), target)


def times(loss_fn: LossFn, factor: float) -> LossFn:
    """Return a loss that is a multiple of another."""
    return lambda model, batch: loss_fn(model, batch) * factor


def optimizer_for(
    parameters: Iterable[nn.Parameter], kind: str, lr: float
) -> Optimizer:
    """Return an optimizer by a short name."""
    chosen = list(parameters)
    if kind == "sgd":
        return SGD(chosen, lr=lr)
    if kind == "momentum":
        return SGD(chosen, lr=lr, momentum=0.9)
    if kind == "adam":
        return Adam(chosen, lr=lr)
    if kind == "adamw":
        return AdamW(chosen, lr=lr, weight_decay=0.01)
    if kind == "rmsprop":
        return RMSprop(chosen, lr=lr)
    raise ValueError(f"`kind` must name an optimizer, but {kind=}.")


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def builder(
    make: Callable[[], nn.Module],
    sample: Sample,
    *,
    opt: str = "adam",
    lr: float = 1e-3,
    loss: LossFn = cross_entropy,
    size: int = 64,
    unit: float = 1.0,
    clip: float | None = None,
    warmup: int = 0,
    fixed: bool = False,
    params: Callable[[nn.Module], list[nn.Parameter]] = trainable,
) -> Callable[[int], Run]:
    """Return the function from a seed to a run.

    Args:
        make: Makes the model; called under the seed.
        sample: The task's batches.
        opt: Name of the optimizer.
        lr: Learning rate.
        loss: Loss that is differentiated.
        size: Batch size.
        unit: What the loss is multiplied with on purpose.
        clip: Largest gradient norm, if gradients are clipped.
        warmup: Steps over which the learning rate rises from about 0.
        fixed: Whether every step sees the same batch.
        params: Which parameters the optimizer gets.
    """

    def build(seed: int) -> Run:
        torch.manual_seed(seed)
        model = make()
        optimizer = optimizer_for(params(model), opt, lr)
        after: Callable[[int], None] | None = None
        if warmup:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

            def after(step: int) -> None:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * min(1.0, (step + 1) / warmup)

            after(-1)

        return Run(
            model=model,
            optimizers=(optimizer,),
            batches=tasks.feed(sample, seed, size, fixed),
            loss_fn=loss,
            unit=unit,
            clip=clip,
            after_step=after,
        )

    return build
