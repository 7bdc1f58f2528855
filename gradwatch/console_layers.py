"""The layer table, the trunk and the time profiles, for the console.

The bar shows the activation gradient of each layer on a log scale, input side first, so
that a slope over depth is seen as a slope.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch.console_text import (
    MISSING,
    bar,
    compact,
    decades,
    inert,
    number,
    percent,
    shorten,
    sparkline,
)
from gradwatch.findings import Health
from gradwatch.records import Coverage
from gradwatch.report import ChainSummary, LayerSummary, Report, TimeSummary
from gradwatch.report_words import count
from gradwatch.rules.wording import ROOT_NAME, named, share_left
from gradwatch.settings import Settings

HEALTH_STYLES = {
    Health.HEALTHY: "green",
    Health.UNKNOWN: "dim",
    Health.NO_GRADIENT: "dim",
    Health.STALLED: "yellow",
    Health.UNDERFLOW: "yellow",
    Health.UNSTABLE: "yellow",
    Health.SATURATED: "magenta",
    Health.DEAD: "magenta",
}
SICK_STYLE = "bold red"
#: Rows of the table and lines of chains and profiles (chosen: a screen holds them).
MAX_ROWS = 32
MAX_LINES = 4
_INDENT = (0, 0, 0, 2)
#: Layers at either end that are always shown.
_ENDS = 3
#: Decades that a bar spans at least, so that a healthy profile looks flat.
_MIN_SPAN = 4.0
_WELL = frozenset({Health.HEALTHY, Health.UNKNOWN, Health.NO_GRADIENT})


def health_style(health: Health) -> str:
    """Return the style in which a health is shown."""
    return HEALTH_STYLES.get(health, SICK_STYLE)


def table_rows(report: Report) -> list[LayerSummary]:
    """Return the layers that the table is about: with parameters, or sick."""
    return [
        layer
        for layer in report.layers
        if layer.num_parameters or layer.health not in _WELL
    ]


def chosen_rows(
    rows: Sequence[LayerSummary],
    named: Collection[str] = (),
    most: int = MAX_ROWS,
) -> list[int]:
    """Return which rows are shown: the ends, sick layers, and an even sample.

    Args:
        rows: All rows in execution order.
        named: Layers that findings name; they count as sick.
        most: Rows shown at most.

    Returns:
        Indices in order.
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    last = len(rows) - 1
    chosen = {*range(_ENDS), *range(last - _ENDS + 1, last + 1)}
    sick = [
        i for i, row in enumerate(rows) if row.health not in _WELL or row.name in named
    ]
    chosen |= set(_sample(sick, (most - len(chosen)) // 2))
    rest = [i for i in range(len(rows)) if i not in chosen]
    return sorted(chosen | set(_sample(rest, most - len(chosen))))


def _sample(items: Sequence[int], most: int) -> list[int]:
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[:most])
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def layer_table(report: Report, width: int) -> Iterator[RenderableType]:
    """Yield the table of layers and the lines that explain it.

    Args:
        report: The report.
        width: Cells that a line may take.

    Yields:
        The table, then its legend.
    """
    rows = table_rows(report)
    if not rows:
        return
    named = {name for finding in report.findings for name in finding.layers}
    shown = [rows[index] for index in chosen_rows(rows, named)]
    places = {row.name: place for place, row in enumerate(rows)}
    scale = _Scale(rows)
    dead = any(row.dead_share is not None for row in rows)
    flat = any(row.saturated_share is not None for row in rows)
    wide = width >= 100
    bar_width = 20 if wide else 12
    # Cells of all columns but the name, one space between two.
    taken = 4 + bar_width + 1 + 6 + 8 + (5 if dead else 0) + (5 if flat else 0) + 12
    taken += (14 if wide else 0) + (8 if wide else 0)
    longest = max(len(inert(row.name or ROOT_NAME)) for row in shown)
    name_width = max(8, min(longest, width - taken))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", style="dim", width=3, no_wrap=True)
    table.add_column("layer", width=name_width, no_wrap=True, overflow="ellipsis")
    if wide:
        table.add_column("kind", width=13, no_wrap=True, overflow="ellipsis")
    table.add_column("gradient", width=bar_width, no_wrap=True)
    if wide:
        table.add_column("norm", justify="right", width=7, no_wrap=True)
    table.add_column("vs top", justify="right", width=6, no_wrap=True)
    table.add_column("update", justify="right", width=7, no_wrap=True)
    if dead:
        table.add_column("dead", justify="right", width=4, no_wrap=True)
    if flat:
        table.add_column("sat.", justify="right", width=4, no_wrap=True)
    table.add_column("health", width=11, no_wrap=True)
    for row in shown:
        style = health_style(row.health)
        cells: list[Text] = [
            Text(str(places[row.name] + 1)),
            Text(shorten(row.name or ROOT_NAME, name_width)),
        ]
        if wide:
            cells.append(Text(inert(row.kind)))
        cells.append(Text(scale.bar(row, bar_width), style=style))
        if wide:
            cells.append(Text(compact(row.grad_norm)))
        cells += [
            Text(decades(row.grad_ratio)),
            Text(compact(row.update_ratio)),
        ]
        if dead:
            cells.append(Text(percent(row.dead_share)))
        if flat:
            cells.append(Text(percent(row.saturated_share)))
        cells.append(Text(_verdict(row), style=style))
        table.add_row(*cells)
    yield Padding(table, _INDENT)
    yield Padding(Text(_legend(report, rows, shown, scale), style="dim"), _INDENT)


def _verdict(row: LayerSummary) -> str:
    if row.coverage is Coverage.NOT_SEEN and row.health in _WELL:
        return "not seen"
    return row.health.value


class _Scale:
    """The log scale that all bars of a table share."""

    def __init__(self, rows: Sequence[LayerSummary]) -> None:
        usable = [
            (math.log10(row.grad_norm), row.name)
            for row in rows
            if row.grad_norm is not None and 0 < row.grad_norm < math.inf
        ]
        self.layer: str | None
        self.high, self.layer = max(usable, default=(0.0, None))
        low = min((value for value, _ in usable), default=0.0)
        self.span = max(_MIN_SPAN, math.ceil(self.high - low + 0.5))

    def bar(self, row: LayerSummary, width: int) -> str:
        if row.grad_norm is None:
            return MISSING
        if not math.isfinite(row.grad_norm):
            return "NaN" if math.isnan(row.grad_norm) else "Inf"
        if row.grad_norm <= 0:
            return "0"
        share = 1 - (self.high - math.log10(row.grad_norm)) / self.span
        return bar(share, width)


def _legend(
    report: Report,
    rows: Sequence[LayerSummary],
    shown: Sequence[LayerSummary],
    scale: _Scale,
) -> str:
    parts = []
    left_out = len(rows) - len(shown)
    if left_out:
        names = {row.name for row in shown}
        states = Counter(_verdict(row) for row in rows if row.name not in names)
        listed = ", ".join(f"{many:,} {state}" for state, many in states.most_common())
        parts.append(
            f"{len(shown)} of {count(len(rows), 'layer')} shown: the ends, sick layers "
            f"and an even sample; left out: {listed}."
        )
    if scale.layer is not None:
        parts.append(
            f"gradient: its norm at the layer's output, log scale; full bar = "
            f"{compact(10**scale.high)} ({shorten(named(scale.layer), 24)}), empty = "
            f"{scale.span:g} decades less."
        )
        parts.append(f"vs top: decades above {_top_name(report)}.")
    if any(row.update_ratio is not None for row in shown):
        parts.append("update: applied update over weight.")
    if any(row.dead_share is not None for row in shown):
        parts.append("dead: units never active.")
    if any(row.saturated_share is not None for row in shown):
        parts.append("sat.: saturated outputs.")
    if any(_has_gap(row) for row in shown):
        parts.append(f"{MISSING}: not measured.")
    return " ".join(parts)


def _top_name(report: Report) -> str:
    for chain in report.chains:
        if chain.points:
            top = shorten(named(chain.points[-1].label), 24)
            return f"the top of the trunk ({top})"
    return "the last hidden layer"


def _has_gap(row: LayerSummary) -> bool:
    values = (row.grad_norm, row.update_ratio, row.dead_share, row.saturated_share)
    return any(value is None for value in values)


def trunk_lines(report: Report, width: int) -> Iterator[RenderableType]:
    """Yield two lines a trunk: D and its ends, and its profile as a sparkline."""
    for chain in report.chains[:MAX_LINES]:
        yield Padding(Text(_trunk(chain, report, width)), _INDENT)
    more = len(report.chains) - MAX_LINES
    if more > 0:
        yield Text(f"  and {count(more, 'chain')} more", style="dim")


def _trunk(chain: ChainSummary, report: Report, width: int) -> str:
    points = len(chain.points)
    if chain.decades is None or not points:
        source = shorten(named(chain.source), 30)
        return f"from {source}: {count(points, 'point')}, too few"
    norms = [
        point.grad_norm if point.grad_norm is not None else math.nan
        for point in chain.points
    ]
    low = _limit(report, "vanishing_decades")
    high = _limit(report, "exploding_decades")
    room = max(12, (width - 22) // 2)
    first, last = chain.points[0].label, chain.points[-1].label
    known = "" if chain.structure_known else "; structure unknown, module order instead"
    return (
        f"D = {decades(chain.decades)} decades over {count(points, 'point')} (limits "
        f"+{low:g} and -{high:g}){known}\n"
        f"{shorten(first or ROOT_NAME, room)} {sparkline(norms, 20)} "
        f"{shorten(last or ROOT_NAME, room)}"
    )


def _limit(report: Report, name: str) -> float:
    value = report.settings.get(name, Settings.model_fields[name].default)
    return float(value) if isinstance(value, int | float) else math.nan


def time_lines(report: Report, width: int) -> Iterator[RenderableType]:
    """Yield two lines a recurrent layer: its profile over time, and the horizon."""
    for profile in report.time_profiles[:MAX_LINES]:
        yield from _time(profile, width)
    more = len(report.time_profiles) - MAX_LINES
    if more > 0:
        yield Text(f"  and {count(more, 'profile')} more", style="dim")


def _time(profile: TimeSummary, width: int) -> Iterator[RenderableType]:
    steps = len(profile.norms)
    name = shorten(named(profile.layer), max(12, width - 50))
    direction = "" if profile.direction == "forward" else f", {profile.direction}"
    spark = sparkline(profile.norms, min(40, width - 30))
    yield Text(f"  {name}{inert(direction)}, {count(steps, 'time step')}:")
    yield Text(f"    first {spark} last")
    parts = []
    lost, gained = profile.decades_lost, profile.decades_gained
    fades = lost is not None and lost >= 0.05 and lost >= (gained or 0.0)
    if fades:
        parts.append(f"loses {lost:.1f} decades on its way back")
    elif gained is not None and gained >= 0.05:
        parts.append(f"gains {gained:.1f} decades on its way back")
    else:
        parts.append("keeps its size on its way back")
    if fades and profile.horizon is not None:
        left, after = share_left(profile.horizon_share, profile.horizon)
        reached = lost is not None and lost >= -math.log10(profile.horizon_share)
        beyond = "" if reached else ", beyond this sequence"
        parts.append(
            f"horizon {count(after, 'step')} ({left} of the gradient is left{beyond})"
        )
    if profile.spectral_radius is not None:
        parts.append(f"spectral radius {number(profile.spectral_radius, 3)}")
    yield Padding(Text("; ".join(parts), style="dim"), (0, 0, 0, 4))
