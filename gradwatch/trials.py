"""Try remedies on copies before anything of the user's changes.

A replay shows in milliseconds whether the gradient gets through; a short training of
two copies shows whether the network learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.ab_training import train_both
from gradwatch.console_trial import trial_bar
from gradwatch.errors import ModelError, SettingsError
from gradwatch.optimizer_spec import OptimizerSource
from gradwatch.recommendations import Recommendation, TrialResult, Verdict
from gradwatch.replay import replay
from gradwatch.settings import Settings
from gradwatch.twin import LossFn, is_loss, loss_of, no_trace


def trial(
    model: nn.Module,
    recommendation: Recommendation | Sequence[Recommendation],
    *,
    batches: Iterable[Any],
    loss_fn: LossFn | None = None,
    optimizer: OptimizerSource,
    steps: int = 100,
    limit_s: float = 60.0,
    seed: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
    progress: bool = True,
    settings: Settings | None = None,
) -> TrialResult:
    """Train a treated and an untreated copy side by side and say whether it helped.

    Both see the same batches under the same random state, for `steps` steps or
    `limit_s` seconds. The verdict compares the losses at the end (`verdicts.py` says
    how); the profiles of one replayed batch come with it. The model, its optimizer, its
    gradients and the random states stay as they are.

    Args:
        model: The model. Both copies start from its weights.
        recommendation: The treatment; several are applied in order.
        batches: Batches, such as a DataLoader; gone through again when they end.
        loss_fn: `loss_fn(model, batch) -> scalar Tensor`; without it the loss that the
            model itself returns. With Lightning:
            `lambda model, batch: model.training_step(batch, 0)`.
        optimizer: The optimizer of `model`, or a function from parameters to one.
        steps: Training steps of each copy.
        limit_s: Wall time, seconds.
        seed: Random state of both copies.
        fresh: Makes an untrained model: a learning rate cannot be judged from weights
            that it has already ruined.
        progress: Whether to show a progress bar, on a terminal only.
        settings: The limits of the profiles.

    Returns:
        What was measured; FAILED, with the reason, where a copy could not run.

    Raises:
        ModelError: If `model` is not an `nn.Module`.
        SettingsError: If an argument is of the wrong kind or out of range.
    """  # noqa: DOC502 - raised by what it calls
    chosen = check_arguments(
        model, recommendation, loss_fn=loss_fn, steps=steps, limit_s=limit_s
    )
    if not (isinstance(optimizer, torch.optim.Optimizer) or callable(optimizer)):
        raise SettingsError(
            f"`optimizer` (={optimizer!r:.60}) must be the optimizer of `model` or a "
            "function from parameters to one, such as `torch.optim.AdamW`."
        )
    loss = loss_fn or own_loss_fn
    first, batches = peek(batches)
    seen = replay(
        fresh() if fresh is not None else model,
        chosen,
        first,
        loss_fn=loss_fn,
        settings=settings,
        seed=seed,
    )
    if seen.verdict is Verdict.FAILED:
        return seen
    with trial_bar("trial", shown=progress) as tell:
        (trained,) = train_both(
            model,
            [chosen],
            batches,
            loss,
            optimizer,
            steps=steps,
            seed=seed,
            limit_s=limit_s,
            fresh=fresh,
            progress=tell,
        )
    return joined_result(seen, trained)


def check_arguments(
    model: object,
    recommendation: object,
    *,
    loss_fn: object,
    steps: int,
    limit_s: float,
) -> tuple[Recommendation, ...]:
    """Return the recommendations of a trial, or say which argument is wrong.

    Args:
        model: The model.
        recommendation: One recommendation or several.
        loss_fn: The user's loss or None.
        steps: Training steps.
        limit_s: Wall time, seconds.

    Returns:
        The recommendations.

    Raises:
        ModelError: If `model` is not an `nn.Module`.
        SettingsError: If another argument is of the wrong kind or out of range.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"`model` (={type(model).__name__}) must be a torch.nn.Module."
        )
    chosen = (
        (recommendation,)
        if isinstance(recommendation, Recommendation)
        else tuple(recommendation)
        if isinstance(recommendation, Sequence)
        else ()
    )
    if not chosen or not all(isinstance(item, Recommendation) for item in chosen):
        raise SettingsError(
            f"`recommendation` (={recommendation!r:.60}) must be a Recommendation, "
            "such as `report.recommendations[0]`, or several."
        )
    if loss_fn is not None and not callable(loss_fn):
        raise SettingsError(f"`loss_fn` (={loss_fn!r:.60}) must be callable or None.")
    if steps < 1:
        raise SettingsError(f"`steps` (={steps!r}) must be a whole number from 1 on.")
    if not limit_s > 0:
        raise SettingsError(f"`limit_s` (={limit_s!r}) must be above 0 seconds.")
    return chosen


def own_loss_fn(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a model itself computes.

    Args:
        model: The copy.
        batch: Its inputs.

    Returns:
        The loss.

    Raises:
        ModelError: If it returns none.
    """
    loss, how = loss_of(model, batch, None)
    if not is_loss(how):
        raise ModelError(
            "The model returns no loss, and a training needs one: pass "
            "`loss_fn(model, batch)`."
        )
    return loss


def peek(batches: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """Return the first batch, and batches that still begin with it.

    Args:
        batches: The user's batches.

    Returns:
        The first one and what to go through instead of `batches`.

    Raises:
        SettingsError: If there is none.
    """
    with no_trace():
        source: Iterator[Any] = iter(batches)
        try:
            first = next(source)
        except StopIteration:
            raise SettingsError(
                "`batches` is empty; a trial needs at least one batch."
            ) from None
    return first, (chain([first], source) if source is batches else batches)


def joined_result(seen: TrialResult, trained: TrialResult) -> TrialResult:
    """Return the result of a training with the profiles of its replay."""
    return replace(
        trained,
        backpropagated=seen.backpropagated,
        before=seen.before,
        after=seen.after,
        seconds=seen.seconds + trained.seconds,
    )
