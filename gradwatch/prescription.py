"""Applies recommendations: to a deep copy of a model, and to a new optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradwatch.errors import TreatmentError
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Treatment
from gradwatch.remedies import REMEDIES, Remedy
from gradwatch.treatment import BOOK, ModelEditor
from gradwatch.optimizer_spec import rebuild

#: One recommendation, or several to apply in order.
Prescribed = Recommendation | Sequence[Recommendation]


def treat(model: nn.Module, recommendation: Prescribed) -> nn.Module:
    """Return a treated deep copy of a model; the original stays as it is.

    The copy keeps device, dtype, mode, tied weights, and the names of its state dict as
    far as the treatment lets it; `treatment_of` says what was changed. What a remedy
    changes of the training (rate, clipping, optimizer) is `treat_optimizer`'s.

    Args:
        model: The model that the recommendation was made for, or a fresh one of the
            same layers.
        recommendation: One recommendation, or several to apply in order.

    Returns:
        The treated copy.

    Raises:
        TreatmentError: If code cannot make the change (the message shows the lines to
            write), or the model has no such layer.
        ModelError: If the model cannot be copied.
    """  # noqa: DOC502 - raised by what it calls
    chosen = as_tuple(recommendation)
    editor = ModelEditor(model)
    for item in chosen:
        if not item.can_apply:
            place = f" in {item.where}" if item.where else ""
            raise TreatmentError(
                f"{item.remedy}: no code of ours can do this; change it{place} "
                f"yourself:\n{item.code}"
            )
        remedy_of(item).apply(editor, item)
    return editor.finish(tuple(item.remedy for item in chosen))


def treatment_of(treated: nn.Module) -> Treatment:
    """Return what `treat` changed, as data; `diff()` of it is readable.

    Args:
        treated: A model that `treat` returned.

    Returns:
        The treatment.

    Raises:
        TreatmentError: If the model was never treated.
    """
    book = getattr(treated, BOOK, None)
    if not isinstance(book, Treatment):
        raise TreatmentError(
            f"`treated` (={type(treated).__name__}) was not returned by "
            "`gradwatch.treat`, so nothing is known of a treatment."
        )
    return book


def treat_optimizer(
    optimizer: Optimizer,
    recommendation: Prescribed,
    *,
    model: nn.Module,
    treated: nn.Module,
) -> Optimizer:
    """Return a new optimizer for a treated model, with the recommended changes.

    It has the class and the parameter groups of the user's (unless another class is
    recommended); parameters that the treatment added join the largest group; its state
    starts empty. Clipping, warm-up and gradient factors act at the start of each of its
    steps, so that the training loop stays as it is.

    Args:
        optimizer: The user's optimizer of `model`. Read only.
        recommendation: One recommendation, or several.
        model: The model that `optimizer` trains.
        treated: What `treat` returned for it, or a plain copy.

    Returns:
        The new optimizer.

    Raises:
        SettingsError: If the optimizer owns no parameter of `model`, or its class
            cannot be made from groups.
    """  # noqa: DOC502 - raised by what it calls
    recipe = joined(recipe_of(item) for item in as_tuple(recommendation))
    new = rebuild(optimizer, model, treated, recipe)
    if recipe.gradient_factors:
        owners = dict(treated.named_modules())
        factors = {
            parameter: factor
            for layer, factor in recipe.gradient_factors.items()
            for parameter in owners[layer].parameters(recurse=False)
        }
        new.register_step_pre_hook(_Amplify(factors, recipe.gradient_steps))
    if recipe.max_grad_norm is not None:
        new.register_step_pre_hook(_Clip(recipe.max_grad_norm))
    if recipe.warmup_steps:
        new.register_step_pre_hook(_WarmUp(new, recipe.warmup_steps))
    return new


def as_tuple(recommendation: Prescribed) -> tuple[Recommendation, ...]:
    """Return one or several recommendations as a tuple."""
    if isinstance(recommendation, Recommendation):
        return (recommendation,)
    return tuple(recommendation)


def remedy_of(recommendation: Recommendation) -> Remedy:
    """Return the remedy that a recommendation names.

    Raises:
        TreatmentError: If there is none of that name.
    """
    for remedy in REMEDIES:
        if remedy.name == recommendation.remedy:
            return remedy
    raise TreatmentError(
        f"`remedy` (={recommendation.remedy!r}) is no remedy of this gradwatch; "
        "`gradwatch remedies` lists them."
    )


def recipe_of(recommendation: Recommendation) -> Recipe:
    """Return what of the training a recommendation changes."""
    return remedy_of(recommendation).recipe(recommendation)


def joined(recipes: Iterable[Recipe]) -> Recipe:
    """Return several recipes as one: factors multiply, else the last change counts."""
    total, default = Recipe(), Recipe()
    for recipe in recipes:
        changes: dict[str, Any] = {}
        for name in (field.name for field in fields(Recipe)):
            value = getattr(recipe, name)
            if value == getattr(default, name):
                continue
            if name in {"lr_factor", "loss_factor"}:
                value *= getattr(total, name)
            changes[name] = value
        total = replace(total, **changes)
    return total


class _Clip:
    """Clips the global gradient norm before a step."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A fused optimizer divides by the loss scale inside its own step.
        scale = getattr(optimizer, "grad_scale", None)
        limit = self.max_norm * (1.0 if scale is None else float(scale))
        torch.nn.utils.clip_grad_norm_(_parameters(optimizer), limit)


class _Amplify:
    """Multiplies the gradients of chosen parameters in the first steps."""

    def __init__(self, factors: dict[nn.Parameter, float], steps: int) -> None:
        self.factors = factors
        self.steps = steps
        self.done = 0

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.steps and self.done >= self.steps:
            return
        self.done += 1
        for parameter, factor in self.factors.items():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


class _WarmUp:
    """Raises the learning rates over the first steps; a scheduler's changes stay."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self.steps = steps
        self.done = 0
        self.share = 1.0 / steps
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.share

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.done += 1
        share = min(1.0, self.done / self.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * (share / self.share)
        self.share = share


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
