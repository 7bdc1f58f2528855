"""Weights & Biases for plain loops: scalars, findings, the report as an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradwatch.integrations.loggers import RunLogger


class WandbLogger(RunLogger):
    """Writes to a run of `wandb.init()`.

    Numbers carry `gradwatch/step`, the optimizer step, as their x axis. By default they
    join the row that the user's next `run.log` completes: a row of our own would push
    the run's step counter, and wandb drops what `run.log(..., step=epoch)` logs behind
    it. Of several probes between two rows the newest stays.

    Args:
        run: The user's run; it is not finished.
        commit: Whether every probe is a row of its own; for loops that log seldom and
            never pass `step=`.
    """

    def __init__(self, run: Any, *, commit: bool = False) -> None:
        super().__init__()
        self.run = run
        self.commit = commit
        run.define_metric("gradwatch/step")
        run.define_metric("gradwatch/*", step_metric="gradwatch/step")

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""
        self.run.log({**values, "gradwatch/step": step}, commit=self.commit)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Keep a text in the run's summary."""
        self.run.summary[name] = text

    def write_files(self, files: list[Path]) -> None:
        """Keep files as an artifact of the run."""
        import wandb

        artifact = wandb.Artifact(f"gradwatch-{self.run.id}", type="gradwatch-report")
        for file in files:
            artifact.add_file(str(file))
        self.run.log_artifact(artifact)
