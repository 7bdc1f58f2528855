"""Read a gradwatch report into the few plain numbers that this bench keeps.

The only file here that knows what a report looks like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import nn

EMBEDDINGS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)
LOW_CONFIDENCE, WARNING = 1, 2


@dataclass(frozen=True, slots=True)
class FindingSummary:
    """One finding in plain words.

    Attributes:
        code: Code of the rule.
        severity: `note`, `warning` or `critical`.
        confidence: `low`, `medium` or `high`.
        alarm: Whether it is a confirmed warning or worse, cleared later or not.
        cleared: Whether it was gone at the end.
        layers: The first layers it names.
        evidence: The deciding numbers.
        message: Its sentence.
    """

    code: str
    severity: str
    confidence: str
    alarm: bool
    cleared: bool
    layers: tuple[str, ...]
    evidence: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What gradwatch said about one run.

    Attributes:
        health: Health of the report.
        findings: All findings, notes too.
        decades: The report's D; None if it has none.
        weight_layers: Number of trainable weight layers, by this bench's own count.
        observed_weight_layers: How many of them were observed.
        unobserved: Names of the others, with their status.
        coverage: Number of layers by coverage status.
        overhead: gradwatch's own figure for its cost, as text.
    """

    health: str
    findings: tuple[FindingSummary, ...]
    decades: float | None
    weight_layers: int
    observed_weight_layers: int
    unobserved: tuple[str, ...]
    coverage: dict[str, int]
    overhead: str


def trainable_weight_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the modules that own a trainable weight of two or more dimensions.

    Embeddings are left out. Tied weights count once for each module that holds them.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if not isinstance(module, EMBEDDINGS)
        and any(
            parameter.requires_grad and parameter.ndim >= 2
            for parameter in module.parameters(recurse=False)
        )
    )


def _plain(value: Any) -> str:
    """Return the lower-case name of an enum member, or the text of anything else."""
    if isinstance(value, Enum):
        return value.name.lower().replace("_", "-")
    return str(value)


def _coverage_by_layer(report: Any) -> dict[str, str]:
    """Return the coverage status of each layer, however the report keeps it."""
    coverage = getattr(report, "coverage", None)
    layers = getattr(coverage, "layers", None)
    if layers is None:
        layers = coverage
    if isinstance(layers, Mapping):
        return {str(name): _plain(status) for name, status in layers.items()}
    found: dict[str, str] = {}
    for entry in report.layers if layers is None else layers:
        if isinstance(entry, tuple):
            found[str(entry[0])] = _plain(entry[1])
        elif hasattr(entry, "coverage"):
            name = getattr(entry, "name", None) or getattr(entry, "layer", "")
            found[str(name)] = _plain(entry.coverage)
    return found


def _decades(report: Any) -> float | None:
    """Return the report's D."""
    for name in ("decades", "D_decades", "d_decades", "D"):
        value = getattr(report, name, None)
        if callable(value):
            value = value()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _summary(finding: Any) -> FindingSummary:
    """Return a finding in plain words."""
    alarm = (
        int(finding.severity) >= WARNING and int(finding.confidence) > LOW_CONFIDENCE
    )
    return FindingSummary(
        code=finding.code,
        severity=_plain(finding.severity),
        confidence=_plain(finding.confidence),
        alarm=alarm,
        cleared=finding.cleared_step is not None,
        layers=tuple(finding.layers[:5]),
        evidence=tuple(
            f"{item.quantity} {item.value:.3g} {item.unit} "
            f"(limit {item.limit}, steps {item.steps[0]}-{item.steps[1]})"
            for item in finding.evidence[:4]
        ),
        message=finding.message,
    )


def read(report: Any, model: nn.Module) -> Reading:
    """Read what this bench needs from a report.

    Args:
        report: A `gradwatch.Report`.
        model: The model it is about.

    Returns:
        The reading.
    """
    coverage = _coverage_by_layer(report)
    weights = trainable_weight_layers(model)
    status = {name: coverage.get(name, "missing") for name in weights}
    return Reading(
        health=_plain(report.health),
        findings=tuple(_summary(finding) for finding in report.findings),
        decades=_decades(report),
        weight_layers=len(weights),
        observed_weight_layers=sum(s == "observed" for s in status.values()),
        unobserved=tuple(f"{n}: {s}" for n, s in status.items() if s != "observed"),
        coverage=dict(Counter(coverage.values())),
        overhead=str(getattr(report, "overhead", "")),
    )
