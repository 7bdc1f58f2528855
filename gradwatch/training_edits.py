"""What a recipe changes at the steps of an optimizer: clipping, warm-up, factors.

It acts through hooks of the optimizer itself, so that the training loop stays as it is:
with a `GradScaler`, with `step(closure)`, and beside a learning rate scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.errors import TreatmentError
from gradwatch.layers import clean_name
from gradwatch.recipe import Recipe


def edit_steps(optimizer: Optimizer, recipe: Recipe, model: nn.Module) -> None:
    """Let every step of an optimizer follow a recipe.

    Gradients are multiplied by the factors of their layers first and clipped then. The
    warm-up lowers the learning rates for the length of a step and gives them back after
    it: a scheduler neither sees it nor is overwritten by it.

    Args:
        optimizer: The optimizer; it gets hooks of its own.
        recipe: What changes. Its optimizer, rates, weight decay and epsilon are not
            for a step, and left alone.
        model: The model that it trains: where the layers of the factors are found.

    Raises:
        TreatmentError: If the model has no such layer.
    """
    modules = {clean_name(name): module for name, module in model.named_modules()}
    for layer in recipe.gradient_factors:
        if layer not in modules:
            raise TreatmentError(
                f"the gradients of `{layer}` cannot be multiplied: "
                f"`{type(model).__name__}` has no such module."
            )
    factors = [
        (factor, [p for p in modules[layer].parameters() if p.requires_grad])
        for layer, factor in recipe.gradient_factors.items()
    ]
    if not factors and recipe.max_grad_norm is None and recipe.warmup_steps < 2:
        return
    edits = _StepEdits(recipe, factors)
    optimizer.register_step_pre_hook(edits.before)
    optimizer.register_step_post_hook(edits.after)


class _StepEdits:
    """Acts before and after each step; counts the steps taken."""

    def __init__(
        self, recipe: Recipe, factors: Sequence[tuple[float, Sequence[Tensor]]]
    ) -> None:
        self._recipe = recipe
        self._factors = factors
        self._steps = 0
        #: Rates of the groups as they were before a step that is under way.
        self._rates: list[Any] = []
        self._lowered: list[Any] = []

    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Edit gradients and rates; with a closure, edit what it computes."""
        self._lower_rates(optimizer)
        place = next((n for n, a in enumerate(args) if n and callable(a)), None)
        closure = kwargs.get("closure") if place is None else args[place]
        if closure is None:
            self._edit_gradients(optimizer)
            return None
        wrapped = self._wrap(closure, optimizer)
        if place is None:
            return args, {**kwargs, "closure": wrapped}
        return (*args[:place], wrapped, *args[place + 1 :]), kwargs

    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Give the rates back."""
        self._steps += 1
        self._restore_rates(optimizer)

    def _wrap(self, closure: Callable[[], Any], optimizer: Optimizer) -> Any:
        def edited() -> Any:
            loss = closure()
            self._edit_gradients(optimizer)
            return loss

        return edited

    def _edit_gradients(self, optimizer: Optimizer) -> None:
        recipe = self._recipe
        if not recipe.gradient_steps or self._steps < recipe.gradient_steps:
            for factor, parameters in self._factors:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
        if recipe.max_grad_norm is None:
            return
        # A fused optimizer divides by the loss scale inside its own step.
        scale = getattr(optimizer, "grad_scale", None)
        limit = recipe.max_grad_norm * (1.0 if scale is None else float(scale))
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(owned, limit)

    def _lower_rates(self, optimizer: Optimizer) -> None:
        self._restore_rates(optimizer)  # where the last step raised
        steps = self._recipe.warmup_steps
        if self._steps + 1 >= steps:
            return
        share = (self._steps + 1) / steps
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * share
        self._lowered = [group["lr"] for group in optimizer.param_groups]

    def _restore_rates(self, optimizer: Optimizer) -> None:
        before = zip(self._rates, self._lowered, strict=True)
        for group, (rate, lowered) in zip(optimizer.param_groups, before, strict=False):
            if group["lr"] is lowered:
                group["lr"] = rate
        self._rates, self._lowered = [], []
