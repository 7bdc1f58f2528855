"""A callback for the Hugging Face Trainer: `callbacks=[GradWatchCallback()]`.

What the Trainer's `report_to` names (TensorBoard, Weights & Biases, MLflow, ...) gets
the numbers with its own logs.
"""

from __future__ import annotations

import sys
import weakref
from types import FrameType
from typing import Any

from torch import Tensor
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gradwatch.findings import Severity
from gradwatch.integrations.acting import Act, check_act, warn_of
from gradwatch.integrations.scalars import scalars
from gradwatch.report import Report
from gradwatch.session import ConsoleMode, Watch, watch


class GradWatchCallback(TrainerCallback):
    """Watches the model of a Hugging Face Trainer; training stays as it is.

    The loss is the one that the model returns, over all micro-batches of a step. Where
    the Trainer computes it instead (label smoothing, `compute_loss_func`), it is the
    mean that the Trainer last logged, told at the step that follows.

    Args:
        settings: Settings as a mapping, or the path of a TOML or YAML file.
        act: What a confirmed finding leads to: `report` (it is in the report), `warn`
            (a Python warning as well), `stop` (the warning, and the training ends).
        console: `alerts`, `live`, `end` or None, as in `gradwatch.watch`.
        log: Whether the numbers of `gradwatch.integrations.scalars.NAMES` go into the
            Trainer's logs.
        **options: More keyword arguments of `gradwatch.watch`.

    Attributes:
        watch: The live watch; None before the first training.
        report: The report, once the training has ended.

    Raises:
        SettingsError: If `act` is unknown; other arguments are checked when the
            training begins.
    """

    def __init__(
        self,
        settings: dict[str, Any] | str | None = None,
        *,
        act: Act = "report",
        console: ConsoleMode | None = "alerts",
        log: bool = True,
        **options: Any,
    ) -> None:
        check_act(act)
        self.act = act
        self.watch: Watch | None = None
        self._log = log
        self._options = {"settings": settings, "console": console, **options}
        self._trainer: weakref.ref[Any] | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget what belongs to an earlier training."""
        self.report: Report | None = None
        self._told: set[tuple[str, Severity]] = set()
        self._losses: list[Tensor | float] = []
        self._model_tells = False
        self._logs_tell = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach to the model that the optimizer trains, and go before the loggers."""
        self.close()  # a training that failed has not closed its watch
        self._begin()
        model = kwargs["model"]
        self.watch = watch(model, **{"name": type(model).__name__, **self._options})
        trainer = _go_first(self, sys._getframe(1))
        self._trainer = None if trainer is None else weakref.ref(trainer)

    def on_substep_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Note the loss of a micro-batch."""
        self._note_loss()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Tell the watch the loss of all micro-batches of the step."""
        self._note_loss()
        losses, self._losses = self._losses, []
        if self.watch is None or len(losses) < 2:
            return
        total = sum(losses[1:], start=losses[0])
        self.watch.log(loss=total if self._adds_up() else total / len(losses))

    def _note_loss(self) -> None:
        if self.watch is None or self._logs_tell:
            return
        loss = self.watch.loss
        if loss is not None:
            self._model_tells = True
            self._losses.append(loss)

    def _adds_up(self) -> bool:
        """Whether the Trainer leaves the losses of micro-batches undivided."""
        # Models that are told `num_items_in_batch` divide by it themselves.
        trainer = None if self._trainer is None else self._trainer()
        known = getattr(trainer, "loss_is_scaled_for_ga", None)
        if known is None:
            known = getattr(trainer, "model_accepts_loss_kwargs", False)
        return bool(known)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Act on newly confirmed alarms."""
        self._losses.clear()
        if self.act == "report" or self.watch is None:
            return
        alarms = [
            finding
            for finding in self.watch.findings
            if finding.is_alarm and (finding.code, finding.severity) not in self._told
        ]
        if not alarms:
            return
        self._told.update((finding.code, finding.severity) for finding in alarms)
        if self.act == "stop":
            control.should_training_stop = True
        warn_of(alarms, " Training stops." if self.act == "stop" else "")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Add the numbers to what the Trainer logs of training."""
        logs = kwargs.get("logs")
        if self.watch is None or self.watch.closed or not logs or "loss" not in logs:
            return
        self._logs_tell = not self._model_tells
        if self._logs_tell:
            self.watch.log(loss=float(logs["loss"]))
        if not self._log:
            return
        values = scalars(self.watch)
        logs.update(values)
        if state.log_history:
            state.log_history[-1].update(values)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Take the hooks off and print the report."""
        self.close()

    def close(self) -> None:
        """Take the hooks off and print the report; for a training that an error ended.

        The Trainer tells its callbacks nothing of errors. Without this call the report
        comes when the model is collected or the program ends.
        """
        if self.watch is not None and self.report is None:
            self.watch.close()
            self.report = self.watch.report()


def _go_first(callback: TrainerCallback, frame: FrameType | None) -> Any:
    """Move a callback before those that write logs, and return the Trainer.

    The Trainer puts the loggers of `report_to` before the user's callbacks, and they
    would write a log before we have added to it. A callback is not given the list, nor
    the Trainer, so they are found in the frames that called us; where they are not, the
    numbers are in `state.log_history` only.

    Returns:
        The Trainer; None if it was not found.
    """
    moved = False
    for _ in range(6):
        if frame is None:
            return None
        owner = frame.f_locals.get("self")
        callbacks = getattr(owner, "callbacks", None)
        if not moved and isinstance(callbacks, list) and callback in callbacks:
            callbacks.remove(callback)
            callbacks.insert(0, callback)
            moved = True
        if hasattr(owner, "callback_handler"):
            return owner
        frame = frame.f_back
    return None
