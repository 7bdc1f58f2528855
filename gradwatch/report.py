"""The report: what was found, measured, seen and spent, as one value.

A report is data. It prints itself and saves itself, but what it says was decided by the
rules; `report_build.py` composes it. Reports are saved as JSON and read back without
executing anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapSerializer,
)

from gradwatch._version import __version__
from gradwatch.errors import ReportError
from gradwatch.figures import Figures
from gradwatch.findings import Confidence, Finding, Health, Severity
from gradwatch.history import Series
from gradwatch.late_import import draws_kept
from gradwatch.recommendations import Rejection
from gradwatch.report_parts import (
    ChainPoint,
    ChainSummary,
    CheckedRule,
    CoverageReason,
    CoverageSummary,
    LayerSummary,
    Overhead,
    RecommendationField,
    ReportPart,
    RunFacts,
    TimeSummary,
    UncheckedRule,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "SCHEMA_VERSION",
    "ChainPoint",
    "ChainSummary",
    "CheckedRule",
    "CoverageReason",
    "CoverageSummary",
    "LayerSummary",
    "Overhead",
    "Report",
    "RunFacts",
    "TimeSummary",
    "UncheckedRule",
]

#: Grows when a field changes its meaning or goes; a new field does not change it.
SCHEMA_VERSION = 1
_FORMAT: Literal["gradwatch-report"] = "gradwatch-report"
_LEVELS: dict[str, type[Severity] | type[Confidence]] = {
    "severity": Severity,
    "confidence": Confidence,
}


def _write_finding(finding: Finding, write: SerializerFunctionWrapHandler) -> Any:
    """Name the levels and add the address, for readers of the JSON."""
    fields = write(finding)
    for level in _LEVELS:
        fields[level] = getattr(finding, level).name.lower()
    return {**fields, "url": finding.url}


def _read_finding(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    fields = {key: item for key, item in value.items() if key != "url"}
    for level, kind in _LEVELS.items():
        name = fields.get(level)
        if isinstance(name, str) and name.upper() in kind.__members__:
            fields[level] = kind[name.upper()]
    return fields


FindingField = Annotated[
    Finding, BeforeValidator(_read_finding), WrapSerializer(_write_finding)
]


class Report(ReportPart):
    """What gradwatch says about a run.

    Attributes:
        format: Marks the file as a report of gradwatch.
        schema_version: Version of these fields.
        health: The worst that was confirmed.
        sentence: The one sentence that matters.
        next_step: What to do next; for a healthy network, what was checked.
        findings: Findings that stand, worst first.
        cleared: Findings that came and went.
        ignored_count: Findings that the user chose to ignore.
        recommendations: What may help, best first.
        rejections: Remedies that were considered and left out, and why.
        layers: Layers in execution order.
        layers_step: Step of the probe that `layers` show; None without a probe.
        chains: Trunks, the main one first.
        time_profiles: Recurrent layers.
        coverage: What could be seen.
        overhead: What gradwatch cost.
        checked: Rules that were judged.
        not_checked: Rules that could not be judged, and why.
        run: What was watched.
        settings: Settings that differ from the defaults.
    """

    format: Literal["gradwatch-report"] = _FORMAT
    schema_version: int = SCHEMA_VERSION
    health: Health
    sentence: str
    next_step: str
    findings: tuple[FindingField, ...] = ()
    cleared: tuple[FindingField, ...] = ()
    ignored_count: int = 0
    recommendations: tuple[RecommendationField, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    layers: tuple[LayerSummary, ...] = ()
    layers_step: int | None = None
    chains: tuple[ChainSummary, ...] = ()
    time_profiles: tuple[TimeSummary, ...] = ()
    coverage: CoverageSummary = Field(default_factory=CoverageSummary)
    overhead: Overhead = Field(default_factory=Overhead)
    checked: tuple[CheckedRule, ...] = ()
    not_checked: tuple[UncheckedRule, ...] = ()
    run: RunFacts = Field(default_factory=RunFacts)
    settings: dict[str, Any] = Field(default_factory=dict)

    #: The probes and pulses behind it, for pictures; not part of the JSON.
    _series: Series = PrivateAttr(default_factory=Series)

    def to_json(self) -> str:
        """Return the report as JSON; NaN and infinities are written as strings."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str, *, source: str = "the text") -> Report:
        """Return the report that `to_json` wrote.

        Args:
            text: JSON.
            source: What the messages call it, such as a path.

        Returns:
            The report.

        Raises:
            ReportError: If the text is truncated, something else than a report, or
                written by a newer gradwatch.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ReportError(_not_json(text, source, error)) from None
        except (ValueError, RecursionError) as error:
            raise ReportError(f"{source} is not a report: {error}.") from None
        if _has_half_characters(text, fields):
            raise ReportError(
                f"{source} is not a report of gradwatch: it holds half a character "
                "(a lone surrogate), which no report can write."
            )
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise ReportError(
                f"{source} is JSON, but not a report of gradwatch: it does not say "
                f'"format": "{_FORMAT}". Pass a file that `report.save(...)` wrote.'
            )
        version = fields.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ReportError(
                f"{source} was written by a newer gradwatch (schema {version}; this "
                f"is gradwatch {__version__}, schema {SCHEMA_VERSION}): update "
                "gradwatch to read it."
            )
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ReportError(_wrong_fields(source, error)) from None

    def save(self, path: str | Path) -> Path:
        """Write the report to a file; its ending chooses the form.

        Args:
            path: A `.json` file, which `load` reads back, a `.html` file with pictures
                that needs no network, or a `.txt` file with the text of the console.

        Returns:
            The path.

        Raises:
            ReportError: If the ending is another one, or the file cannot be written.
        """
        file = Path(path)
        suffix = file.suffix.lower()
        if suffix == ".json":
            text = self.to_json() + "\n"
        elif suffix == ".txt":
            text = str(self) + "\n"
        elif suffix in {".html", ".htm"}:
            from gradwatch.page import page

            text = page(self)
        else:
            raise ReportError(
                f"`path` (={str(file)!r}) must end in .html, .json or .txt; got "
                f"{suffix!r}."
            )
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ReportError(f"{file} cannot be written: {error}.") from None
        return file

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report that `save` wrote as JSON. Nothing in it is executed.

        Args:
            path: The `.json` file.

        Returns:
            The report.

        Raises:
            ReportError: If the file cannot be read or is no report.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise ReportError(f"{file} cannot be read: {reason}.") from None
        except UnicodeDecodeError:
            raise ReportError(
                f"{file} is not text, so it is no report: pass a .json file that "
                "`report.save(...)` wrote."
            ) from None
        return cls.from_json(text, source=str(file))

    @overload
    def plot(self, name: None = None) -> Figures: ...

    @overload
    def plot(self, name: str) -> Figure: ...

    def plot(self, name: str | None = None) -> Figures | Figure:
        """Draw the report with matplotlib. Nothing is shown and no setting changes.

        Args:
            name: `"depth profile"` (gradient along the trunk, with the limits),
                `"heat map"` (gradient and update of each layer at each probe) or
                `"time profile"` (gradient of recurrent layers by time step). None:
                all that there are data for.

        Returns:
            The figure; without a name a dict of figures, whose `missing` says why a
            picture is left out. A report read from JSON knows no series, so it has no
            heat map: `gradwatch.runlog.read_run(folder).report` has one.

        Raises:
            ImportError: If matplotlib is not installed.
            ReportError: If `name` is no picture, or there are no data for it.
        """  # noqa: DOC502 - raised by what it calls
        with draws_kept():
            from gradwatch.plots import draw, draw_all

        return draw_all(self) if name is None else draw(self, name)

    def __rich__(self) -> Any:
        with draws_kept():
            from gradwatch.console import render_report

        return render_report(self)

    def __str__(self) -> str:
        with draws_kept():
            from gradwatch.console import report_text

        return report_text(self)

    def __repr__(self) -> str:
        return (
            f"<Report {self.health.value}: {len(self.findings)} findings, "
            f"{len(self.layers)} layers, {self.run.steps} steps>"
        )

    def _repr_html_(self) -> str:
        with draws_kept():
            from gradwatch.console import report_html

        return report_html(self)


def _has_half_characters(text: str, fields: Any) -> bool:
    """Whether a text holds lone surrogates: JSON may, but UTF-8 cannot."""
    try:
        text.encode()
        if "\\ud" in text.lower():  # an escape that may be one
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _not_json(text: str, source: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return f"{source} is empty: nothing was saved, or it was cut off at once."
    if text.lstrip().startswith("{") and error.pos >= len(text.rstrip()) - 1:
        return (
            f"{source} is truncated: it ends after {len(text):,} characters in the "
            "middle of the JSON. Was the program stopped while saving?"
        )
    return f"{source} is not JSON (line {error.lineno}: {error.msg}), so no report."


def _wrong_fields(source: str, error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    shown = "; ".join(
        f"`{'.'.join(map(str, problem['loc']))}`: {problem['msg']}"
        for problem in problems[:3]
    )
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{source} is a damaged report: {shown}{more}."
