"""What a confirmed finding leads to, besides its place in the report."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal, get_args

from gradwatch.errors import GradWatchWarning, SettingsError
from gradwatch.findings import Finding

Act = Literal["report", "warn", "stop"]


def check_act(act: object) -> None:
    """Refuse an unknown consequence.

    Args:
        act: The option of a callback.

    Raises:
        SettingsError: If there is no such consequence.
    """
    if act not in get_args(Act):
        raise SettingsError(
            f"`act` (={act!r}) must be 'report', 'warn' or 'stop': what a confirmed "
            "finding leads to."
        )


def warn_of(alarms: Iterable[Finding], end: str = "") -> None:
    """Emit a Python warning for each finding.

    Args:
        alarms: Confirmed findings.
        end: What to add, such as that training stops.
    """
    for finding in alarms:
        text = f"{finding.code} {finding.name}: {finding.message}{end}"
        warnings.warn(text, GradWatchWarning, stacklevel=4)
