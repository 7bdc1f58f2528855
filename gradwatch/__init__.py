"""Names the sick layers of a PyTorch network while it trains, with evidence."""

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
