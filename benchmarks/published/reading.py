"""Read a gradwatch report into the few plain numbers that this bench keeps.

The only file here that knows what a report looks like.
"""

from __future__ import annotations

from collections import Counter
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
        alarm: Whether it is a confirmed warning or worse that stands at the end.
        cleared: Whether it came and went.
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
        decades: D of the chain with the largest |D|; None if there is none.
        structure_known: Whether every chain was read from the graph.
        weight_layers: Number of trainable weight layers, by this bench's own count.
        observed_weight_layers: How many of them were observed.
        unobserved: Names of the others, with their status.
        coverage: Number of layers by coverage status.
        overhead_share: gradwatch's own figure for its share of the time.
        remarks: What the report says of the run besides.
    """

    health: str
    findings: tuple[FindingSummary, ...]
    decades: float | None
    structure_known: bool
    weight_layers: int
    observed_weight_layers: int
    unobserved: tuple[str, ...]
    coverage: dict[str, int]
    overhead_share: float | None
    remarks: tuple[str, ...]


def trainable_weight_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the modules that own a trainable weight of two or more dimensions.

    Embeddings are left out. Tied weights count once for each module that holds them;
    a parametrized weight belongs to the module that it is computed for.
    """
    names = (
        name.split(".parametrizations.")[0]
        for name, module in model.named_modules()
        if not isinstance(module, EMBEDDINGS)
        and any(
            parameter.requires_grad and parameter.ndim >= 2
            for parameter in module.parameters(recurse=False)
        )
    )
    return tuple(dict.fromkeys(names))


def _plain(value: Any) -> str:
    """Return the lower-case name of an enum member, or the text of anything else."""
    if isinstance(value, Enum):
        return value.name.lower().replace("_", "-")
    return str(value)


def _worst_decades(report: Any) -> float | None:
    """Return the D of the chain with the largest |D|."""
    values = [c.decades for c in report.chains if c.decades is not None]
    return max(values, key=abs, default=None)


def _summary(finding: Any, *, cleared: bool) -> FindingSummary:
    """Return a finding in plain words."""
    confirmed = (
        int(finding.severity) >= WARNING and int(finding.confidence) > LOW_CONFIDENCE
    )
    return FindingSummary(
        code=finding.code,
        severity=_plain(finding.severity),
        confidence=_plain(finding.confidence),
        alarm=confirmed and not cleared,
        cleared=cleared,
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
    coverage = {layer.name: _plain(layer.coverage) for layer in report.layers}
    weights = trainable_weight_layers(model)
    status = {name: coverage.get(name, "missing") for name in weights}
    return Reading(
        health=_plain(report.health),
        findings=(
            *(_summary(finding, cleared=False) for finding in report.findings),
            *(_summary(finding, cleared=True) for finding in report.cleared),
        ),
        decades=_worst_decades(report),
        structure_known=all(chain.structure_known for chain in report.chains),
        weight_layers=len(weights),
        observed_weight_layers=sum(s == "observed" for s in status.values()),
        unobserved=tuple(f"{n}: {s}" for n, s in status.items() if s != "observed"),
        coverage=dict(Counter(coverage.values())),
        overhead_share=report.overhead.share,
        remarks=tuple(report.run.notes),
    )
