"""TensorBoard for plain loops: scalars, findings and the report as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradwatch.integrations.loggers import RunLogger


class TensorBoardLogger(RunLogger):
    """Writes to a `torch.utils.tensorboard.SummaryWriter`.

    Args:
        writer: The user's `SummaryWriter`; it is not closed.
    """

    def __init__(self, writer: Any) -> None:
        super().__init__()
        self.writer = writer

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text in Markdown."""
        self.writer.add_text(name, text, step)
