"""MLflow for plain loops: metrics, findings as texts, the report as an artifact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradwatch.integrations.loggers import RunLogger


class MLflowLogger(RunLogger):
    """Writes to a run of MLflow.

    Args:
        client: An `mlflow.MlflowClient`.
        run_id: The run's id; it is not ended.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        super().__init__()
        self.client = client
        self.run_id = run_id

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)  # one request

    def write_text(self, name: str, text: str, step: int) -> None:
        """Keep a text as an artifact."""
        self.client.log_text(self.run_id, text, f"{name}.md")

    def write_files(self, files: list[Path]) -> None:
        """Keep files as artifacts."""
        for file in files:
            self.client.log_artifact(self.run_id, str(file), "gradwatch")
