"""Recommendations for the console: under the finding that each one answers.

The first is shown in full, with the lines to paste; the others in a line or two, so
that a report stays one. Text from users and remedies goes through `inert`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch.console_text import inert
from gradwatch.console_trials import VERDICT_STYLES, VERDICT_WORDS, trial_text
from gradwatch.findings import Finding
from gradwatch.recommendations import (
    Recommendation,
    Rejection,
    Risk,
    Verdict,
)
from gradwatch.report import Report
from gradwatch.report_words import by_trial, count, tried_in_vain

#: What a risk means, for a reader.
RISK_WORDS = {
    Risk.SAFE: "nothing learned is lost",
    Risk.REINITIALISES: "what these weights have learned is lost",
    Risk.RESHAPES: "the network computes something else",
    Risk.ADVICE: "no code of gradwatch's can do this",
}
_RISK_STYLES = {
    Risk.SAFE: "green",
    Risk.REINITIALISES: "yellow",
    Risk.RESHAPES: "yellow",
    Risk.ADVICE: "cyan",
}
#: Recommendations under one finding, rejections in a report, lines of code in a card
#: (chosen: with 9 recommendations for 3 findings a report stays near 90 lines).
_MOST = 3
_MOST_REJECTED = 4
_MOST_CODE = 12
_YEAR = re.compile(r"[^;]*?\(\d{4}\w?\)")
_INDENT = (0, 0, 0, 2)
_CODE_INDENT = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """Which recommendations and rejections stand under which finding.

    Attributes:
        answers: Places in `Report.recommendations`, by place of the finding.
        rejected: Rejections, by place of the finding.
        left_over: Recommendations that answer no finding that stands.
        num_unsaid: Rejections for which there is no room.
        next_one: The recommendation that comes next; None without any.
    """

    answers: dict[int, list[int]]
    rejected: dict[int, list[Rejection]]
    left_over: list[int]
    num_unsaid: int
    next_one: int | None


def plan(report: Report) -> Plan:
    """Put each recommendation and rejection under the first finding that it answers."""
    answers: dict[int, list[int]] = {}
    left_over: list[int] = []
    order = by_trial(report.recommendations)
    for place in order:
        at = _finding(report, report.recommendations[place].answers)
        (left_over if at is None else answers.setdefault(at, [])).append(place)
    found = [(r, _finding(report, r.answers)) for r in report.rejections]
    # Those for the finding that matters most first; the sort is stable.
    kept = sorted(
        ((at, r) for r, at in found if at is not None), key=lambda pair: pair[0]
    )
    if len(found) > _MOST_REJECTED:
        kept = kept[: _MOST_REJECTED - 1]  # the last line says how many are left
    rejected: dict[int, list[Rejection]] = {}
    for at, rejection in kept:
        rejected.setdefault(at, []).append(rejection)
    return Plan(
        answers, rejected, left_over, len(found) - len(kept), next(iter(order), None)
    )


def _finding(report: Report, codes: tuple[str, ...]) -> int | None:
    places = (i for i, finding in enumerate(report.findings) if finding.code in codes)
    return next(places, None)


def recommendation_cards(
    report: Report, place: int, planned: Plan, width: int
) -> Iterator[RenderableType]:
    """Yield what may help against one finding, and what was left out.

    Args:
        report: The report.
        place: Place of the finding.
        planned: What `plan` returned.
        width: Cells that a line may take.

    Yields:
        Cards, then lines.
    """
    own = planned.answers.get(place, [])
    # The one that the next step names is shown in full.
    main = bool(own) and own[0] == planned.next_one
    shown = _choice(report, own)
    for rank, index in enumerate(shown):
        if main and not rank and not tried_in_vain(report.recommendations[index]):
            yield from _full(report, index, width)
            if shown[1:]:
                yield Text()
        elif main or not rank:
            yield _brief(report, index, rank)
        else:
            yield _line(report, index, rank)
    more = len(own) - len(shown)
    if more > 0:
        yield _aside(f"and {more} more in report.recommendations")
    above = _answered_above(report, report.findings[place], own, planned, place)
    if above:
        yield _aside(f"see above: {above} may help here too")
    for rejection in planned.rejected.get(place, []):
        yield _aside(f"not {inert(rejection.remedy)}: {inert(rejection.reason)}")
    if planned.num_unsaid and place == max(planned.rejected, default=place):
        yield _aside(f"and {planned.num_unsaid} more left out: report.rejections")


def _choice(report: Report, own: list[int]) -> list[int]:
    """Return the best three: of as many remedies as there are, before variants."""
    seen: set[str] = set()
    firsts: list[int] = []
    variants: list[int] = []
    for index in own:
        remedy = report.recommendations[index].remedy
        (variants if remedy in seen else firsts).append(index)
        seen.add(remedy)
    chosen = {*firsts[:_MOST], *variants[: max(0, _MOST - len(firsts))]}
    return [index for index in own if index in chosen]


def left_over(report: Report, planned: Plan) -> Iterator[RenderableType]:
    """Yield the recommendations that answer no finding that stands."""
    for rank, index in enumerate(planned.left_over[:_MOST]):
        yield _brief(report, index, rank)
    more = len(planned.left_over) - _MOST
    if more > 0:
        yield _aside(f"and {more} more in report.recommendations")


def _aside(text: str) -> RenderableType:
    return Padding(Text(text, style="dim"), _INDENT)


def _answered_above(
    report: Report, finding: Finding, own: list[int], planned: Plan, place: int
) -> str:
    earlier = [i for at, some in planned.answers.items() if at < place for i in some]
    also = [
        f"[{i}]"
        for i in sorted(earlier)
        if finding.code in report.recommendations[i].answers and i not in own
    ]
    return ", ".join(also)


def _full(report: Report, index: int, width: int) -> Iterator[RenderableType]:
    """Yield all of a recommendation, the lines to paste last."""
    recommendation = report.recommendations[index]
    rows = _rows()
    rows.add_row(*_title(recommendation, index, 0))
    trial = recommendation.trial
    if trial is not None:
        rows.add_row("trial", trial_text(trial, recommendation.answers))
    if recommendation.why:
        rows.add_row("why", Text(inert(recommendation.why)))
    rows.add_row("risk", _risk(recommendation))
    if recommendation.caution:
        rows.add_row("caution", Text(inert(recommendation.caution)))
    source = _cited(recommendation.source)
    known = [inert(text) for text in (recommendation.record, source) if text]
    if known:
        label = "record" if recommendation.record else "source"
        rows.add_row(label, Text("; ".join(known)))
    yield Text()
    yield Padding(rows, _INDENT)
    if recommendation.code.strip():
        yield _code(recommendation.code, index, width - _CODE_INDENT)


def _cited(source: str) -> str:
    """Return authors and years: the titles stand in the remedy's page."""
    works = source.split("; ")
    ends = [_YEAR.match(work) for work in works]
    return "; ".join(e[0] if e else w for e, w in zip(ends, works, strict=True))


