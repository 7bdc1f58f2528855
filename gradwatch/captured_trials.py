"""Try remedies with what a watch has captured, and rank them by what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradwatch.ab_training import train_both
from gradwatch.capture import Capture
from gradwatch.captured_loss import CapturedLoss, captured_loss
from gradwatch.console_trial import trial_bar
from gradwatch.errors import SettingsError
from gradwatch.optimizer_spec import OptimizerSource
from gradwatch.recommendations import Recommendation, TrialResult, Verdict
from gradwatch.replay import replay
from gradwatch.settings import Settings
from gradwatch.trials import joined_result, own_loss_fn, peek
from gradwatch.twin import (
    OWN_LOSS,
    RANDOM_COTANGENT,
    LossFn,
    is_loss,
    make_twin,
    no_trace,
)
from gradwatch.verdicts import place_after_trial

#: Recommendations tried when none is named.
BEST = 3


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What the user gave to a trial; the rest comes from the watch.

    Attributes:
        batches: The user's batches; None for captured ones.
        loss_fn: The user's loss, for `batches`.
        optimizer: The user's optimizer; None for one like that of the watch.
        steps: Training steps of each copy.
        limit_s: Wall time of the training, seconds.
        seed: Random state of all copies.
        progress: Whether to show a progress bar.
    """

    batches: Iterable[Any] | None = None
    loss_fn: LossFn | None = None
    optimizer: OptimizerSource | None = None
    steps: int = 100
    limit_s: float = 60.0
    seed: int = 0
    progress: bool = True


def try_captured(
    model: nn.Module,
    treatments: Sequence[Sequence[Recommendation]],
    capture: Capture,
    options: TrialOptions,
    settings: Settings,
    max_grad_norm: float | None = None,
) -> tuple[TrialResult, ...]:
    """Try treatments with what a watch has captured, where nothing better is given.

    All are replayed from the weights as they are. Where a loss, batches and an
    optimizer are known they are also trained, together with one untreated copy, from
    the weights at the start of the watch if those were kept.

    Args:
        model: The watched model.
        treatments: Each a sequence of recommendations.
        capture: What the watch captured.
        options: What the user gave.
        settings: The limits.
        max_grad_norm: Norm to which the user's loop clips.

    Returns:
        One result a treatment.

    Raises:
        SettingsError: If there is neither a batch given nor one captured.
    """  # noqa: DOC502 - raised by what it calls
    fresh = _first_weights(model, capture)
    start = model if _is_finite(model) or fresh is None else fresh()
    if options.batches is not None:
        first, batches = peek(options.batches)
        loss_fn = options.loss_fn or own_loss_fn
        results = [
            replay(
                start,
                treatment,
                first,
                loss_fn=options.loss_fn,
                settings=settings,
                seed=options.seed,
            )
            for treatment in treatments
        ]
    else:
        kept = _captured(capture)
        results = [
            replay(
                start,
                treatment,
                forward=_most_telling(kept).forward,
                settings=settings,
                seed=options.seed,
            )
            for treatment in treatments
        ]
        batches, loss_fn = kept, captured_loss
        if not any(r.backpropagated.startswith(OWN_LOSS) for r in results):
            batches = [loss for loss in kept if is_loss(loss.how)]
    ran = [k for k, r in enumerate(results) if r.verdict is not Verdict.FAILED]
    if not ran:
        return tuple(results)
    optimizer = options.optimizer
    if optimizer is None and len(capture.optimizers) == 1:
        optimizer = capture.optimizers[0]
    missing = ""
    if not is_loss(results[ran[0]].backpropagated.partition(";")[0]):
        missing = "the loss is not known; pass `batches=` and `loss_fn=`"
    elif optimizer is None:
        many = "several optimizers take turns" if capture.optimizers else "none stepped"
        missing = f"{many}; pass `optimizer=`"
    if optimizer is None or missing:
        return tuple(_untrained(result, missing) for result in results)
    with trial_bar(f"trial of {len(ran)}", shown=options.progress) as tell:
        trained = train_both(
            model,
            [treatments[k] for k in ran],
            batches,
            loss_fn,
            optimizer,
            steps=options.steps,
            seed=options.seed,
            limit_s=options.limit_s,
            fresh=fresh,
            max_grad_norm=max_grad_norm,
            progress=tell,
        )
    for place, result in zip(ran, trained, strict=True):
        results[place] = joined_result(results[place], result)
    return tuple(results)


def _captured(capture: Capture) -> list[CapturedLoss]:
    if not capture.batches:
        raise SettingsError(
            f"`batches` is needed: the watch has captured none ({capture.reason})."
        )
    with no_trace():
        return [CapturedLoss(batch) for batch in capture.batches]


def _most_telling(kept: Sequence[CapturedLoss]) -> CapturedLoss:
    """Return the newest batch of a known loss, else the newest with a gradient.

    Of a run that has diverged the last outputs are NaN, which tell no loss.
    """
    for wanted in (is_loss, lambda how: how != RANDOM_COTANGENT):
        for captured in reversed(kept):
            if wanted(captured.how):
                return captured
    return kept[-1]


def _untrained(result: TrialResult, missing: str) -> TrialResult:
    if result.verdict is Verdict.FAILED:
        return result
    return replace(result, reason=f"{result.reason} Not trained: {missing}.")


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
    return tuple(sorted(recommendations, key=place_after_trial))  # stable


def title_of(treatment: Sequence[Recommendation]) -> str:
    """Return the name under which a watch keeps the trial of a treatment."""
    return " + ".join(map(_title, treatment))


def _title(item: Recommendation) -> str:
    if not item.layers:
        return item.title
    return f"{item.title} [{item.layers[0]} .. {item.layers[-1]}]"


def with_trials(
    recommendations: Sequence[Recommendation], trials: Mapping[str, TrialResult]
) -> tuple[Recommendation, ...]:
    """Return recommendations with what their trials measured.

    Args:
        recommendations: What is recommended.
        trials: Results by `title_of`.

    Returns:
        The same, as the trials ranked them.
    """
    return ranked(
        replace(item, trial=trials.get(_title(item), item.trial))
        for item in recommendations
    )
