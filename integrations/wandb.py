"""Weights & Biases for plain loops: scalars, findings, the report as an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradwatch.integrations.loggers import RunLogger


class WandbLogger(RunLogger):
    """Writes to a run of `wandb.init()`.

    Numbers carry `gradwatch/step`, the optimizer step, as their x axis, so that they do
    not disturb the step counter of the user's own `run.log`.

    Args:
        run: The user's run; it is not finished.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run
        run.define_metric("gradwatch/step")
        run.define_metric("gradwatch/*", step_metric="gradwatch/step")

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""
        self.run.log({**values, "gradwatch/step": step})

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
