"""Names the sick layers of a PyTorch network while it trains, with evidence."""

# ruff: noqa: E402 - what follows must not move above the first statement.
import random as _random

# rich draws from Python's global generator when it is imported: a user who seeded it
# before importing gradwatch must see the same numbers afterwards.
_random_state = _random.getstate()

from gradwatch._version import __version__
from gradwatch.errors import (
    DetachedWarning,
    GradWatchError,
    GradWatchWarning,
    ModelError,
    ReportError,
    SettingsError,
)
from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity, Trend
from gradwatch.precheck import check
from gradwatch.report import Report
from gradwatch.session import Watch, watch
from gradwatch.settings import Settings

_random.setstate(_random_state)

__all__ = [
    "Confidence",
    "DetachedWarning",
    "Evidence",
    "Finding",
    "GradWatchError",
    "GradWatchWarning",
    "Health",
    "ModelError",
    "Report",
    "ReportError",
    "Settings",
    "SettingsError",
    "Severity",
    "Trend",
    "Watch",
    "__version__",
    "check",
    "watch",
]
