"""The trials of a watch: what `Watch.trial()` does."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, overload

from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.captured_trials import (
    TrialOptions,
    candidates,
    ranked,
    title_of,
    try_captured,
    with_trials,
)
from gradwatch.errors import ModelError
from gradwatch.observer import Observer
from gradwatch.optimizer_spec import OptimizerSource
from gradwatch.prescription import as_tuple
from gradwatch.recommendations import Recommendation, TrialResult, Verdict
from gradwatch.report import Report
from gradwatch.runlog_recording import Recorder
from gradwatch.settings import Settings
from gradwatch.trials import check_arguments
from gradwatch.twin import LossFn


class WatchTrials(ABC):
    """The part of a `Watch` that tries remedies.

    Attributes:
        trials: What was measured, by the name of the treatment.
        loss_fn: The user's loss; None if it was not given.
        closed: Whether the hooks are off.
    """

    trials: dict[str, TrialResult]
    loss_fn: LossFn | None
    closed: bool
    _recorder: Recorder | None
    _model: weakref.ref[nn.Module]
    _observer: Observer
    _settings: Settings

    @abstractmethod
    def report(self) -> Report:
        """Return what is known now."""

    def anatomy(self) -> Anatomy:
        """Return what code can change of the model."""
        raise NotImplementedError

    def _keep_trials(self) -> None:
        """Record the report anew; while the watch lives, the next probe does it."""
        recorder = self._recorder
        if recorder is not None and self.closed:
            step = self._observer.step - 1
            self._observer.hooks.attempt(lambda: recorder.revise(step, self.report()))

    @overload
    def trial(
        self,
        recommendation: None = None,
        *,
        batches: Iterable[Any] | None = ...,
        loss_fn: LossFn | None = ...,
        optimizer: OptimizerSource | None = ...,
        steps: int = ...,
        limit_s: float = ...,
        seed: int = ...,
        progress: bool = ...,
    ) -> tuple[Recommendation, ...]: ...

    @overload
    def trial(
        self,
        recommendation: Recommendation | Sequence[Recommendation],
        *,
        batches: Iterable[Any] | None = ...,
        loss_fn: LossFn | None = ...,
        optimizer: OptimizerSource | None = ...,
        steps: int = ...,
        limit_s: float = ...,
        seed: int = ...,
        progress: bool = ...,
    ) -> TrialResult: ...

    def trial(
        self,
        recommendation: Recommendation | Sequence[Recommendation] | None = None,
        *,
        batches: Iterable[Any] | None = None,
        loss_fn: LossFn | None = None,
        optimizer: OptimizerSource | None = None,
        steps: int = 100,
        limit_s: float = 60.0,
        seed: int = 0,
        progress: bool = True,
    ) -> TrialResult | tuple[Recommendation, ...]:
        """Try remedies on copies: a replay, and where possible a short training.

        What is not given comes from the watch: batches and the loss from the last
        probes (cross-entropy is recognised), an optimizer like the one that stepped,
        and the weights at the start of the watch. Nothing of the training changes. The
        next report shows the results.

        Args:
            recommendation: What to try; several are applied together. None tries the
                best three of the report, and the best against different causes at once;
                if none of these helps, the next three.
            batches: Batches, such as a DataLoader.
            loss_fn: `loss_fn(model, batch) -> scalar`, for `batches`; that of `watch()`
                if None.
            optimizer: The optimizer, or a function from parameters to one.
            steps: Training steps of each copy.
            limit_s: Wall time of the training, seconds.
            seed: Random state of all copies.
            progress: Whether to show a progress bar, on a terminal only.

        Returns:
            The result; without a recommendation all recommendations of the report, with
            `.trial` where they were tried, ranked by it.

        Raises:
            ModelError: If the model is gone.
            SettingsError: If an argument is wrong, or there is no batch to try it on.
        """  # noqa: DOC502 - raised by what it calls
        model = self._model()
        if model is None:
            raise ModelError(
                "`watch.trial()` runs copies of the model, and it is gone; keep it."
            )
        every: tuple[Recommendation, ...] = ()
        if recommendation is None:
            every = self.report().recommendations
            treatments = candidates(every)
        else:
            treatments = (as_tuple(recommendation),)
        for chosen in treatments:
            check_arguments(
                model, chosen, loss_fn=loss_fn, steps=steps, limit_s=limit_s
            )
        if not treatments:
            return every
        alive = self._observer.optimizers.alive
        if optimizer is None and len(alive) == 1:
            optimizer = alive[0]
        options = TrialOptions(
            batches,
            loss_fn or self.loss_fn,
            optimizer,
            steps,
            limit_s,
            seed,
            progress,
        )
        results = self._run(model, treatments, options)
        if recommendation is not None:
            return results[0]
        if not any(result.verdict is Verdict.HELPED for result in results):
            tried = {title_of(chosen) for chosen in treatments}
            rest = [item for item in every if title_of((item,)) not in tried]
            self._run(model, candidates(rest), options)
        return ranked(with_trials(every, self.trials))

    def _run(
        self,
        model: nn.Module,
        treatments: Sequence[Sequence[Recommendation]],
        options: TrialOptions,
    ) -> tuple[TrialResult, ...]:
        """Try treatments and keep what they measured."""
        if not treatments:
            return ()
        results = try_captured(
            model,
            treatments,
            self._observer.capture,
            options,
            self._settings,
            self.anatomy().grad_clip,
        )
        for chosen, result in zip(treatments, results, strict=True):
            self.trials[title_of(chosen)] = result
        self._keep_trials()
        return results
