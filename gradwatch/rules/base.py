"""What every rule shares: metadata, one pure function, and how a finding is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.settings import Settings
from gradwatch.structure import Structure


class Rule(ABC):
    """One defect. A rule holds no state: the same history gives the same finding.

    Attributes:
        code: Code, never reused.
        name: Noun of the defect, in kebab case; also the page's and file's name.
        summary: One line for the catalogue.
        health: What a layer suffers from when it fires.
        remedies: Names of remedies that may answer it, best first.
        settings_used: Names of the settings that limit it.
        confirm: Probes that must agree; None for `Settings.confirm_probes`. 1 for
            facts that need no second look (a NaN) and for rules with a window of
            their own.
        scale_free: Whether multiplying the loss by a constant changes nothing.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    summary: ClassVar[str]
    health: ClassVar[Health]
    remedies: ClassVar[tuple[str, ...]] = ()
    settings_used: ClassVar[tuple[str, ...]] = ()
    confirm: ClassVar[int | None] = None
    scale_free: ClassVar[bool] = True

    @abstractmethod
    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        return None if history.latest is not None else "no probe yet"

    def finding(
        self,
        *,
        severity: Severity,
        message: str,
        help: str,
        evidence: tuple[Evidence, ...],
        layers: tuple[str, ...] = (),
        **more: Any,
    ) -> Finding:
        """Make a finding with this rule's identity; the detector sets confidence."""
        return Finding(
            code=self.code,
            name=self.name,
            health=more.pop("health", self.health),
            severity=severity,
            confidence=Confidence.LOW,
            layers=layers,
            message=message,
            help=help,
            evidence=evidence,
            **more,
        )
