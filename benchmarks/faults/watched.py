"""One run under gradwatch, by its public names only, and what it reported."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.faults import labels
from benchmarks.faults.setups import SetUp
from benchmarks.faults.training import rescale, train

#: Findings that no factor on the loss may change (design section 4).
SCALE_FREE = frozenset(
    {f"GW10{n}" for n in range(1, 7)} | {f"GW20{n}" for n in range(1, 4)}
)


@dataclass(frozen=True, slots=True)
class FindingSeen:
    """A finding of a report, in plain types."""

    code: str
    health: str
    severity: str
    confidence: str
    alarm: bool
    since_step: int
    cleared_step: int | None
    layers: tuple[str, ...]
    evidence: tuple[str, ...]

    def line(self) -> str:
        """Return one line for a list of misses and false alarms."""
        first = self.evidence[0] if self.evidence else ""
        cleared = "" if self.cleared_step is None else f", cleared {self.cleared_step}"
        return (
            f"{self.code} {self.health} {self.severity}/{self.confidence} "
            f"since {self.since_step}{cleared} {first} [{', '.join(self.layers[:2])}]"
        )


@dataclass(frozen=True, slots=True)
class Watched:
    """What gradwatch said of one run.

    Attributes:
        health: Name of the report's health.
        findings: All findings, those below an alarm too.
        final_loss: As in `labels.final_loss`, to compare with the unwatched run.
        trouble: An exception of gradwatch or the warnings it gave; empty for none.
    """

    health: str
    findings: tuple[FindingSeen, ...]
    final_loss: float | None
    trouble: str

    @property
    def alarms(self) -> tuple[FindingSeen, ...]:
        """Return the confirmed findings of severity WARNING or CRITICAL."""
        return tuple(finding for finding in self.findings if finding.alarm)

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds that alarms name."""
        return frozenset(finding.health for finding in self.alarms)

    def scale_free(self, confirmed: bool) -> frozenset[str]:
        """Return the scale-free codes that alarm, or that fired at all."""
        chosen = self.alarms if confirmed else self.findings
        return frozenset(f.code for f in chosen if f.code in SCALE_FREE)


def _finding(finding: Any) -> FindingSeen:
    severity, confidence = finding.severity.name, finding.confidence.name
    return FindingSeen(
        code=finding.code,
        health=finding.health.name,
        severity=severity,
        confidence=confidence,
        alarm=severity in ("WARNING", "CRITICAL") and confidence != "LOW",
        since_step=finding.since_step,
        cleared_step=finding.cleared_step,
        layers=tuple(finding.layers[:4]),
        evidence=tuple(
            f"{e.quantity}={e.value:.4g} (limit {e.limit})"
            for e in finding.evidence[:3]
        ),
    )


def watch(
    setup: SetUp, seed: int, factor: float = 1.0, steps: int | None = None
) -> Watched:
    """Train a set-up inside `gradwatch.watch` and return what it reported.

    Args:
        setup: The set-up.
        seed: Seed of weights and batches.
        factor: What the loss is multiplied with, learning rate adapted.
        steps: Steps to train; all of the set-up's by default.

    Returns:
        The report in plain types. An exception is recorded, not raised: it is a result.
    """
    import gradwatch  # here: labels and rivals run without it

    run = setup.build(seed)
    if factor != 1.0:
        run = rescale(run, factor)
    losses: list[float] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with gradwatch.watch(run.model, console=None) as watcher:
                losses = train(run, steps or setup.steps)
            report = watcher.report()
        except Exception as error:  # any failure of ours is a result
            return Watched("ERROR", (), None, f"{type(error).__name__}: {error}")
    ours = [str(w.message) for w in caught if "GradWatch" in w.category.__name__]
    # An alarm that came and went was an alarm: the user has read it.
    findings = tuple(map(_finding, (*report.findings, *report.cleared)))
    final = labels.final_loss(losses)
    return Watched(report.health.name, findings, final, "; ".join(ours)[:400])


def to_json(watched: Watched) -> dict[str, Any]:
    return asdict(watched)


def from_json(document: dict[str, Any]) -> Watched:
    findings = tuple(
        FindingSeen(
            **{
                **entry,
                "layers": tuple(entry["layers"]),
                "evidence": tuple(entry["evidence"]),
            }
        )
        for entry in document["findings"]
    )
    final = document["final_loss"]
    if final is not None and not math.isfinite(final):
        final = None
    return Watched(document["health"], findings, final, document["trouble"])
