"""A/B training: copies with and without a treatment, on the same batches and seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

from gradwatch.errors import ModelError, SettingsError
from gradwatch.optimizer_spec import OptimizerSource, rebuild
from gradwatch.prescription import recipe_of
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, TrialResult
from gradwatch.remedies.pretrain_layers import layers_to_pretrain
from gradwatch.remedies.pretraining import pretrain
from gradwatch.replay import failed, in_training, treated
from gradwatch.trial_arm import Arm, own_copy
from gradwatch.twin import LossFn, make_twin, no_trace, same_randomness
from gradwatch.verdicts import judge_training

#: Batches that layers are pre-trained on.
_PRETRAIN_BATCHES = 8
#: Told after every step: steps done, steps wanted.
Progress = Callable[[int, int], None]


def train_both(
    model: nn.Module,
    treatments: Sequence[Sequence[Recommendation]],
    batches: Iterable[Any],
    loss_fn: LossFn,
    optimizer: OptimizerSource,
    *,
    steps: int = 100,
    seed: int = 0,
    limit_s: float = 60.0,
    fresh: Callable[[], nn.Module] | None = None,
    max_grad_norm: float | None = None,
    progress: Progress | None = None,
) -> tuple[TrialResult, ...]:
    """Train an untreated copy and one copy per treatment, in step.

    All see the same batch at the same time, under the same random state, so that their
    losses can be compared step by step, and a time limit ends them together. Nothing
    of the model, its optimizer or the random states changes.

    A learning rate cannot be tried from weights that it has already ruined: give
    `fresh` an untrained model for that.

    Args:
        model: The model; all copies start from its weights unless `fresh` is given.
        treatments: Each a sequence of recommendations, applied in order.
        batches: Batches, gone through again when they end.
        loss_fn: `loss_fn(model, batch) -> scalar Tensor`.
        optimizer: The optimizer of `model`, or a function from parameters to one. Each
            copy gets one of its own, with an empty state.
        steps: Training steps.
        seed: Random state of the first step.
        limit_s: Wall time after which all copies stop.
        fresh: Makes an untrained model of the same names.
        max_grad_norm: Norm to which the user's loop clips; all copies do the same.
        progress: Told after every step.

    Returns:
        One result a treatment, in order; FAILED, with the reason, where a copy could
        not run.
    """
    started = time.perf_counter()
    try:
        with no_trace(list(model.parameters())):
            return _train(
                model if fresh is None else fresh(),
                model,
                treatments,
                _cycle(batches, steps),
                loss_fn,
                optimizer,
                steps=steps,
                seed=seed,
                ends=started + limit_s,
                base=Recipe(max_grad_norm=max_grad_norm),
                progress=progress,
            )
    except Exception as error:  # the user's model, loss, batches or optimizer
        return tuple(failed(error, started, how="training") for _ in treatments)


def _train(
    start: nn.Module,
    model: nn.Module,
    treatments: Sequence[Sequence[Recommendation]],
    batches: Iterator[Any],
    loss_fn: LossFn,
    optimizer: OptimizerSource,
    *,
    steps: int,
    seed: int,
    ends: float,
    base: Recipe,
    progress: Progress | None,
) -> tuple[TrialResult, ...]:
    started = time.perf_counter()
    twin = in_training(make_twin(start, "a trial"))
    _check_finite(twin)
    # Treated first: the control is then trained in place.
    arms: list[Arm | Exception] = []
    for treatment in treatments:
        try:
            with same_randomness(seed):
                copy, changes, recipe = treated(twin, treatment)
                recipe = _clipped(recipe, base.max_grad_norm)
                if recipe.pretrain_steps:
                    head = list(islice(batches, _PRETRAIN_BATCHES))
                    batches = chain(head, batches)
                    for item in treatment:
                        _pretrain(copy, item, head, loss_fn, ends)
                own = rebuild(optimizer, model, copy, recipe)
            arms.append(Arm(copy, own, loss_fn, recipe, seed, changes))
        except Exception as error:  # noqa: PERF203 - one treatment's failure
            arms.append(error)
    control_optimizer = rebuild(optimizer, model, twin, base)
    control = Arm(twin, control_optimizer, loss_fn, base, seed)
    running = [control, *(arm for arm in arms if isinstance(arm, Arm))]
    for done, batch in enumerate(islice(batches, steps), start=1):
        for arm in running:
            arm.step(batch)
        if progress is not None:
            progress(done, steps)
        over = control.error is not None or all(arm.ended for arm in running)
        if over or time.perf_counter() > ends:
            break
    if control.error is not None:
        raise control.error
    if not control.losses:
        raise SettingsError("`batches` is empty; a trial needs at least one batch.")
    return tuple(
        failed(arm, started, how="training")
        if isinstance(arm, Exception)
        else _result(control, arm, started)
        for arm in arms
    )


def _clipped(recipe: Recipe, max_grad_norm: float | None) -> Recipe:
    """Return the recipe with the clipping that the user's own loop does."""
    if max_grad_norm is None or recipe.max_grad_norm is not None:
        return recipe
    return replace(recipe, max_grad_norm=max_grad_norm)


def _pretrain(
    copy: nn.Module,
    recommendation: Recommendation,
    batches: Sequence[Any],
    loss_fn: LossFn,
    ends: float,
) -> None:
    """Pre-train the layers that a recommendation names; nothing without such steps."""
    steps = recipe_of(recommendation).pretrain_steps
    if not steps:
        return

    def run(module: nn.Module, batch: Any) -> object:
        if time.perf_counter() > ends:
            raise TimeoutError(
                f"{steps} steps of pre-training take longer than limit_s"
            )
        return loss_fn(module, own_copy(batch))

    layers = layers_to_pretrain(recommendation)
    pretrain(copy, batches, layers, steps, run=run)


def _check_finite(twin: nn.Module) -> None:
    bad = [n for n, p in twin.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise ModelError(
            f"`model` holds NaN or Inf in {bad[0]}: nothing can be trained from there; "
            "pass `fresh=`, a function that returns the untrained model."
        )


def _result(control: Arm, arm: Arm, started: float) -> TrialResult:
    if arm.error is not None:
        return failed(arm.error, started, arm.changes, how="training")
    verdict, reason = judge_training(control.losses, arm.losses)
    return TrialResult(
        verdict=verdict,
        reason=reason,
        how="training",
        backpropagated="loss_fn",
        losses_before=tuple(control.losses),
        losses_after=tuple(arm.losses),
        steps=max(len(control.losses), len(arm.losses)),
        seconds=time.perf_counter() - started,
        changes=arm.changes,
    )


def _cycle(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """Go through the batches again and again, drawing each only when it is wanted."""
    kept: list[Any] = []
    source: Iterator[Any] = iter(batches)
    once = source is batches  # an iterator cannot begin again: keep what it gave
    for batch in islice(source, steps):
        if once:
            kept.append(batch)
        yield batch
    while True:
        count = 0
        for batch in kept if once else batches:
            count += 1
            yield batch
        if not count:
            return
