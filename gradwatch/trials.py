"""Try remedies on copies before anything of the user's changes.

A replay shows in milliseconds whether the gradient gets through; a short training of
two copies shows whether the network learns. What `trial` is told, `try_captured` takes
from a watch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.ab_training import train_both
from gradwatch.capture import Capture
from gradwatch.captured_loss import CapturedLoss, captured_loss
from gradwatch.console_trial import trial_bar
from gradwatch.errors import ModelError, SettingsError
from gradwatch.optimizer_spec import OptimizerSource
from gradwatch.recommendations import Recommendation, TrialResult, Verdict
from gradwatch.replay import replay
from gradwatch.settings import Settings
from gradwatch.twin import LossFn, is_loss, loss_of, make_twin, no_trace

#: Recommendations tried when none is named.
BEST = 3
_RANK = {
    Verdict.HELPED: 0,
    None: 1,
    Verdict.NO_CHANGE: 2,
    Verdict.HURT: 3,
    Verdict.FAILED: 4,
}


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
    first, batches = _peek(batches)
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
    return _joined(seen, trained)


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


def _peek(batches: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """Return the first batch, and batches that still begin with it."""
    with no_trace():
        source: Iterator[Any] = iter(batches)
        try:
            first = next(source)
        except StopIteration:
            raise SettingsError(
                "`batches` is empty; a trial needs at least one batch."
            ) from None
    return first, (chain([first], source) if source is batches else batches)


def _joined(seen: TrialResult, trained: TrialResult) -> TrialResult:
    """Return the result of a training with the profiles of its replay."""
    return replace(
        trained,
        backpropagated=seen.backpropagated,
        before=seen.before,
        after=seen.after,
        seconds=seen.seconds + trained.seconds,
    )


# -- from a watch --------------------------------------------------------------


def try_captured(
    model: nn.Module,
    treatments: Sequence[Sequence[Recommendation]],
    capture: Capture,
    *,
    batches: Iterable[Any] | None,
    loss_fn: LossFn | None,
    optimizer: OptimizerSource | None,
    max_grad_norm: float | None,
    steps: int,
    limit_s: float,
    seed: int,
    progress: bool,
    settings: Settings,
) -> tuple[TrialResult, ...]:
    """Try treatments with what a watch has captured, where nothing better is given.

    Args:
        model: The watched model.
        treatments: Each a sequence of recommendations.
        capture: What the watch captured.
        batches: The user's batches; None for captured ones.
        loss_fn: The user's loss, for `batches`.
        optimizer: The user's optimizer; None for one like that of the watch.
        max_grad_norm: Norm to which the user's loop clips.
        steps: Training steps of each copy.
        limit_s: Wall time of the training, seconds.
        seed: Random state of all copies.
        progress: Whether to show a progress bar.
        settings: The limits.

    Returns:
        One result a treatment.

    Raises:
        SettingsError: If there is neither a batch given nor one captured.
    """
    fresh = _first_weights(model, capture)
    start = model if _is_finite(model) or fresh is None else fresh()
    if batches is not None:
        first, batches = _peek(batches)
        results = [
            replay(start, t, first, loss_fn=loss_fn, settings=settings, seed=seed)
            for t in treatments
        ]
        loss, known = loss_fn or own_loss_fn, True
        if loss_fn is None:
            known = all(is_loss(result.backpropagated) for result in results)
    else:
        if not capture.batches:
            raise SettingsError(
                f"The watch has captured no batch ({capture.reason}); pass `batches=` "
                "and `loss_fn=`."
            )
        with no_trace():
            kept = [CapturedLoss(batch) for batch in capture.batches]
        forward = kept[-1].forward
        results = [
            replay(start, t, forward=forward, settings=settings, seed=seed)
            for t in treatments
        ]
        batches, loss = kept, captured_loss
        known = all(is_loss(result.backpropagated) for result in results)
    if optimizer is None and len(capture.optimizers) == 1:
        optimizer = capture.optimizers[0]
    places = [k for k, r in enumerate(results) if r.verdict is not Verdict.FAILED]
    if optimizer is None or not known or not places:
        return tuple(results)
    with trial_bar(f"trial of {len(places)}", shown=progress) as tell:
        trained = train_both(
            model,
            [treatments[k] for k in places],
            batches,
            loss,
            optimizer,
            steps=steps,
            seed=seed,
            limit_s=limit_s,
            fresh=fresh,
            max_grad_norm=max_grad_norm,
            progress=tell,
        )
    for place, result in zip(places, trained, strict=True):
        results[place] = _joined(results[place], result)
    return tuple(results)


def _first_weights(
    model: nn.Module, capture: Capture
) -> Callable[[], nn.Module] | None:
    """Return what makes a copy with the weights at the start of the watch, if kept."""

    def fresh() -> nn.Module:
        twin = make_twin(model, "a trial")
        capture.restore_initial(twin)
        return twin

    return fresh if capture.fits(model) else None


def _is_finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())


def candidates(
    recommendations: Sequence[Recommendation],
) -> tuple[tuple[Recommendation, ...], ...]:
    """Return what to try: the best few, and the best against different causes at once.

    Args:
        recommendations: What was recommended, best first.

    Returns:
        The treatments, each a tuple of recommendations.
    """
    usable = [item for item in recommendations if item.can_apply]
    singles = [(item,) for item in usable[:BEST]]
    together: list[Recommendation] = []
    for item in usable:
        if not any(set(item.answers) & set(other.answers) for other in together):
            together.append(item)
    return (*singles, tuple(together)) if len(together) > 1 else tuple(singles)


def ranked(recommendations: Iterable[Recommendation]) -> tuple[Recommendation, ...]:
    """Return recommendations as their trials ranked them, else in their own order.

    What helped comes first, the one with the lowest loss at the end before the others;
    then what was not tried; then what changed nothing, hurt, or could not run.
    """
    return tuple(sorted(recommendations, key=_place))  # stable


def _place(item: Recommendation) -> tuple[int, bool, float]:
    result = item.trial
    if result is None:
        return _RANK[None], False, 0.0
    losses = [loss for loss in result.losses_after if math.isfinite(loss)]
    end = median(losses[-max(1, len(losses) // 5) :]) if losses else math.inf
    return _RANK[result.verdict], result.how != "training", end


def title_of(treatment: Sequence[Recommendation]) -> str:
    """Return the name under which a watch keeps the trial of a treatment."""
    return " + ".join(item.title for item in treatment)
