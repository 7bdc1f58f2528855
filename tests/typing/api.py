"""Use every public name as a user would; read by mypy and pyright, never run."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import assert_type

from gradwatch.errors import GradWatchError, SettingsError
from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import LayerRecord, StepRecord
from gradwatch.settings import Settings


def settings() -> Settings:
    """Settings come from keywords, a mapping or a file."""
    by_keyword = Settings(budget=0.02, probe_steps=(0, 1))
    try:
        return Settings.coerce({"budget": by_keyword.budget})
    except SettingsError as error:
        _: GradWatchError = error
    return Settings.load(Path("gradwatch.toml"))


def finding(found: Finding) -> tuple[str, Health, Severity, Confidence]:
    """A finding is data."""
    evidence: tuple[Evidence, ...] = found.evidence
    assert_type(evidence[0].value, float)
    return found.code, found.health, found.severity, found.confidence


def newest(history: History) -> LayerRecord | None:
    """A history gives records of plain numbers."""
    record: StepRecord | None = history.latest
    return record.layers[0] if record else None
