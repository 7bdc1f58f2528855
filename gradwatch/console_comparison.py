"""A `Comparison` for the console: two columns of numbers, then the findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from gradwatch.comparison import (
    Comparison,
    FindingChange,
    FindingState,
    Measure,
    Outcome,
    Side,
)
from gradwatch.console_layers import health_style
from gradwatch.console_report import to_text
from gradwatch.console_text import (
    MISSING,
    compact,
    decades,
    inert,
    measured,
    number,
    percent,
    shorten,
)
from gradwatch.report_words import in_words

_STYLES = {
    Outcome.BETTER: "bold green",
    Outcome.WORSE: "bold red",
    Outcome.MIXED: "bold yellow",
    Outcome.SAME: "bold",
    Outcome.UNCLEAR: "bold yellow",
}
_INDENT = (0, 0, 0, 2)
#: Columns that a path may take.
_SOURCE_WIDTH = 70


def comparison_text(
    comparison: Comparison, width: int = 80, *, colour: bool = False
) -> str:
    """Return the comparison as text; without `colour` it holds no escape code."""
    return to_text(render_comparison(comparison), width, colour=colour)


def render_comparison(comparison: Comparison) -> RenderableType:
    """Return the comparison as a renderable that fits the width it is shown at."""
    return Group(*_parts(comparison))


def _parts(comparison: Comparison) -> Iterator[RenderableType]:
    style = _STYLES[comparison.outcome]
    yield Rule(Text("gradwatch compare", style="bold"), align="left", style=style)
    yield Text(inert(comparison.sentence), style=style)
    for label, side in (("A", comparison.before), ("B", comparison.after)):
        yield Text.assemble((f"{label}  ", "bold"), (_who(side), "dim"))
    yield Text()
    yield Padding(_table(comparison), _INDENT)
    yield from _findings("Gone", comparison.gone)
    yield from _findings("New", comparison.new)
    yield from _findings("In both", comparison.unchanged)
    yield from _findings("Not judged again", comparison.unknown)
    if comparison.notes:
        yield Text()
        for note in comparison.notes:
            yield Text(f"Note: {inert(note)}", style="dim")


def _who(side: Side) -> str:
    source = shorten(side.source, _SOURCE_WIDTH) if side.source else inert(side.name)
    return source if side.finished is not False else f"{source} (not finished)"


def _table(comparison: Comparison) -> Table:
    table = Table(box=None, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("A", justify="right")
    table.add_column("B", justify="right")
    old, new = comparison.before, comparison.after
    table.add_row(
        "health",
        Text(old.health.value, style=health_style(old.health)),
        Text(new.health.value, style=health_style(new.health)),
    )
    table.add_row("steps", f"{old.steps:,}", f"{new.steps:,}")
    table.add_row("probes", f"{old.probes:,}", f"{new.probes:,}")
    for measure in comparison.measures:
        table.add_row(
            inert(measure.quantity),
            _value(measure, measure.before),
            _value(measure, measure.after),
        )
    return table


def _value(measure: Measure, value: float | None) -> str:
    if value is None:
        return MISSING
    if measure.unit == "decades":
        text = decades(value)
        return text if text in {MISSING, "zero", "Inf"} else f"{text} decades"
    if measure.unit == "share":
        if measure.quantity == "overhead" and value < 0.1:
            return f"{100 * value:.1f}%"
        return percent(value)
    return compact(value) if value >= 1e4 else number(value, 3)


def _findings(title: str, changes: Sequence[FindingChange]) -> Iterator[RenderableType]:
    if not changes:
        return
    yield Text()
    yield Text(title, style="bold")
    for change in changes:
        yield Padding(Text(_line(change)), _INDENT)
        state = change.after or change.before
        details = []
        if state is not None and state.layers:
            details.append(in_words([inert(layer) for layer in state.layers]))
        if change.note:
            details.append(inert(change.note))
        if details:
            yield Padding(Text("; ".join(details), style="dim"), (0, 0, 0, 4))


def _line(change: FindingChange) -> str:
    states = [_state(state) for state in (change.before, change.after) if state]
    what = " → ".join(dict.fromkeys(states))
    return f"{inert(change.code)} {inert(change.name)}: {what}"


def _state(state: FindingState) -> str:
    sure = "" if state.confirmed else " (not confirmed)"
    text = f"{state.severity.upper()}{sure}"
    if state.value is not None:
        text += f", {inert(state.quantity)} {measured(state.value, state.unit)}"
    return text
