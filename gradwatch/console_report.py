"""`Report` as rich renderables: header, finding cards, tables, what was seen and spent.

Text from users goes through `inert` into `Text`, which knows no markup: a layer called
`[red]` or one with an escape sequence in its name is shown, not obeyed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from io import StringIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from gradwatch.console_layers import (
    health_style,
    layer_table,
    table_rows,
    time_lines,
    trunk_lines,
)
from gradwatch.console_recommendations import (
    left_over,
    plan,
    recommendation_cards,
)
from gradwatch.console_text import MISSING, duration, inert, measured, number, percent
from gradwatch.findings import Evidence, Finding, Health, Severity, Trend
from gradwatch.records import Coverage
from gradwatch.report import Report
from gradwatch.report_words import count, in_words, name_layers
from gradwatch.rules.wording import named

SEVERITY_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTE: "cyan",
}
_INDENT = (0, 0, 0, 2)
_COVERAGE_WORDS = {
    Coverage.NO_GRADIENT: "no gradient",
    Coverage.NOT_SEEN: "not seen",
    Coverage.OBSERVED: "observed",
}


class ReportView:
    """Renders a report at whatever width the console has.

    Args:
        report: The report.
    """

    def __init__(self, report: Report) -> None:
        self._report = report

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        report, width = self._report, options.max_width
        order = {row.name: place for place, row in enumerate(table_rows(report))}
        yield from _header(report)
        planned = plan(report)
        for place, finding in enumerate(report.findings):
            yield Text()
            answered = bool(planned.answers.get(place))
            yield finding_card(finding, order, answered=answered)
            yield from recommendation_cards(report, place, planned, width)
        yield from _section("Against what no longer stands", left_over(report, planned))
        if report.layers:
            asof = f", step {report.layers_step}" if report.layers_step else ""
            newest = max(report.run.probe_steps, default=None)
            if report.layers_step is not None and newest != report.layers_step:
                asof += " (the last probe with finite gradients)"
            yield from _section(
                f"Layers, input side first{asof}", layer_table(report, width - 2)
            )
        yield from _section(
            "Over depth, source to top (D: decades lost in between)",
            trunk_lines(report, width),
        )
        yield from _section("Over time", time_lines(report, width))
        yield from _section("What was seen and spent", iter([_facts(report)]))
        yield Text()
        label = "" if report.health is Health.HEALTHY else "Next: "
        yield Text.assemble((label, "bold"), inert(report.next_step))


def _section(title: str, parts: Iterator[RenderableType]) -> Iterator[RenderableType]:
    body = list(parts)
    if body:
        yield Text()
        yield Text(title, style="bold")
        yield from body


def _header(report: Report) -> Iterator[RenderableType]:
    style = health_style(report.health)
    run = report.run
    own = f" {inert(run.name)}" if run.name not in ("", run.model) else ""
    title = Text.assemble(("gradwatch", "bold"), own)
    yield Rule(title, align="left", style=style)
    name = "NO VERDICT" if report.health is Health.UNKNOWN else report.health.name
    yield Text.assemble(
        (name.replace("_", "-"), style), "  ", (inert(report.sentence), "bold")
    )
    yield Text(" · ".join(_summary(report)), style="dim")


def _summary(report: Report) -> Iterator[str]:
    run = report.run
    levels = Counter(finding.severity for finding in report.findings)
    found = [
        f"{levels[level]} {level.name.lower()}"
        for level in sorted(Severity, reverse=True)
        if levels[level]
    ]
    yield ", ".join(found) or "no findings"
    if run.model:
        size = f", {run.num_parameters:,} parameters" if run.num_parameters else ""
        yield inert(run.model) + size
    yield f"{count(run.steps, 'step')}, {count(len(run.probe_steps), 'probe')}"
    if run.rank is not None:
        yield f"rank {run.rank} only"
    elif run.ranks > 1:
        yield f"global: statistics over {run.ranks} ranks"


def finding_card(
    finding: Finding, order: dict[str, int], *, answered: bool = False
) -> RenderableType:
    """Return one finding with all its evidence.

    Args:
        finding: The finding.
        order: Place of each layer in the table, to shorten lists of layers.
        answered: Whether recommendations follow: they say more than its help.

    Returns:
        The card.
    """
    style = SEVERITY_STYLES[finding.severity]
    title = Text.assemble(
        (finding.severity.name, style),
        "  ",
        (inert(finding.code), "bold"),
        " ",
        (inert(finding.name), "bold"),
    )
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(width=9, style="dim", no_wrap=True)
    rows.add_column()
    if finding.layers:
        rows.add_row("layers", Text(_layers(finding.layers, order)))
    if finding.origin is not None and finding.origin not in finding.layers[:1]:
        rows.add_row("starts at", Text(inert(named(finding.origin))))
    for index, item in enumerate(finding.evidence):
        rows.add_row("" if index else "evidence", _evidence(item))
    for index, text in enumerate(finding.consequences):
        rows.add_row("" if index else "so", Text(inert(text)))
    if finding.affected:
        rows.add_row("suffering", Text(_layers(finding.affected, order)))
    more = f"gradwatch explain {inert(finding.code)}"
    if answered:
        rows.add_row("since", Text.assemble(_since(finding), (f"  ({more})", "dim")))
    else:
        rows.add_row("since", Text(_since(finding)))
        rows.add_row("help", Text(inert(finding.help)))
        rows.add_row("more", Text(more, style="dim"))
    return Group(
        Rule(title, align="left", style=style),
        Padding(Text(inert(finding.message)), _INDENT),
        Padding(rows, _INDENT),
    )


def _layers(layers: tuple[str, ...], order: dict[str, int]) -> str:
    # The dots between two layers are ours; the names are made inert one by one.
    safe = {name: inert(name) for name in layers}
    return name_layers(
        list(safe.values()),
        {safe[name]: place for name, place in order.items() if name in safe},
    )


def limit_text(item: Evidence) -> str:
    """Return the limit of an evidence; its unit stands with the value."""
    unit = item.unit if item.unit == "share" else ""
    return MISSING if item.limit is None else measured(item.limit, unit)


def _evidence(item: Evidence) -> Text:
    text = Text.assemble(
        inert(item.quantity), " ", (measured(item.value, item.unit), "bold")
    )
    if item.limit is not None:
        text.append(f", limit {limit_text(item)}")
    where = [inert(named(item.layer))] if item.layer is not None else []
    first, last = item.steps
    where.append(f"step {last}" if first == last else f"steps {first} to {last}")
    if item.note:
        where.append(inert(item.note))
    text.append(f"  ({', '.join(where)})", style="dim")
    return text


def _since(finding: Finding) -> str:
    parts = [f"step {finding.since_step}"]
    if finding.trend is not Trend.UNKNOWN:
        parts.append(finding.trend.value)
    confirmed = finding.confidence.name.lower()
    parts.append(
        f"{confirmed} confidence" if finding.confirmed else "not confirmed yet"
    )
    return ", ".join(parts)


def _facts(report: Report) -> RenderableType:
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(width=9, style="dim", no_wrap=True)
    rows.add_column()
    for label, lines in (
        ("seen", _coverage(report)),
        ("rules", _rules(report)),
        ("cleared", _cleared(report)),
        ("run", _run(report)),
        ("settings", _settings(report)),
        ("cost", _cost(report)),
    ):
        for index, line in enumerate(lines):
            rows.add_row("" if index else label, Text(inert(line)))
    return Padding(rows, _INDENT)


def _coverage(report: Report) -> Iterator[str]:
    seen = report.coverage
    if seen.num_weight_layers:
        yield (
            f"{seen.weight_layers_observed} of {seen.num_weight_layers} trainable "
            f"weight layers ({percent(seen.share)})"
        )
    for reason in seen.reasons:
        because = f": {reason.reason}" if reason.reason else ""
        what = _COVERAGE_WORDS[reason.coverage]
        yield f"{what}: {in_words(reason.layers)}{because}"


def _rules(report: Report) -> Iterator[str]:
    # What could not be judged any more was judged up to a step of its own.
    for last in sorted({rule.steps[1] for rule in report.checked}, reverse=True):
        rules = [rule for rule in report.checked if rule.steps[1] == last]
        first = min(rule.steps[0] for rule in rules)
        over = f"steps {first} to {last}" if last > first else f"step {first}"
        yield f"checked over {over}: {', '.join(rule.code for rule in rules)}"
    by_reason: dict[str, list[str]] = {}
    for rule in report.not_checked:
        by_reason.setdefault(rule.reason, []).append(rule.code)
    for reason, codes in by_reason.items():
        yield f"not checked: {', '.join(codes)} ({reason})"
    if report.ignored_count:
        yield f"{count(report.ignored_count, 'finding')} ignored, as asked"


def _cleared(report: Report) -> Iterator[str]:
    for finding in report.cleared:
        until = (
            f" to {finding.cleared_step}" if finding.cleared_step is not None else ""
        )
        yield (
            f"{finding.code} {finding.name} in {in_words(finding.layers)}: steps "
            f"{finding.since_step}{until}"
            if finding.layers
            else f"{finding.code} {finding.name}: steps {finding.since_step}{until}"
        )


def _run(report: Report) -> Iterator[str]:
    run = report.run
    if run.optimizers:
        rate = f", lr {number(run.lr)}" if run.lr is not None else ""
        yield ", ".join(run.optimizers) + rate
    if run.first_loss is not None and run.last_loss is not None:
        yield f"loss {number(run.first_loss, 4)} → {number(run.last_loss, 4)}"
    elif run.steps:
        yield "loss not known; `watch.log(loss=...)` tells it"
    if run.loss_scale is None:
        yield "loss scale unknown: gradients are shown relative to each other"
    elif not math.isclose(run.loss_scale, 1.0):
        yield f"loss scale {number(run.loss_scale)}, divided out"
    if run.clipped_share:
        yield f"clipped at {percent(run.clipped_share)} of the steps"
    if run.skipped_steps:
        yield f"{count(run.skipped_steps, 'step')} skipped by the gradient scaler"
    yield from run.notes
    device = f", {run.device}" if run.device else ""
    yield (f"gradwatch {run.gradwatch}, torch {run.torch}, Python {run.python}{device}")


def _settings(report: Report) -> Iterator[str]:
    if report.settings:
        yield ", ".join(f"{name}={value!r}" for name, value in report.settings.items())


def _cost(report: Report) -> Iterator[str]:
    cost = report.overhead
    if cost.probes or cost.seconds:
        budget = f"budget {number(cost.budget * 100)} %"
        share = (
            f"{number(round(cost.share * 100, 2))} % of training time ({budget})"
            if cost.share is not None
            else f"too few steps to give a share ({budget})"
        )
        probes = f"{count(cost.probes, 'probe')}, {count(cost.pulses, 'pulse')}"
        yield f"{share}; {duration(cost.seconds)}; {probes}"
    if cost.rhythm:
        transfers = count(cost.transfers_per_probe, "transfer")
        yield f"{cost.rhythm}; {transfers} a probe"


def plain_console(width: int, *, colour: bool = False, record: bool = False) -> Console:
    """Return a console that writes into a string and looks at no environment."""
    return Console(
        file=StringIO(),
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        record=record,
        soft_wrap=False,
    )


def to_text(item: RenderableType, width: int, *, colour: bool = False) -> str:
    """Return what a console of this width shows, without trailing spaces."""
    console = plain_console(width, colour=colour)
    console.print(item)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def render_report(report: Report) -> RenderableType:
    """Return the report as a renderable that fits the width it is shown at."""
    return ReportView(report)


def report_text(report: Report, width: int = 80, *, colour: bool = False) -> str:
    """Return the report as text; without `colour` there is no escape code in it."""
    return to_text(ReportView(report), width, colour=colour)


def report_html(report: Report, width: int = 100) -> str:
    """Return the report as a fragment of HTML for notebooks; content is escaped."""
    console = plain_console(width, colour=True, record=True)
    console.print(ReportView(report))
    # Neither foreground nor background: the notebook's theme decides.
    frame = (
        '<pre style="white-space:pre;overflow-x:auto;line-height:1.2;'
        "font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace\">{code}</pre>"
    )
    return console.export_html(inline_styles=True, code_format=frame)


def markdown_text(source: str, width: int, *, colour: bool = False) -> str:
    """Return rendered Markdown as text."""
    return to_text(Markdown(source), width, colour=colour)
