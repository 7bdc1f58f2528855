"""What a comparison of two runs says, as data: sides, findings, numbers, an outcome."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from gradwatch.findings import Health
from gradwatch.report_parts import ReportPart

#: Grows when a field changes its meaning or goes.
SCHEMA_VERSION = 1


class Outcome(str, Enum):
    """What the second run says of the change between the two."""

    BETTER = "better"
    """Alarms are gone or milder, and none is new or worse."""
    WORSE = "worse"
    MIXED = "mixed"
    SAME = "same"
    UNCLEAR = "unclear"
    """There is not enough evidence in one of the runs."""


class Side(ReportPart):
    """One of the two runs.

    Attributes:
        source: Where it was read from; empty for a report in memory.
        name: What the user calls the model.
        model: Class name of the model.
        health: Its verdict.
        sentence: The one sentence of its report.
        steps: Optimizer steps watched.
        probes: Probes in the report.
        finished: Whether the watch was closed; None where the source does not say.
    """

    source: str
    name: str
    model: str
    health: Health
    sentence: str
    steps: int
    probes: int
    finished: bool | None = None


class FindingState(ReportPart):
    """A finding as it stands in one run.

    Attributes:
        severity: `note`, `warning` or `critical`.
        confirmed: Whether enough probes agree.
        quantity: Name of the deciding number.
        value: The deciding number.
        limit: Its limit.
        unit: Unit of both.
        since_step: Step at which it was first seen.
        layers: Layers that are sick.
    """

    severity: Literal["note", "warning", "critical"]
    confirmed: bool
    quantity: str = ""
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    since_step: int = 0
    layers: tuple[str, ...] = ()


class FindingChange(ReportPart):
    """One finding in both runs.

    Attributes:
        code: Code of the rule.
        name: Name of the rule.
        before: As it stands in the first run; None if it does not.
        after: The same in the second.
        note: What else a reader must know.
    """

    code: str
    name: str
    before: FindingState | None
    after: FindingState | None
    note: str = ""


class Measure(ReportPart):
    """One number in both runs; None means "not measured".

    Attributes:
        quantity: What it is.
        unit: `decades`, `share`, or empty.
        before: In the first run.
        after: In the second.
    """

    quantity: str
    unit: str
    before: float | None
    after: float | None


class Comparison(ReportPart):
    """What became of one run in another.

    Attributes:
        format: Marks the JSON as a comparison of gradwatch.
        schema_version: Version of these fields.
        outcome: What the second run says of the change.
        sentence: The same in words, with what decided.
        before: The first run.
        after: The second run.
        gone: Findings of the first that the second could have shown, and does not.
        new: Findings of the second only.
        unchanged: Findings of both; their severity may differ.
        unknown: Findings of the first that the second could not have shown.
        measures: Numbers, side by side.
        notes: What makes the two hard to compare, one sentence each.
    """

    format: Literal["gradwatch-comparison"] = "gradwatch-comparison"
    schema_version: int = SCHEMA_VERSION
    outcome: Outcome
    sentence: str
    before: Side
    after: Side
    gone: tuple[FindingChange, ...] = ()
    new: tuple[FindingChange, ...] = ()
    unchanged: tuple[FindingChange, ...] = ()
    unknown: tuple[FindingChange, ...] = ()
    measures: tuple[Measure, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the comparison as JSON; NaN and infinities are strings."""
        return self.model_dump_json(indent=2)
