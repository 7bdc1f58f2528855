"""Applies recommendations: to a deep copy of a model, and to a new optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradwatch.errors import TreatmentError
from gradwatch.optimizer_spec import rebuild
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Risk, Treatment
from gradwatch.remedies import Remedy
from gradwatch.remedy_plugins import all_remedies
from gradwatch.training_edits import edit_steps
from gradwatch.treatment import BOOK, ModelEditor
from gradwatch.twin import same_randomness

#: One recommendation, or several to apply in order.
Prescribed = Recommendation | Sequence[Recommendation]


def treat(model: nn.Module, recommendation: Prescribed) -> nn.Module:
    """Return a treated deep copy of a model; the original stays as it is.

    The copy keeps device, dtype, mode, frozen parameters, tied weights and the user's
    hooks; gradients, a live watch and compilation stay behind. Names of the state dict
    stay, and new ones are added: `fc.gradwatch.after.0.weight` is a norm after `fc`.
    Weights are drawn from the present random state, which is then as it was.
    `treatment_of` says what was changed; what a remedy changes of the training (rate,
    clipping, optimizer) is `treat_optimizer`'s.

    Args:
        model: The model that the recommendation was made for, or a fresh one of the
            same layers.
        recommendation: One recommendation, or several to apply in order.

    Returns:
        The treated copy. It can be trained, saved, copied, compiled and treated again.

    Raises:
        TreatmentError: If code cannot make the change (the message shows the lines to
            write, and where), or the model has no such layer.
        ModelError: If the model cannot be copied.
    """  # noqa: DOC502 - raised by what it calls
    chosen = as_tuple(recommendation)
    remedies = [remedy_of(item) for item in chosen]
    for item in chosen:
        if not item.can_apply or item.risk is Risk.ADVICE:
            place = f" at {item.where}" if item.where else ""
            raise TreatmentError(
                f"`{item.remedy}` cannot be applied by code; change your own{place}:\n"
                f"{item.code}"
            )
    with same_randomness():
        editor = ModelEditor(model)
        for remedy, item in zip(remedies, chosen, strict=True):
            remedy.apply(editor, item)
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
    recommended); its state starts empty, and its rates begin where a schedule began:
    make a new scheduler for it. A parameter that the treatment added joins the group of
    its layer; a vector, such as a norm's weight, that of the layer's bias, so that it
    decays as biases do. Clipping, warm-up and gradient factors act at each of its
    steps, so that the training loop stays as it is. What only a loop can do (a factor
    of the loss, autocast, loss scaling, pre-training) is not done.

    Args:
        optimizer: The user's optimizer of `model`. Read only.
        recommendation: One recommendation, or several.
        model: The model that `optimizer` trains.
        treated: What `treat` returned for it, or a plain copy.

    Returns:
        The new optimizer.

    Raises:
        TreatmentError: If the optimizer also owns parameters outside `model`.
        SettingsError: If the optimizer owns no parameter of `model`, or its class
            cannot be made from groups.
    """  # noqa: DOC502 - raised by what it calls
    inside = {id(parameter) for parameter in model.parameters()}
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    outside = [p for p in owned if id(p) not in inside]
    if outside and len(outside) < len(owned):
        raise TreatmentError(
            f"`optimizer` owns {len(outside)} parameters that are not in `model`, the "
            f"first of shape {list(outside[0].shape)}: pass the module that holds them "
            "all as `model` and its treated copy as `treated`, or make the optimizer "
            "by hand."
        )
    recipe = joined(recipe_of(item) for item in as_tuple(recommendation))
    new = rebuild(optimizer, model, treated, recipe)
    edit_steps(new, recipe, treated)
    return new


def as_tuple(recommendation: Prescribed) -> tuple[Recommendation, ...]:
    """Return one or several recommendations as a tuple.

    Raises:
        TreatmentError: If something else is among them.
    """
    if isinstance(recommendation, Recommendation):
        return (recommendation,)
    given: object = recommendation
    chosen = tuple(given) if isinstance(given, Iterable) else (given,)
    for item in chosen:
        if not isinstance(item, Recommendation):
            raise TreatmentError(
                f"`recommendation` (={type(item).__name__}) must be a "
                "`Recommendation`, such as `report.recommendations[0]`, or several."
            )
    return chosen


def remedy_of(recommendation: Recommendation) -> Remedy:
    """Return the remedy that a recommendation names.

    Raises:
        TreatmentError: If there is none of that name.
    """
    for remedy in all_remedies():
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
