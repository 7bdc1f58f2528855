"""A callback for the Hugging Face Trainer: `callbacks=[GradWatchCallback()]`.

What the Trainer's `report_to` names (TensorBoard, Weights & Biases, MLflow, ...) gets
the numbers with its own logs.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gradwatch.integrations.scalars import scalars
from gradwatch.report import Report
from gradwatch.session import ConsoleMode, Watch, watch


class GradWatchCallback(TrainerCallback):
    """Watches the model of a Hugging Face Trainer; training stays as it is.

    Args:
        settings: Settings as a mapping, or the path of a TOML or YAML file.
        console: `alerts`, `live`, `end` or None, as in `gradwatch.watch`.
        log: Whether the numbers of `gradwatch.integrations.scalars.NAMES` go into the
            Trainer's logs.
        stop: Whether a confirmed alarm ends the training.
        **options: More keyword arguments of `gradwatch.watch`.

    Attributes:
        watch: The live watch; None before the first training.
        report: The report, once the training has ended.
    """

    def __init__(
        self,
        settings: dict[str, Any] | str | None = None,
        *,
        console: ConsoleMode | None = "alerts",
        log: bool = True,
        stop: bool = False,
        **options: Any,
    ) -> None:
        self.watch: Watch | None = None
        self.report: Report | None = None
        self._log = log
        self._stop = stop
        self._options = {"settings": settings, "console": console, **options}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach to the model that the optimizer trains, and go before the loggers."""
        model = kwargs["model"]
        name = type(model).__name__
        self.watch = watch(model, name=name, **self._options)
        _go_first(self, sys._getframe(1))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """End the training once an alarm is confirmed, if asked to."""
        if self._stop and self.watch is not None:
            alarms = any(finding.is_alarm for finding in self.watch.findings)
            control.should_training_stop = control.should_training_stop or alarms

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Add the numbers to what the Trainer logs."""
        logs = kwargs.get("logs")
        if not self._log or self.watch is None or logs is None:
            return
        if "train_runtime" in logs or self.watch.closed:  # the summary at the end
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
        if self.watch is not None:
            self.watch.close()
            self.report = self.watch.report()


def _go_first(callback: TrainerCallback, frame: FrameType | None) -> None:
    """Move a callback before those that write logs, in the Trainer's own list.

    The Trainer puts the loggers of `report_to` before the user's callbacks, and they
    would write a log before we have added to it. The list is found in the frame that
    called us; where it is not, the numbers are in `state.log_history` only.
    """
    for _ in range(4):
        if frame is None:
            return
        handler = frame.f_locals.get("self")
        callbacks = getattr(handler, "callbacks", None)
        if isinstance(callbacks, list) and callback in callbacks:
            callbacks.remove(callback)
            callbacks.insert(0, callback)
            return
        frame = frame.f_back
