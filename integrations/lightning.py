"""A callback for Lightning: `Trainer(callbacks=[GradWatchCallback()])`.

Works with `lightning.pytorch` and `pytorch_lightning`, whichever the Trainer is from.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.errors import (
    GradWatchError,
    GradWatchWarning,
    ReportError,
    SettingsError,
)
from gradwatch.findings import Finding
from gradwatch.integrations.acting import Act, check_act, warn_of
from gradwatch.integrations.scalars import NAMES, grad_norm, scalars
from gradwatch.report import Report
from gradwatch.session import ConsoleMode, Watch, watch
from gradwatch.settings import Settings
from gradwatch.statistics import tensors_in

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
#: Batches kept for a trial at most (chosen, not measured).
_TRIAL_BATCHES = 8
_TRIAL_STEPS = 50


def _bases() -> tuple[type, ...]:
    """Return the Callback classes of the packages in use, or of the one installed.

    Both where both are in use: their Trainers ask for nothing but the methods, but a
    `LightningCLI` asks for an instance of its own package's class.
    """
    names = [name for name in _PACKAGES if sys.modules.get(name)] or _first_installed()
    return tuple(importlib.import_module(f"{n}.callbacks").Callback for n in names)


def _first_installed() -> list[str]:
    for name in _PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            return [name]
    raise GradWatchError(
        "The Lightning callback needs Lightning: pip install lightning (or "
        "pytorch-lightning)."
    )


class _Hooks:
    """What the callback does; `GradWatchCallback` adds the Callback classes to it."""

    def __init__(
        self,
        settings: dict[str, Any] | str | None = None,
        act: Act = "report",
        console: ConsoleMode | None = "alerts",
        log: bool = True,
        aliases: dict[str, str] | None = None,
        budget: float | None = None,
        every: int | None = None,
        record: str | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        ignore: list[str] | None = None,
        trial: bool = False,
    ) -> None:
        super().__init__()
        check_act(act)
        if unknown := sorted(set(aliases or ()) - set(NAMES)):
            raise SettingsError(
                f"`aliases` (={unknown[0]!r}) must map from one of the names that are "
                f"logged: {', '.join(NAMES)}."
            )
        self.act = act
        self.log_scalars = log
        self.aliases = dict(aliases or {})
        self.try_remedies = trial
        self.watch: Watch | None = None
        self.report: Report | None = None
        self.previous_report: Report | None = None
        self._options: dict[str, Any] = {
            "settings": settings,
            "console": console,
            "budget": budget,
            "every": every,
            "record": record,
            "include": tuple(include or ()),
            "exclude": tuple(exclude or ()),
            "ignore": tuple(ignore or ()),
        }
        self._capture_limit = Settings.coerce(settings).capture_limit
        self._begin()

    def _begin(self) -> None:
        """Forget what belongs to an earlier fit."""
        self._found: list[Finding] = []
        self._wants_stop = False
        self._logged = (0, 0)
        self._loss: Tensor | None = None
        self._num_losses = 0
        self._batches: list[Any] = []
        self._batch_bytes = 0

    # -- attach and detach --------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attach, after sanity checking and before the first training batch."""
        self._begin()
        self._options["scaler"] = getattr(trainer.precision_plugin, "scaler", None)
        name = type(pl_module).__name__
        self.watch = watch(
            pl_module, on_finding=self._found.append, name=name, **self._options
        )

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Try remedies, if asked for, while the optimizers are there."""
        if self.try_remedies and self.watch is not None and trainer.is_global_zero:
            self._try(self.watch, pl_module)

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Print the report, after the progress bar has ended."""
        self._close()

    def on_exception(
        self, trainer: Any, pl_module: nn.Module, exception: BaseException
    ) -> None:
        """Print the report of a run that an error or Ctrl-C ended."""
        self._close()

    def _close(self) -> None:
        if self.watch is not None and not self.watch.closed:
            self.watch.close()
            self.report = self.watch.report()
        self._batches.clear()

    # -- every step ---------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep some batches for a trial: references, and no more than may be captured.

        By hand the losses of one batch add up, whatever steps they are for.
        """
        if not pl_module.automatic_optimization:
            self._loss, self._num_losses = None, 0
        if self.try_remedies and len(self._batches) < _TRIAL_BATCHES:
            size = sum(t.numel() * t.element_size() for t in tensors_in(batch))
            if self._batch_bytes + size <= self._capture_limit:
                self._batch_bytes += size
                self._batches.append(batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Tell the watch the loss of the step so far.

        Lightning has multiplied it by the loss scale, and divided it by the number of
        micro-batches: both are undone, so that it is the mean over those seen.
        """
        if self.watch is None:
            return
        value = loss.detach()
        scale = getattr(self._options["scaler"], "_scale", None)
        if scale is not None:
            value = value / scale.to(value.device)
        self._loss = value if self._loss is None else self._loss + value
        self._num_losses += 1
        parts = trainer.accumulate_grad_batches
        if pl_module.automatic_optimization and parts > 1:
            self.watch.log(loss=self._loss * (parts / self._num_losses))
        else:
            self.watch.log(loss=self._loss)

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: nn.Module, optimizer: Any
    ) -> None:
        """Begin a new sum: what follows belongs to another step."""
        self._loss, self._num_losses = None, 0

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: nn.Module,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log new numbers and act on findings."""
        if self.watch is None:
            return
        if self.log_scalars:
            self._log_news(self.watch, trainer, pl_module)
        if self._found and self.act != "report":
            self._react(trainer)

    def _log_news(self, live: Watch, trainer: Any, pl_module: Any) -> None:
        """Log all numbers after a probe, and the norm as often as the Trainer logs.

        To the loggers directly: the Trainer writes only every `log_every_n_steps`, and
        a probe that falls between would be lost. Its own callbacks do so too. To
        `callback_metrics` only after a probe: that way through the Trainer is slow.
        """
        history = live.history
        probes, pulses = self._logged
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if history.num_probes != probes:
            values = self._named(scalars(live))
            pl_module.log_dict(values, logger=False)
        elif history.num_pulses != pulses and not (
            (step + 1) % trainer.log_every_n_steps
        ):
            values = self._named(grad_norm(history))
        else:
            return
        self._logged = (history.num_probes, history.num_pulses)
        if values and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)

    def _named(self, values: dict[str, float]) -> dict[str, float]:
        """Add the aliases that a user asked for."""
        further = {
            new: values[old] for old, new in self.aliases.items() if old in values
        }
        return {**values, **further}

    def _react(self, trainer: Any) -> None:
        found, self._found[:] = list(self._found), []
        alarms = [finding for finding in found if finding.is_alarm]
        if not alarms:
            return
        end = ""
        if self.act == "stop":
            self._wants_stop = True
            end = " Training stops."
            if trainer.world_size == 1:
                trainer.should_stop = True
        warn_of(alarms, end)

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """With several processes all stop together, at the end of an epoch."""
        if self.act == "stop" and trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(self._wants_stop, all=False)
            trainer.should_stop = trainer.should_stop or stop

    # -- resume and trials --------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the report so far, for the checkpoint."""
        report = self.report
        if self.watch is not None and not self.watch.closed:
            report = self.watch.report()
        return {} if report is None else {"report": report.to_json()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the report of the run that is resumed, as `previous_report`."""
        if "report" not in state_dict:
            return
        try:
            self.previous_report = Report.from_json(
                state_dict["report"], source="the checkpoint's report"
            )
        except ReportError as error:  # of a newer gradwatch: no reason not to resume
            warnings.warn(str(error), GradWatchWarning, stacklevel=2)

    def _try(self, live: Watch, pl_module: Any) -> None:
        if not live.report().recommendations:
            return
        if not pl_module.automatic_optimization:
            warnings.warn(
                "`trial=True` needs automatic optimization: a manual `training_step` "
                "steps the Trainer's own optimizers. Nothing was tried.",
                GradWatchWarning,
                stacklevel=2,
            )
            return
        if not self._batches:
            warnings.warn(
                "`trial=True` keeps batches of at most `capture_limit` "
                f"(={self._capture_limit}) bytes, and one alone is larger: raise it in "
                "`settings`. Nothing was tried.",
                GradWatchWarning,
                stacklevel=2,
            )
            return
        with warnings.catch_warnings():
            # A copy has no Trainer: its `self.log` says so at each step.
            warnings.simplefilter("ignore", UserWarning)
            live.trial(batches=self._batches, loss_fn=_loss_of, steps=_TRIAL_STEPS)


def _loss_of(module: Any, batch: Any) -> Tensor:
    """Return the loss of the module's own `training_step`."""
    output = module.training_step(batch, 0)
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, torch.Tensor):
        raise GradWatchError("`training_step` returned no loss for this batch.")
    return loss


