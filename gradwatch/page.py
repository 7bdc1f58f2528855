"""A report as one HTML file that needs no network: words, tables and pictures.

The page is data and a script that shows them. Everything that comes from a run (layer
names, messages, code) reaches the document as text, never as markup, and a policy in
the page forbids it to load or send anything.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from importlib import resources
from typing import Any

from pydantic import ValidationError

from gradwatch.page_numbers import series_data
from gradwatch.report import Report
from gradwatch.report_words import by_trial
from gradwatch.settings import Settings

#: Limits that the pictures draw.
_LIMITS = (
    "vanishing_decades",
    "exploding_decades",
    "vanishing_time_decades",
    "exploding_time_decades",
    "min_update_ratio",
    "max_update_ratio",
    "dead_unit_share",
    "saturated_share",
    "spike_ratio",
    "horizon_share",
)
_MARK = re.compile(r"<!--gradwatch:(\w+)-->")
#: What could end a script element or a line of JavaScript inside a string.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page_data(report: Report) -> dict[str, Any]:
    """Return what the page of a report shows, as plain values for JSON.

    Args:
        report: The report; one that a watch or `read_run` made has pictures too.

    Returns:
        The report, its series, the limits and the time of writing.
    """
    settings = _settings(report)
    return {
        "report": json.loads(report.to_json()),
        "order": by_trial(report.recommendations),
        "series": series_data(report._series, settings),
        "limits": {name: getattr(settings, name) for name in _LIMITS},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def script_json(data: Any) -> str:
    """Return JSON that may stand in a script element.

    Args:
        data: Plain values without NaN.

    Returns:
        JSON without `<`, `>` and `&`.
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def page(report: Report, *, live: bool = False) -> str:
    """Return the page.

    Args:
        report: What it shows.
        live: Whether it asks where it came from for newer data, every two seconds.

    Returns:
        HTML, complete in itself.
    """
    parts = {
        "policy": "connect-src 'self'" if live else "connect-src 'none'",
        "css": _asset("page.css"),
        "echarts": _asset("echarts.min.js"),
        "data": script_json({**page_data(report), "live": live}),
        "js": _asset("page.js") + _asset("page_charts.js"),
    }
    # One pass: what is put in is not searched again.
    return _MARK.sub(lambda match: parts[match[1]], _asset("page.html"))


def _settings(report: Report) -> Settings:
    known = {k: v for k, v in report.settings.items() if k in _LIMITS}
    try:
        return Settings(**known)
    except (ValidationError, ValueError, TypeError):  # written by hand
        return Settings()


def _asset(name: str) -> str:
    folder = resources.files("gradwatch").joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")
