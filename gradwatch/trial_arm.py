"""One copy in training: its optimizer, its recipe, its losses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, MutableMapping
from copy import copy as copy_shallow
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.errors import SettingsError
from gradwatch.layers import clean_name
from gradwatch.losses import own_loss
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Change
from gradwatch.twin import LossFn, describe, same_randomness

#: Batches and random states of two steps must not repeat each other: a large prime.
_STRIDE = 1_000_003


class Arm:
    """Trains one copy, step by step.

    Args:
        model: The copy; it is trained in place.
        optimizer: The copy's own optimizer.
        loss_fn: The user's loss.
        recipe: What of the training changes.
        seed: Random state of the first step.
        changes: What the treatment changed.

    Attributes:
        losses: Loss of each step in the user's unit; the last one is NaN or Inf where
            the arm ended early.
        error: What the copy or the loss raised; None if nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFn,
        recipe: Recipe,
        seed: int,
        changes: tuple[Change, ...] = (),
    ) -> None:
        self.model = model
        self.changes = changes
        self.losses: list[float] = []
        self.error: Exception | None = None
        self._optimizer = optimizer
        self._loss_fn = loss_fn
        self._recipe = recipe
        self._seed = seed
        self._rates = [group.get("lr") for group in optimizer.param_groups]
        self._device = next(model.parameters()).device.type
        self._scaler = (
            torch.amp.GradScaler(self._device) if recipe.loss_scaling else None
        )

    @property
    def ended(self) -> bool:
        """Whether no further step makes sense."""
        if self.error is not None:
            return True
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    def step(self, batch: Any) -> None:
        """Take one step; an error of the copy or the loss ends the arm.

        Args:
            batch: The user's batch. The arm works on its own copy.
        """
        if self.ended:
            return
        number = len(self.losses)
        try:
            with same_randomness(self._seed + _STRIDE * number):
                self._warm_up(number)
                if isinstance(self._optimizer, torch.optim.LBFGS):
                    self._optimizer.step(lambda: float(self._backward(batch, number)))
                else:
                    self._backward(batch, number)
                    if not self.ended:
                        self._apply()
        except Exception as error:  # the user's model, loss or optimizer
            self.error = error

    def _warm_up(self, number: int) -> None:
        steps = self._recipe.warmup_steps
        if number > steps:
            return
        share = min(1.0, (number + 1) / steps) if steps else 1.0
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if rate is not None and steps:
                group["lr"] = rate * share

    def _backward(self, batch: Any, number: int) -> float:
        recipe = self._recipe
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            given: object = self._loss_fn(self.model, own_copy(batch))
        loss = own_loss(given)
        if loss is None:
            raise SettingsError(
                "`loss_fn` must return a scalar tensor with a gradient; got "
                f"{describe(given)}."
            )
        value = float(loss.detach())
        if len(self.losses) == number:  # LBFGS asks several times a step
            self.losses.append(value)
        if not math.isfinite(value):
            return value
        scaled = loss * recipe.loss_factor
        (self._scaler.scale(scaled) if self._scaler else scaled).backward()
        if number == 0 and all(p.grad is None for p in self.model.parameters()):
            raise SettingsError(
                "`loss_fn` gave the model no gradient; it must run the model that it "
                "is given, not another one."
            )
        if self._scaler:
            self._scaler.unscale_(self._optimizer)
        if not recipe.gradient_steps or number < recipe.gradient_steps:
            self._scale_gradients(recipe.gradient_factors)
        if recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.max_grad_norm)
        return value

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self._recipe.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self._device, getattr(torch, self._recipe.autocast))

    def _scale_gradients(self, factors: Mapping[str, float]) -> None:
        if not factors:
            return
        for name, module in self.model.named_modules():
            factor = factors.get(clean_name(name))
            if factor is None:
                continue
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def _apply(self) -> None:
        if self._scaler:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._optimizer.step()


def own_copy(value: Any) -> Any:
    """Return a batch whose tensors and containers the user's loss may change."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, MutableMapping):
        mapping = copy_shallow(value)
        for key in list(mapping):
            mapping[key] = own_copy(mapping[key])
        return mapping
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(own_copy, value))
    if type(value) in (list, tuple):
        return type(value)(map(own_copy, value))
    return value