class GradWatchCallback(_Hooks, *_bases()):  # type: ignore[misc]
    """Watches a LightningModule while a Trainer fits it; training stays as it is.

    All arguments are plain, so that a `LightningCLI` file can set them.

    Args:
        settings: Settings as a mapping, or the path of a TOML or YAML file.
        act: What a confirmed finding leads to: `report` (it is in the report), `warn`
            (a Python warning as well), `stop` (the warning, and `trainer.should_stop`;
            with several processes at the end of the epoch).
        console: `alerts`, `live`, `end` or None, as in `gradwatch.watch`.
        log: Whether the Trainer's loggers and `callback_metrics` get the numbers of
            `gradwatch.integrations.scalars.NAMES`: all at each probe, the gradient norm
            also every `log_every_n_steps`.
        aliases: Further names for some of these, such as
            `{"gradwatch/grad_norm/total": "grad_2.0_norm_total"}`.
        budget: Share of training time that gradwatch may take.
        every: Probe every so many steps, whatever the budget.
        record: Folder to keep the run's records in.
        include: Name patterns of the layers to measure.
        exclude: Name patterns of the layers to leave out.
        ignore: Codes, optionally with a layer pattern.
        trial: Whether to try recommendations on copies, with the module's own
            `training_step`, when the fit ends.

    Attributes:
        watch: The live watch; None before the first fit.
        report: The report, once the fit has ended.
        previous_report: Report of the run that was resumed.

    Raises:
        SettingsError: If an argument is unknown or out of range.
    """
