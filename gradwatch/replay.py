"""Replay: one batch through an untreated and a treated copy, and what changed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gradwatch.errors import GradWatchError, TreatmentError
from gradwatch.history import History
from gradwatch.prescription import as_tuple, joined, recipe_of, treat, treatment_of
from gradwatch.recipe import Recipe
from gradwatch.recommendations import (
    Change,
    ProfileSeen,
    Recommendation,
    TrialResult,
    Verdict,
)
from gradwatch.records import StepRecord, TimeProfile
from gradwatch.rules.depth_profile import depth_profiles
from gradwatch.rules.layer_signals import (
    dead_shares,
    forward_growth,
    sample_signals,
    saturated_shares,
)
from gradwatch.rules.time_profiles import fading, growing
from gradwatch.settings import Settings
from gradwatch.structure import Structure
from gradwatch.twin import (
    Forward,
    LossFn,
    is_loss,
    loss_of,
    make_twin,
    no_trace,
    probe_twin,
    same_randomness,
)
from gradwatch.verdicts import judge_replay


def replay(
    model: nn.Module,
    recommendations: Recommendation | Sequence[Recommendation],
    batch: Any = None,
    *,
    loss_fn: LossFn | None = None,
    forward: Forward | None = None,
    settings: Settings | None = None,
    seed: int = 0,
) -> TrialResult:
    """Show one batch to an untreated and a treated copy, under the same random state.

    Milliseconds, and no training: it says whether the gradient gets through at the
    start, not whether the network then learns. Nothing of the model changes.

    Args:
        model: The model. Copied, never changed.
        recommendations: The treatment; several are applied in order.
        batch: What `loss_fn` takes as its second argument, or the model's inputs.
        loss_fn: The loss to back-propagate; without it the model's own, else a random
            cotangent.
        forward: Runs a copy and returns what to back-propagate and what that is, such
            as a captured batch does; instead of `batch` and `loss_fn`.
        settings: The limits.
        seed: Random state of both copies.

    Returns:
        The result; FAILED, with the reason, where a copy could not run.
    """
    started = time.perf_counter()
    chosen = as_tuple(recommendations)
    limits = settings or Settings()
    run: Forward = forward or (lambda twin: loss_of(twin, batch, loss_fn))
    changes: tuple[Change, ...] = ()
    try:
        with no_trace(batch, list(model.parameters())):
            twin = in_training(make_twin(model, "a trial"))
            with same_randomness(seed):
                copy, changes, recipe = treated(twin, chosen)
            before, how = profile_of(twin, run, limits, seed)
            after, how_after = profile_of(copy, run, limits, seed)
    except Exception as error:  # the user's model and loss, which may raise anything
        return failed(error, started, changes)
    if not changes:
        verdict = Verdict.NO_CHANGE
        reason = (
            "A replay cannot judge what only changes the training, such as a learning "
            "rate or clipping."
            if recipe != Recipe()
            else "It changes nothing of this model."
        )
    else:
        codes = dict.fromkeys(code for item in chosen for code in item.answers)
        verdict, reason = judge_replay(before, after, codes, limits)
    if how_after != how:
        how = f"{how}; after the treatment {how_after}"
    return TrialResult(
        verdict=verdict,
        reason=reason,
        how="replay",
        backpropagated=how,
        before=before,
        after=after,
        seconds=time.perf_counter() - started,
        changes=changes,
    )


def in_training(twin: nn.Module) -> nn.Module:
    """Return a copy in training mode; frozen parts of a training model stay frozen."""
    return twin if twin.training else twin.train()


def treated(
    model: nn.Module, recommendations: Sequence[Recommendation]
) -> tuple[nn.Module, tuple[Change, ...], Recipe]:
    """Return a treated deep copy, what was changed, and how to train it.

    Args:
        model: What to treat. Copied, never changed.
        recommendations: The treatment, applied in order.

    Returns:
        The copy, the changes, and all that the remedies change of the training.

    Raises:
        TreatmentError: If one of them is advice, which no code of ours can follow.
    """
    for item in recommendations:
        if not item.can_apply:
            raise TreatmentError(
                f"{item.remedy} is advice: no code of ours can try it."
            )
    copy = treat(model, recommendations)
    recipe = joined(recipe_of(item) for item in recommendations)
    return copy, treatment_of(copy).changes, recipe


def failed(
    error: Exception,
    started: float,
    changes: tuple[Change, ...] = (),
    how: str = "replay",
) -> TrialResult:
    """Return the result of a trial that could not run."""
    ours = isinstance(error, GradWatchError)
    return TrialResult(
        verdict=Verdict.FAILED,
        reason=str(error) if ours else f"{type(error).__name__}: {error}",
        how=how,
        seconds=time.perf_counter() - started,
        changes=changes,
    )


def profile_of(
    twin: nn.Module, forward: Forward, settings: Settings, seed: int
) -> tuple[ProfileSeen, str]:
    """Probe a copy once; call in `no_trace`.

    Args:
        twin: The copy. Its gradients are left in it; buffers move as in training.
        forward: Runs it and returns what to back-propagate.
        settings: The limits.
        seed: Random state of the run.

    Returns:
        What was seen, and what was back-propagated.
    """
    with same_randomness(seed):
        observer, how = probe_twin(twin, settings, forward)
    return seen(observer.history, observer.structure, settings, twin, how), how


def seen(
    history: History,
    structure: Structure,
    settings: Settings,
    twin: nn.Module,
    how: str,
) -> ProfileSeen:
    """Return the profile of the newest probe.

    Args:
        history: What was measured.
        structure: The network.
        settings: The limits.
        twin: The copy that ran, for the finite flag of its gradients.
        how: What was back-propagated.

    Returns:
        The profile; empty where nothing was measured.
    """
    record = history.latest
    if record is None:
        return ProfileSeen()
    depths = [profile.decades for profile in depth_profiles(record, settings)]
    growth = forward_growth(record, structure)
    signals = sample_signals(record)
    finite = _finite(record) and all(
        bool(torch.isfinite(p.grad).all())
        for p in twin.parameters()
        if p.grad is not None and p.grad.layout is torch.strided
    )
    return ProfileSeen(
        decades=max(depths, key=abs, default=None),
        time_decades=max(
            (change for p in record.time_profiles for change in _in_time(p)),
            key=abs,
            default=None,
        ),
        output_growth=growth[0] if growth is not None else None,
        finite=finite,
        dead_share=max(dead_shares(record).values(), default=None),
        saturated_share=max(saturated_shares(record).values(), default=None),
        sample_signal=signals.get(structure.last_hidden or ""),
        loss=record.loss if is_loss(how) else None,
        layers=_layers(record, structure),
    )


def _in_time(profile: TimeProfile) -> list[float]:
    """Return decades lost (positive) and gained (negative) on the way back."""
    lost, gained = fading(profile.norms), growing(profile.norms)
    found = [lost.decades] if lost is not None else []
    return [*found, -gained.decades] if gained is not None else found


def _finite(record: StepRecord) -> bool:
    flags = [
        flag
        for layer in record.layers
        for flag in (layer.output_finite, layer.grad_finite)
    ]
    loss = record.loss
    return False not in flags and (loss is None or math.isfinite(loss))


def _layers(record: StepRecord, structure: Structure) -> tuple[tuple[str, float], ...]:
    """Return log10 of each weight layer's gradient over that of the last hidden one."""
    norms: dict[str, float] = {}
    for layer in record.layers:
        norm = layer.grad_norm
        if norm is not None and 0.0 < norm < math.inf:
            norms[layer.layer] = math.hypot(norms.get(layer.layer, 0.0), norm)
    weights = [info for info in structure.weight_layers() if info.name in norms]
    weights.sort(key=lambda info: info.order)
    if not weights:
        return ()
    top = norms.get(structure.last_hidden or "", norms[weights[-1].name])
    return tuple((info.name, math.log10(norms[info.name] / top)) for info in weights)
