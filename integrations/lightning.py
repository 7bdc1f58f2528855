"""A callback for Lightning: `Trainer(callbacks=[GradWatchCallback()])`.

Works with `lightning.pytorch` and `pytorch_lightning`, whichever the Trainer is from.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradwatch.errors import GradWatchError, GradWatchWarning, SettingsError
from gradwatch.findings import Finding
from gradwatch.integrations.scalars import scalars
from gradwatch.report import Report
from gradwatch.session import ConsoleMode, Watch, watch

Act = Literal["report", "warn", "stop"]
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
#: Batches kept for a trial: references, no copies.
_TRIAL_BATCHES = 8
_TRIAL_STEPS = 50


def _bases() -> tuple[type, ...]:
    """Return the Callback classes of the packages in use, or of the one installed."""
    used = [name for name in _PACKAGES if name in sys.modules]
    for name in used or _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        used = used or [name]
        break
    if not used:
        raise GradWatchError(
            "The Lightning callback needs Lightning: pip install lightning (or "
            "pytorch-lightning)."
        )
    return tuple(importlib.import_module(f"{name}.callbacks").Callback for name in used)


class _Hooks:
    """What the callback does; `GradWatchCallback` adds the Callback classes to it."""

    def __init__(
        self,
        settings: dict[str, Any] | str | None = None,
        act: Act = "report",
        console: ConsoleMode | None = "alerts",
        log: bool = True,
        budget: float | None = None,
        every: int | None = None,
        record: str | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        ignore: list[str] | None = None,
        trial: bool = False,
    ) -> None:
        super().__init__()
        if act not in ("report", "warn", "stop"):
            raise SettingsError(
                f"`act` (={act!r}) must be 'report', 'warn' or 'stop': what a "
                "confirmed finding leads to."
            )
        self.act = act
        self.log_scalars = log
        self.try_remedies = trial
        self.watch: Watch | None = None
        self.report: Report | None = None
        self.previous_report: Report | None = None
        self._options = {
            "settings": settings,
            "console": console,
            "budget": budget,
            "every": every,
            "include": tuple(include or ()),
            "exclude": tuple(exclude or ()),
            "ignore": tuple(ignore or ()),
        }
        if record is not None:
            self._options["record"] = record
        self._found: list[Finding] = []
        self._logged_probes = 0
        self._loss: Tensor | None = None
        self._batches: list[Any] = []

    # -- attach and detach --------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attach, after sanity checking and before the first training batch."""
        self._options["scaler"] = getattr(trainer.precision_plugin, "scaler", None)
        self.watch = watch(
            pl_module,
            on_finding=self._found.append,
            name=type(pl_module).__name__,
            **self._options,  # type: ignore[arg-type]
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

    def on_before_backward(
        self, trainer: Any, pl_module: nn.Module, loss: Tensor
    ) -> None:
        """Note the loss, the loss scale divided out; micro-batches add up."""
        value = loss.detach()
        scale = getattr(self._options.get("scaler"), "_scale", None)
        if scale is not None:
            value = value / scale.to(value.device)
        self._loss = value if self._loss is None else self._loss + value

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: nn.Module, optimizer: Any
    ) -> None:
        """Tell the watch the loss of the step that is about to be taken."""
        if self.watch is not None and self._loss is not None:
            self.watch.log(loss=self._loss)
        self._loss = None

    def on_train_batch_start(
        self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int
    ) -> None:
        """Keep some batches for a trial."""
        if self.try_remedies and len(self._batches) < _TRIAL_BATCHES:
            self._batches.append(batch)

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: nn.Module,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log new numbers and act on findings."""
        live = self.watch
        if live is None:
            return
        probes = live.history.num_probes
        if probes != self._logged_probes:
            self._logged_probes = probes
            if self.log_scalars:
                self._log(trainer, pl_module, scalars(live))
        if self._found and self.act != "report":
            self._react(trainer)

    def _log(self, trainer: Any, pl_module: Any, values: Mapping[str, float]) -> None:
        """Give the numbers to the loggers at this step, and to `callback_metrics`.

        The loggers directly: the Trainer writes only every `log_every_n_steps`, and a
        probe that falls between would be lost.
        """
        pl_module.log_dict(dict(values), logger=False, rank_zero_only=True)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(dict(values), step=trainer.global_step)

    def _react(self, trainer: Any) -> None:
        found, self._found[:] = list(self._found), []
        alarms = [finding for finding in found if finding.is_alarm]
        for finding in alarms:
            if self.act == "warn":
                text = f"{finding.code} {finding.name}: {finding.message}"
                warnings.warn(text, GradWatchWarning, stacklevel=2)
        if alarms and self.act == "stop" and trainer.world_size == 1:
            trainer.should_stop = True
        self._wants_stop = bool(alarms) or self._wants_stop

    _wants_stop = False

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
        if "report" in state_dict:
            self.previous_report = Report.from_json(
                state_dict["report"], source="the checkpoint"
            )

    def _try(self, live: Watch, pl_module: Any) -> None:
        if not live.report().recommendations or not self._batches:
            return
        if not pl_module.automatic_optimization:
            warnings.warn(
                "`trial=True` needs automatic optimization: a manual `training_step` "
                "steps the Trainer's own optimizers. Nothing was tried.",
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
            (a Python warning as well), `stop` (`trainer.should_stop`; with several
            processes at the end of the epoch).
        console: `alerts`, `live`, `end` or None, as in `gradwatch.watch`.
        log: Whether the Trainer's loggers and `callback_metrics` get the numbers of
            `gradwatch.integrations.scalars.NAMES`.
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
