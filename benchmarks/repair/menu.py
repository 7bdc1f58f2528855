"""The menu: every treatment that any remedy offers for any sickness of this network.

What the recommender chose is a part of it. To know whether a set-up can be repaired at
all, all of it is tried: each remedy is asked about the network once for every rule, as
if that rule had fired, and once for what did fire.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import gradwatch
from benchmarks.faults import labels
from benchmarks.faults.setups import SetUp
from benchmarks.faults.training import train
from benchmarks.repair.keys import distinct
from gradwatch import Settings, Severity
from gradwatch.anatomy import Anatomy
from gradwatch.findings import Confidence, Evidence, Finding
from gradwatch.history import History
from gradwatch.recommendations import Recommendation
from gradwatch.recommender import answers, recommend
from gradwatch.remedies import REMEDIES, Case
from gradwatch.rules import RULES
from gradwatch.structure import Structure


@dataclass(frozen=True, slots=True)
class Seen:
    """What one watched run of a set-up gives: all that the recommender reads.

    Attributes:
        final: Final loss; None if it was not finite.
        findings: Standing findings of the report, worst first.
        structure: The network as gradwatch understood it.
        anatomy: What code can change of it.
        history: What was measured.
    """

    final: float | None
    findings: tuple[Finding, ...]
    structure: Structure
    anatomy: Anatomy
    history: History

    @property
    def alarms(self) -> tuple[str, ...]:
        """Return the codes of the standing alarms."""
        return tuple(finding.code for finding in self.findings if finding.is_alarm)

    def offers(self) -> tuple[Recommendation, ...]:
        """Return what the report recommends, best first, as far as code can do it."""
        offers, _ = recommend(
            self.findings, self.structure, self.anatomy, self.history, Settings()
        )
        return distinct(offers)

    def menu(self) -> tuple[Recommendation, ...]:
        """Return everything that any remedy offers for this network."""
        case = Case(
            finding=_pretended("GW101", "vanishing-gradient", self.findings),
            findings=self.findings,
            structure=self.structure,
            anatomy=self.anatomy,
            history=self.history,
        )
        return distinct((*self.offers(), *_everything(case)))


def watch(setup: SetUp, seed: int) -> Seen:
    """Train a set-up under gradwatch and return what the recommender sees."""
    run = setup.build(seed)
    with gradwatch.watch(run.model, console=None) as watcher:
        final = labels.final_loss(train(run, setup.steps))
        report = watcher.report()
        anatomy = watcher.anatomy()
    return Seen(
        final,
        tuple(report.findings),
        # A plain dict: results travel between processes.
        replace(watcher.structure, layers=dict(watcher.structure.layers)),
        anatomy,
        watcher.history,
    )


def _everything(case: Case) -> Iterable[Recommendation]:
    for rule in RULES:
        real = next((f for f in case.findings if f.code == rule.code), None)
        finding = real or _pretended(rule.code, rule.name, case.findings)
        asked = replace(case, finding=finding)
        for remedy in REMEDIES:
            for answer in answers(remedy, asked):
                if isinstance(answer, Recommendation):
                    yield answer


def _pretended(code: str, name: str, findings: Sequence[Finding]) -> Finding:
    """Return a finding that says only which rule it is of."""
    health = next(rule.health for rule in RULES if rule.code == code)
    layers = findings[0].layers if findings else ()
    return Finding(
        code=code,
        name=name,
        health=health,
        severity=Severity.WARNING,
        confidence=Confidence.MEDIUM,
        layers=layers,
        message="",
        help="",
        evidence=(Evidence("pretended", 0.0, None, "", (0, 0)),),
    )
