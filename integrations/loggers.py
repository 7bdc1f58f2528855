"""What the loggers of plain loops share: when they write, and what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from gradwatch.findings import Finding, Severity
from gradwatch.integrations.scalars import scalars
from gradwatch.report import Report
from gradwatch.session import Watch

#: Forms of the report that are kept as files, where a logger keeps files.
_FORMS = ("json", "txt", "html")


class RunLogger(ABC):
    """Writes what a watch measures: `watch.attach(logger)`, and nothing else.

    It writes at each probe, and the report when the watch closes. One that raises is
    dropped with a `ListenerWarning`; training and the watch go on.
    """

    def __init__(self) -> None:
        self._told: set[tuple[str, Severity]] = set()
        self._step: int | None = None

    def on_probe(self, watch: Watch) -> None:
        """Write new numbers and newly confirmed findings at the probe's step."""
        step = _step_of(watch)
        if step == self._step:
            return
        self._step = step
        self.write_scalars(scalars(watch), step)
        for finding in watch.findings:
            known = (finding.code, finding.severity)
            if finding.is_alarm and known not in self._told:
                self._told.add(known)
                self.write_text(f"gradwatch/{finding.code}", told(finding), step)

    def on_close(self, watch: Watch, report: Report) -> None:
        """Write what is still unwritten, and the report."""
        self.on_probe(watch)
        text = f"```\n{report}\n```"
        self.write_text("gradwatch/report", text, _step_of(watch))
        with TemporaryDirectory() as folder:
            name = "gradwatch-report"
            files = [report.save(Path(folder) / f"{name}.{form}") for form in _FORMS]
            self.write_files(files)

    @abstractmethod
    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name."""

    @abstractmethod
    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a text in Markdown."""

    def write_files(self, files: list[Path]) -> None:  # noqa: B027 - not all can
        """Keep files with the run; they are gone afterwards. By default nothing."""


def _step_of(watch: Watch) -> int:
    latest = watch.history.latest
    return 0 if latest is None else latest.step


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
