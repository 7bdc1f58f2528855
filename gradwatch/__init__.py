"""Names the sick layers of a PyTorch network while it trains, with evidence."""

from gradwatch._version import __version__
from gradwatch.errors import (
    DetachedWarning,
    GradWatchError,
    GradWatchWarning,
    ListenerWarning,
    ModelError,
    PluginWarning,
    RecordWarning,
    ReportError,
    SettingsError,
    TreatmentError,
    TreatmentWarning,
)
from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity, Trend
from gradwatch.precheck import check
from gradwatch.prescription import treat, treat_optimizer, treatment_of
from gradwatch.recommendations import (
    Change,
    Recommendation,
    Rejection,
    Risk,
    Treatment,
    TrialResult,
    Verdict,
)
from gradwatch.report import Report
from gradwatch.session import Watch, watch
from gradwatch.settings import Settings
from gradwatch.trials import trial

__all__ = [
    "Change",
    "Confidence",
    "DetachedWarning",
    "Evidence",
    "Finding",
    "GradWatchError",
    "GradWatchWarning",
    "Health",
    "ListenerWarning",
    "ModelError",
    "PluginWarning",
    "Recommendation",
    "RecordWarning",
    "Rejection",
    "Report",
    "ReportError",
    "Risk",
    "Settings",
    "SettingsError",
    "Severity",
    "Treatment",
    "TreatmentError",
    "TreatmentWarning",
    "Trend",
    "TrialResult",
    "Verdict",
    "Watch",
    "__version__",
    "check",
    "treat",
    "treat_optimizer",
    "treatment_of",
    "trial",
    "watch",
]
