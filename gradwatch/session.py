"""`watch()`: one live watch on one model, from the first hook to the report."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.compiled_replay import CompiledReplay
from gradwatch.detector import Detector
from gradwatch.errors import GradWatchError, SettingsError
from gradwatch.findings import Finding, Severity
from gradwatch.late_import import draws_kept
from gradwatch.layers import count_entries
from gradwatch.listeners import Listener, Listeners
from gradwatch.observer import Observer
from gradwatch.ranks import is_first_process
from gradwatch.records import StepRecord
from gradwatch.runlog_recording import Recorder, history_of, start_record
from gradwatch.session_reports import WatchReports
from gradwatch.settings import Settings
from gradwatch.twin import LossFn
from gradwatch.watch_options import (
    check_callable,
    check_console,
    check_model,
    check_name,
    is_number,
    kind_of,
    patterns_of,
    settings_of,
)

if TYPE_CHECKING:
    from gradwatch.console import ConsoleView

ConsoleMode = Literal["live", "alerts", "end"]

#: Live watches by model, so that a notebook cell run twice does not watch twice.
_live: weakref.WeakKeyDictionary[nn.Module, list[Watch]] = weakref.WeakKeyDictionary()


def watch(
    model: nn.Module,
    *,
    settings: Settings | Mapping[str, Any] | str | Path | None = None,
    include: Iterable[str | type] = (),
    exclude: Iterable[str | type] = (),
    loss_fn: LossFn | None = None,
    budget: float | None = None,
    every: int | None = None,
    record: str | Path | None = None,
    console: ConsoleMode | None = "alerts",
    on_finding: Callable[[Finding], None] | None = None,
    scaler: Any = None,
    ignore: Iterable[str] = (),
    name: str | None = None,
) -> Watch:
    """Watch a model while it trains; the loop around it stays as it is.

    Use it as a context manager, or call `close()` when done (it also closes at
    interpreter exit and when the model is collected). A second call with equal options
    returns the live watch; with other options it makes an independent one.

    Args:
        model: The module whose parameters the optimizer updates.
        settings: `Settings`, a dict of them, or the path of a TOML or YAML file.
        include: Name patterns (`encoder.*`) or module types to measure; all if empty.
        exclude: Name patterns or module types to leave out.
        loss_fn: `loss_fn(model, batch) -> scalar`, kept for trials.
        budget: Share of training time gradwatch may take; overrides `settings`.
        every: Probe every so many steps, whatever the budget; overrides `settings`.
        record: Folder of runs, such as `runs`: a folder of this run is made in it, and
            everything measured is kept there, readable while it runs and after a kill.
        console: `alerts` (findings as they are confirmed, report at exit), `live` (a
            panel), `end` (report only) or None (nothing is printed).
        on_finding: Called with each finding when it is confirmed.
        scaler: The gradient scaler; normally found by itself.
        ignore: Codes, optionally with a layer pattern: `GW302`, `GW103:encoder.*`.
        name: What alerts and the report call the model, to tell two of them apart; its
            class name if None.

    Returns:
        The live watch.

    Raises:
        ModelError: If `model` is not an `nn.Module` or has no parameters.
        SettingsError: If an option is unknown or out of range.
    """  # noqa: DOC501, DOC502 - raised by what it calls
    check_model(model)
    options = settings_of(settings, budget, every)
    check_console(console)
    check_callable("loss_fn", loss_fn)
    check_callable("on_finding", on_finding)
    if scaler is not None and not hasattr(scaler, "unscale_"):
        raise SettingsError(
            f"`scaler` (={kind_of(scaler)}) must be a gradient scaler such as "
            "torch.amp.GradScaler; leave it out and it is found by itself."
        )
    check_name(name)
    key = (
        options,
        patterns_of("include", include, model),
        patterns_of("exclude", exclude, model),
        console,
        (ignore,) if isinstance(ignore, str) else tuple(ignore),
        id(loss_fn),
        id(on_finding),
        id(scaler),
        name,
        None if record is None else str(record),
    )
    watches = _live.setdefault(model, [])
    watches[:] = [live for live in watches if not live.closed]
    for live in watches:
        if live.key == key:
            return live
    kept = None
    try:
        kept = start_record(
            record, options, model=type(model).__name__, name=name, ignore=key[4]
        )
        new = Watch(
            model, options, key, console, on_finding, scaler, loss_fn, name, kept
        )
    except GradWatchError:
        raise
    except Exception:  # an error of ours: a watch that only tells of it
        if kept is not None:
            kept.close()
        new = Watch(model, options, key, None, None, None, loss_fn, name, None, False)
    watches.append(new)
    return new


class Watch(WatchReports):
    """A live watch; made by `watch()`.

    Attributes:
        key: Options that make two watches equal.
        history: What was measured so far.
        closed: Whether the hooks are off.
        trials: What `trial()` measured, by the name of the treatment.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        key: tuple[Any, ...],
        console: ConsoleMode | None,
        on_finding: Callable[[Finding], None] | None,
        scaler: Any,
        loss_fn: LossFn | None,
        name: str | None,
        recorder: Recorder | None,
        works: bool = True,
    ) -> None:
        self.key = key
        self.closed = False
        self.trials = {}
        self._recorder = recorder
        self.history = history_of(settings, recorder)
        self.loss_fn = loss_fn
        self._settings = settings
        self._model = weakref.ref(model)
        self._name = name
        self._model_name = type(model).__name__
        self._num_parameters = count_entries(model.parameters())
        self._detector = Detector(settings, ignore=key[4])
        self._on_finding = on_finding
        self._announced: set[tuple[str, Severity]] = set()
        self._view = _console_view(console, name)
        self._report_printed = False
        self._listeners = Listeners()
        self._anatomy = Anatomy()
        reference = weakref.ref(self)

        def on_probe(record: StepRecord) -> bool:
            alive = reference()
            return alive._judge() if alive is not None else False

        self._observer = Observer(
            model,
            settings,
            self.history,
            on_probe,
            include=key[1],
            exclude=key[2],
            scaler=scaler,
        )
        self._observer.replay = CompiledReplay(settings, key[1], key[2])
        self._observer.processes.open()
        # Runs when the model is collected, and at interpreter exit.
        self._finalizer = weakref.finalize(model, self.close)
        try:
            if works:
                self._observer.hooks.attempt(self._observer.attach)
            else:
                self._observer.hooks.fail()  # after the error that is being handled
        except BaseException:  # Ctrl-C: nobody will ever have this watch to close it
            self.closed = True
            self._finalizer.detach()
            self._observer.hooks.detach()
            raise

    # -- context ------------------------------------------------------------------

    def __enter__(self) -> Watch:
        """Return the watch."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; the report comes also when an exception leaves the block."""
        self.close()

    def close(self) -> None:
        """Remove every hook and print the report. Repeated calls do nothing."""
        if self.closed:
            self._observer.hooks.sweep()  # what a close inside a step had to leave
            return
        hooks = self._observer.hooks
        try:
            hooks.guard(self._observer._deliver, True)
            # While the last inputs and the optimizers are there.
            if hooks.attempt(self._is_sick):
                hooks.attempt(self.anatomy)
        finally:  # also after Ctrl-C
            self.closed = True
            self._finalizer.detach()
            try:
                hooks.attempt(self._observer.detach)
            finally:
                hooks.attempt(hooks.detach)
        try:
            hooks.attempt(self._say_goodbye)
        finally:
            if self._recorder is not None:
                hooks.attempt(self._recorder.close)

    # -- the user's side ----------------------------------------------------------

    def step(self) -> None:
        """End a step of an optimizer that is not a `torch.optim.Optimizer`.

        Call it after each step, before the gradients are cleared. (Before the update
        will do as well; update ratios are then those of the step before.)
        """
        self._observer.hooks.guard(self._observer.manual_step)

    def log(self, *, loss: float | torch.Tensor) -> None:
        """Tell the loss of the current step; a tensor is not waited for.

        Args:
            loss: Scalar loss of the step about to be taken.

        Raises:
            SettingsError: If `loss` is not one number.
        """
        if self._observer.hooks.attempt(is_number, loss) is False:
            raise SettingsError(
                f"`loss` (={kind_of(loss)}) must be a number or a tensor with one "
                "entry."
            )
        self._observer.hooks.guard(self._observer.log_loss, loss)

    def attach(self, listener: Listener) -> None:
        """Tell a logger of every probe from now on, and of the report at the end.

        One that raises is dropped with a `ListenerWarning`. A closed watch gives the
        report at once.

        Args:
            listener: A logger of `gradwatch.integrations`, or anything that has
                `on_probe(watch)` and `on_close(watch, report)`.
        """
        self._listeners.add(listener)
        if self.closed:
            self._listeners.on_close(self, self.report())

    # -- inside -------------------------------------------------------------------

    def _say_goodbye(self) -> None:
        """Record the report, print it, then give it to the loggers."""
        if self._view is None and self._recorder is None and not self._listeners:
            return
        report = self.report()
        if self._recorder is not None:
            self._recorder.finish(self.history, self._seen(), report)
        if self._view is not None:
            self._view.on_close(report)
        self._listeners.on_close(self, report)

    def _judge(self) -> bool:
        """Run the rules on the newest probe; say whether a rule fired anew."""
        self._detector.update(self.history, self.structure)
        if self._recorder is not None:
            structure, anatomy = self.structure, self.anatomy
            self._recorder.on_probe(self.history, structure, self._seen(), anatomy)
        for finding in self._detector.standing:
            known = (finding.code, finding.severity)
            if finding.confirmed and known not in self._announced:
                self._announced.add(known)
                self._tell(finding)
        if self._view is not None:
            standing, health = self._detector.standing, self._health()
            self._view.on_probe(self.history, standing, health, self.overhead)
        self._listeners.on_probe(self)
        return bool(self._detector.newly_fired)

    def _tell(self, finding: Finding) -> None:
        if self._view is not None:
            self._view.on_finding(finding)
        if self._on_finding is not None:
            self._on_finding(finding)


def _console_view(console: ConsoleMode | None, name: str | None) -> ConsoleView | None:
    """Return the console of this process; only rank 0 prints."""
    if console is None or not is_first_process():
        return None
    # Rich is not needed where nothing is printed.
    with draws_kept():
        from gradwatch.console import ConsoleView
    return ConsoleView(console, name=name or "")
