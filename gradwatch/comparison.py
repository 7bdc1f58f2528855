"""Compare two runs: did the fix help? What is gone, what is new, what stayed.

A finding that the second run could not have shown (its rule was not judged, or it ended
before the step at which the first run fell ill) is not called gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from gradwatch.comparison_measures import loss_clause, measures_of, report_of
from gradwatch.comparison_parts import (
    Comparison,
    FindingChange,
    FindingState,
    Measure,
    Outcome,
    Side,
)
from gradwatch.findings import Finding, Health, Severity
from gradwatch.report import Report
from gradwatch.report_words import count
from gradwatch.runlog import Run, is_record, read_run

__all__ = [
    "Comparison",
    "FindingChange",
    "FindingState",
    "Measure",
    "Outcome",
    "Side",
    "compare",
]

#: A run this many times as long as the other is said to be (chosen).
_MUCH_LONGER = 1.5


def compare(a: Report | Run | str | Path, b: Report | Run | str | Path) -> Comparison:
    """Compare two runs.

    Args:
        a: The first run: a report, a record that was read, or the path of either.
        b: The second run, with the change that is to be judged.

    Returns:
        What is gone, new and unchanged, and the numbers side by side.

    Raises:
        ReportError: If a path cannot be read.
    """  # noqa: DOC502 - raised by what it calls
    before, after = _load(a), _load(b)
    old, new = report_of(before), report_of(after)
    changes = _changes(before, after)
    outcome, sentence = _judge(old, new, changes)
    measures = tuple(measures_of(before, after))
    return Comparison(
        outcome=outcome,
        sentence=sentence + loss_clause(measures),
        before=_side(before, a),
        after=_side(after, b),
        gone=changes["gone"],
        new=changes["new"],
        unchanged=changes["unchanged"],
        unknown=changes["unknown"],
        measures=measures,
        notes=tuple(_notes(before, after)),
    )


def _load(source: Report | Run | str | Path) -> Report | Run:
    if isinstance(source, Report | Run):
        return source
    return read_run(source) if is_record(source) else Report.load(source)


def _side(loaded: Report | Run, source: object) -> Side:
    report = report_of(loaded)
    place = str(source) if isinstance(source, str | Path) else ""
    if isinstance(loaded, Run):
        place = str(loaded.path.parent)
    return Side(
        source=place,
        name=report.run.name or report.run.model,
        model=report.run.model,
        health=report.health,
        sentence=report.sentence,
        steps=report.run.steps,
        probes=len(report.run.probe_steps),
        finished=loaded.finished if isinstance(loaded, Run) else None,
    )


# -- findings -------------------------------------------------------------------------


def _changes(
    before: Report | Run, after: Report | Run
) -> dict[str, tuple[FindingChange, ...]]:
    """Return the findings by what became of them."""
    old, new = report_of(before), report_of(after)
    was = {finding.code: finding for finding in old.findings}
    now = {finding.code: finding for finding in new.findings}
    sorted_out: dict[str, list[FindingChange]] = {
        "gone": [],
        "new": [],
        "unchanged": [],
        "unknown": [],
    }
    for code, finding in was.items():
        if code in now:
            kind, note = "unchanged", ""
        else:
            note = _why_unknown(finding, old, after)
            kind = "unknown" if note else "gone"
            note = note or _came_and_went(code, new)
        sorted_out[kind].append(_change(finding, now.get(code), note))
    for code, finding in now.items():
        if code not in was:
            unjudged = code in {rule.code for rule in old.not_checked}
            note = "not judged in A" if unjudged else _came_and_went(code, old)
            sorted_out["new"].append(_change(None, finding, note))
    return {kind: tuple(found) for kind, found in sorted_out.items()}


def _why_unknown(finding: Finding, old: Report, after: Report | Run) -> str:
    """Say why the second run could not have shown a finding; empty if it could."""
    new = report_of(after)
    for rule in new.not_checked:
        if rule.code == finding.code:
            return f"not judged in B: {rule.reason}"
    if new.run.failure:
        return "gradwatch stopped in B"
    if new.run.steps <= finding.since_step:
        return (
            f"B ended after {count(new.run.steps, 'step')}; A shows it since step "
            f"{finding.since_step:,}"
        )
    if isinstance(after, Run):
        names = {pattern.partition(":")[0].lower() for pattern in after.ignore}
        return "ignored in B" if names & {finding.code.lower(), finding.name} else ""
    # A report counts what was ignored, and does not name it.
    return "may be ignored in B" if new.ignored_count > old.ignored_count else ""


def _came_and_went(code: str, report: Report) -> str:
    for finding in report.cleared:
        if finding.code == code:
            return (
                f"stood there from step {finding.since_step:,} to "
                f"{finding.cleared_step:,}"
            )
    return ""


def _change(old: Finding | None, new: Finding | None, note: str) -> FindingChange:
    known = old or new
    assert known is not None
    return FindingChange(
        code=known.code,
        name=known.name,
        before=_state(old),
        after=_state(new),
        note=note,
    )


def _state(finding: Finding | None) -> FindingState | None:
    if finding is None:
        return None
    words: dict[Severity, Literal["note", "warning", "critical"]] = {
        Severity.NOTE: "note",
        Severity.WARNING: "warning",
        Severity.CRITICAL: "critical",
    }
    first = finding.evidence[0] if finding.evidence else None
    return FindingState(
        severity=words[finding.severity],
        confirmed=finding.confirmed,
        quantity=first.quantity if first else "",
        value=first.value if first else None,
        limit=first.limit if first else None,
        unit=first.unit if first else "",
        since_step=finding.since_step,
        layers=finding.layers,
    )


# -- the outcome ----------------------------------------------------------------------


def _judge(
    old: Report, new: Report, changes: dict[str, tuple[FindingChange, ...]]
) -> tuple[Outcome, str]:
    """Return the outcome and its sentence. Notes decide nothing: none is an alarm."""
    unknown = {change.code for change in changes["unknown"]}
    was, now = _alarms(old), _alarms(new)
    waiting = {f.code for f in new.findings if not f.confirmed}
    gone = [code for code in was if code not in now and code not in unknown | waiting]
    came = [code for code in now if code not in was]
    milder = [code for code in was if code in now and now[code] < was[code]]
    graver = [code for code in was if code in now and now[code] > was[code]]
    open_ones = [code for code in was if code in unknown | waiting]
    parts = [
        _part(gone, "gone"),
        _part(milder, "milder"),
        _part(came, "new"),
        _part(graver, "worse"),
        _part(open_ones, "not judged again"),
    ]
    words = ", ".join(filter(None, parts))
    better, worse = bool(gone or milder), bool(came or graver)
    if better and worse:
        return Outcome.MIXED, f"Mixed: {words}."
    if worse:
        return Outcome.WORSE, f"Worse: {words}."
    if open_ones:
        return Outcome.UNCLEAR, f"Unclear: {words}."
    if better and new.health is Health.UNKNOWN:
        return Outcome.UNCLEAR, f"Unclear: {words}, but B has no verdict yet."
    if better:
        left = _part(list(now), "left")
        return (
            Outcome.BETTER,
            f"Better: {words}, none new{', ' + left if left else ''}.",
        )
    if Health.UNKNOWN in (old.health, new.health):
        which = [
            name
            for name, report in (("A", old), ("B", new))
            if report.health is Health.UNKNOWN
        ]
        verb = "has" if len(which) == 1 else "have"
        return Outcome.UNCLEAR, f"Unclear: {' and '.join(which)} {verb} no verdict."
    if now:
        return Outcome.SAME, f"The same: {_part(list(now), 'in both')}."
    return Outcome.SAME, "The same: no alarm in either."


def _alarms(report: Report) -> dict[str, Severity]:
    return {f.code: f.severity for f in report.findings if f.is_alarm}


def _part(codes: Sequence[str], what: str) -> str:
    if not codes:
        return ""
    return f"{count(len(codes), 'alarm')} {what} ({', '.join(codes)})"


def _notes(before: Report | Run, after: Report | Run) -> Iterator[str]:
    for label, loaded in (("A", before), ("B", after)):
        if isinstance(loaded, Run):
            for note in loaded.notes:
                yield f"{label}: {note}"
        if report_of(loaded).run.failure:
            yield f"{label}: gradwatch stopped after an error of its own."
        if ignored := report_of(loaded).ignored_count:
            yield f"{label}: {count(ignored, 'finding')} ignored by its user."
    old, new = report_of(before).run, report_of(after).run
    if isinstance(before, Run) and isinstance(after, Run) and before.path == after.path:
        yield "A and B are the same run."
    if old.model != new.model:
        yield f"A watched a {old.model}, B a {new.model}."
    longer, shorter = max(old.steps, new.steps), min(old.steps, new.steps)
    if shorter and longer >= _MUCH_LONGER * shorter:
        which = "A" if old.steps > new.steps else "B"
        yield (
            f"{which} ran longer ({longer:,} steps against {shorter:,}): the last "
            "losses are of different steps."
        )