def _brief(report: Report, index: int, rank: int) -> RenderableType:
    """Return a recommendation in two lines: what, and what speaks for or against it."""
    recommendation = report.recommendations[index]
    rows = _rows()
    rows.add_row(*_title(recommendation, index, rank))
    trial = recommendation.trial
    if trial is not None:
        rows.add_row("", trial_text(trial, recommendation.answers))
    else:
        rows.add_row("", _risk(recommendation, inert(recommendation.record)))
    return Padding(rows, _INDENT)


def _line(report: Report, index: int, rank: int) -> RenderableType:
    """Return a recommendation in one line: what, and its risk or its trial."""
    recommendation = report.recommendations[index]
    rows = _rows()
    label, title = _title(recommendation, index, rank)
    trial, risk = recommendation.trial, recommendation.risk
    if trial is not None:
        last = Text(VERDICT_WORDS[trial.verdict], style=VERDICT_STYLES[trial.verdict])
    else:
        last = Text(risk.name, style=_RISK_STYLES[risk])
    rows.add_row(label, Text.assemble(title, " (", last, ")"))
    return Padding(rows, _INDENT)


def _title(recommendation: Recommendation, index: int, rank: int) -> tuple[Text, Text]:
    trial = recommendation.trial
    helped = trial is not None and trial.verdict is Verdict.HELPED
    word = "or" if rank else "use" if helped else "try"
    if tried_in_vain(recommendation):
        word = "not"
    label = Text(f"{word} [{index}]", style="bold")
    return label, Text(inert(recommendation.title), style="bold")


def _rows() -> Table:
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(width=9, style="dim", no_wrap=True)
    rows.add_column()
    return rows


def _risk(recommendation: Recommendation, record: str = "") -> Text:
    """Return the risk in words, or with the record instead of its words."""
    risk = recommendation.risk
    text = Text.assemble((risk.name, _RISK_STYLES[risk]), f": {RISK_WORDS[risk]}")
    if record:
        text = Text.assemble((risk.name, _RISK_STYLES[risk]), f"; {record}")
    if not recommendation.can_apply:
        where = f": {inert(recommendation.where)}" if recommendation.where else ""
        text.append(f"; you change this{where}")
    return text


def _code(source: str, index: int, width: int) -> RenderableType:
    """Return the lines to paste: nothing stands beside them but spaces."""
    plain = source.replace("\r\n", "\n").expandtabs(4).strip("\n")
    lines = [inert(line.rstrip()) for line in plain.split("\n")]
    left = len(lines) - _MOST_CODE
    if left > 1:
        rest = f"# and {count(left, 'more line')}: "
        lines[_MOST_CODE:] = [f"{rest}print(report.recommendations[{index}].code)"]
    code = "\n".join(part for line in lines for part in _folded(line, width))
    return Padding(Text(code, overflow="fold"), (0, 0, 0, _CODE_INDENT))


def _folded(line: str, width: int) -> list[str]:
    """Break a long line where there is a space, and indent what follows."""
    if len(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    more = "# " if line.lstrip().startswith("#") else "    "
    return textwrap.wrap(
        line, max(width, 20), subsequent_indent=indent + more, break_on_hyphens=False
    )
