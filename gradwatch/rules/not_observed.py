"""GW901: layers that could not be seen."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import Coverage
from gradwatch.rules.base import Rule
from gradwatch.rules.wording import some, unique
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


class NotObserved(Rule):
    """Trainable weight layers could not be seen.

    What it does:
        Lists the trainable weight layers whose hook did not fire, with the reason: a
        compiled region, a scripted module, the inside of another module. Always a
        note. Layers that the forward never calls belong to disconnected.

    Why it matters:
        Not seen is neither zero nor healthy. What is said of the network holds for
        the other layers only.

    Evidence:
        - Share of trainable weight layers not seen, unit share; below
          1 - `healthy_coverage` the network may still be called healthy.

    Remedies:
        Compile blocks instead of the whole model, or watch one run without
        compilation. Gradients of parameters are seen either way.

    References:
        - pytorch/pytorch#117758: hooks under torch.compile.
        - pytorch/pytorch#78109: hooks inside multi-head attention.
    """

    code: ClassVar[str] = "GW901"
    name: ClassVar[str] = "not-observed"
    summary: ClassVar[str] = "Trainable weight layers could not be seen."
    health: ClassVar[Health] = Health.UNKNOWN
    remedies: ClassVar[tuple[str, ...]] = ()
    settings_used: ClassVar[tuple[str, ...]] = ("healthy_coverage",)
    confirm: ClassVar[int | None] = 1

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        return None if history.latest.coverage else "coverage was not recorded"

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        wanted = {info.name for info in structure.weight_layers()}
        reasons = dict(record.coverage_reasons)
        missed = [
            name
            for name, state in record.coverage
            if state is Coverage.NOT_SEEN
            and name in wanted
            and structure.role(name) is not Role.UNUSED
        ]
        if not missed:
            return None
        share = len(missed) / len(wanted)
        why = unique([reasons.get(name, "no reason known") for name in missed])
        return self.finding(
            severity=Severity.NOTE,
            message=(
                f"{len(missed)} of {len(wanted)} trainable weight layers could not be "
                f"seen ({'; '.join(why)}): {some(missed)}."
            ),
            help="What is said of the network holds for the other layers only.",
            evidence=(
                Evidence(
                    "share of weight layers not seen",
                    share,
                    1.0 - settings.healthy_coverage,
                    "share",
                    (record.step, record.step),
                ),
            ),
            layers=tuple(missed),
        )
