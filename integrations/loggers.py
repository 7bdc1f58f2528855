"""What the loggers of plain loops share: when they write, and what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from gradwatch.findings import Finding
from gradwatch.integrations.scalars import scalars
from gradwatch.report import Report
from gradwatch.session import Watch


class RunLogger(ABC):
    """Writes what a watch measures to a logger.

    Call `log` in the loop, as often as you like: it writes only what a probe has
    measured anew. Call `close` at the end for the report.

    Args:
        watch: The watch.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._probes = 0
        self._told: set[str] = set()

    def log(self) -> None:
        """Write new numbers and newly confirmed findings at their step."""
        if self.watch.history.num_probes == self._probes:
            return
        self._probes = self.watch.history.num_probes
        step = max(self.watch.history.last_step, 0)
        self.write_scalars(scalars(self.watch), step)
        for finding in self.watch.findings:
            if finding.is_alarm and finding.code not in self._told:
                self._told.add(finding.code)
                self.write_text(f"gradwatch/{finding.code}", told(finding), step)

    def close(self) -> Report:
        """Write the last numbers and the report, and return it."""
        self.log()
        report = self.watch.report()
        step = max(self.watch.history.last_step, 0)
        self.write_text("gradwatch/report", f"```\n{report}\n```", step)
        with TemporaryDirectory() as folder:
            self.write_files([report.save(Path(folder) / "gradwatch-report.json")])
        return report

    @abstractmethod
    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""

    @abstractmethod
    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text in Markdown."""

    def write_files(self, files: list[Path]) -> None:  # noqa: B027 - not all can
        """Keep files with the run; they are gone afterwards. By default nothing."""


def told(finding: Finding) -> str:
    """Return a finding as a short text in Markdown."""
    evidence = [
        f"- {item.quantity} = {item.value:.4g} {item.unit}"
        + ("" if item.limit is None else f" (limit {item.limit:g})")
        + f", steps {item.steps[0]} to {item.steps[1]}"
        for item in finding.evidence
    ]
    layers = ", ".join(f"`{layer}`" for layer in finding.layers[:8])
    lines = [
        f"**{finding.severity.name} {finding.code} {finding.name}**",
        "",
        finding.message,
        "",
        *evidence,
        f"- layers: {layers}" if layers else "",
        "",
        finding.help,
    ]
    return "\n".join(lines)
