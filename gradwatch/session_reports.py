"""What a watch tells: the report, findings, facts; whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.anatomy_reading import read_anatomy
from gradwatch.detector import Detector, health_of
from gradwatch.findings import Finding, Health, Severity
from gradwatch.history import History
from gradwatch.layers import count_entries
from gradwatch.report import Report
from gradwatch.run_facts import Seen, broken_report, report_on, see
from gradwatch.session_trials import WatchTrials
from gradwatch.structure import Structure


class WatchReports(WatchTrials):
    """The part of a `Watch` that tells what is known.

    Attributes:
        history: What was measured so far.
    """

    history: History
    _name: str | None
    _model_name: str
    _num_parameters: int
    _detector: Detector
    _anatomy: Anatomy

    @property
    def loss(self) -> float | torch.Tensor | None:
        """Loss of the step under way; None before it is known, and between looks."""
        return self._observer.loss

    @property
    def name(self) -> str:
        """What the report calls the model."""
        return self._name or self._model_name

    @property
    def record(self) -> Path | None:
        """Folder that this run is recorded in; None without `record=`."""
        return self._recorder.folder if self._recorder is not None else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings that stand, worst first, as of the newest probe."""
        return self._observer.hooks.attempt(lambda: self._detector.standing) or ()

    @property
    def structure(self) -> Structure:
        """The network as gradwatch understood it."""
        return self._observer.structure

    def anatomy(self) -> Anatomy:
        """Return what code can change of the model: what recommendations are bound to.

        Read anew while the watch is live; afterwards as it was at the end.
        """
        model = self._model()
        if model is not None and not (self.closed and self._anatomy.model):
            self._observer.hooks.attempt(self._read_anatomy, model)
        return self._anatomy

    @property
    def overhead(self) -> float:
        """Share of training time taken since the budget began to rule."""
        balance = self._observer.hooks.attempt(self._observer.overhead)
        return balance[0] / balance[1] if balance else 0.0

    def report(self) -> Report:
        """Return what is known now; may be called at any time, also in the loop."""
        if not self.closed:
            self._observer.hooks.guard(self._observer._deliver, True)
        # After a failure the rules that failed would fail again: what stood, stands.
        hooks = self._observer.hooks
        hooks.attempt(self._update)
        report = hooks.attempt(self._compose, True)
        if report is None:  # the proposals are what is most likely to fail
            report = hooks.attempt(self._compose, False)
        if report is None:
            report = broken_report(self.name, hooks.failure or "", self.findings)
        return report

    # -- inside -------------------------------------------------------------------

    def _update(self) -> None:
        self._detector.update(self.history, self.structure)

    def _compose(self, proposals: bool) -> Report:
        anatomy = self.anatomy() if proposals and self._is_sick() else None
        settings, structure = self._settings, self.structure
        return report_on(self._seen(), self.history, structure, settings, anatomy)

    def _seen(self) -> Seen:
        return see(
            observer=self._observer,
            detector=self._detector,
            settings=self._settings,
            model_name=self._model_name,
            num_parameters=self._count(),
            name=self._name,
            trials=self.trials,
        )

    def _count(self) -> int:
        """Count again while the model lives: lazy parameters have grown since."""
        model = self._model()
        if model is not None:
            self._num_parameters = count_entries(model.parameters())
        return self._num_parameters

    def _is_sick(self) -> bool:
        """Whether something stands that recommendations answer."""
        return any(f.severity >= Severity.WARNING for f in self._detector.standing)

    def _read_anatomy(self, model: nn.Module) -> None:
        observer = self._observer
        self._anatomy = read_anatomy(
            model,
            self.structure,
            self.history,
            observer.optimizers.alive,
            observer.last_inputs,
            observer.capture.batches,
        )

    def _health(self) -> Health:
        return health_of(
            self._detector.standing, self.history, self.structure, self._settings
        )
