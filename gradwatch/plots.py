"""Pictures of a report: depth profile, heat map, time profile.

Only this file imports matplotlib, and it uses `Figure` itself, never pyplot: no window
opens, no backend is chosen, no `rcParams` change. Colours are Okabe and Ito's and
matplotlib's `RdBu`, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedFormatter, FixedLocator
except ImportError as error:
    raise ImportError(
        "`report.plot()` needs matplotlib, which is not installed: "
        "`pip install matplotlib`"
    ) from error

from gradwatch.errors import ReportError
from gradwatch.figures import Figures, png
from gradwatch.plot_numbers import (
    Grid,
    Profile,
    depth_profiles,
    gradient_grid,
    rows_of,
    update_grid,
)
from gradwatch.report import Report, TimeSummary
from gradwatch.rules.wording import ROOT_NAME, plural, share_left
from gradwatch.settings import Settings

_BLUE, _VERMILLION, _GREY, _ORANGE, _GREEN = (
    "#0072B2",
    "#D55E00",
    "#8A8A8A",
    "#E69F00",
    "#009E73",
)
_LINES = (_BLUE, _GREEN, _ORANGE, "#CC79A7", "#56B4E9")
_SICK = _VERMILLION
_MARK = "\u25c0"
_DPI = 110
#: Ticks that a reader can tell apart on an axis of 7 inches.
_MOST_TICKS = 24
#: Powers of ten that fit into a float with room to spare.
_MOST_POWERS = 300
#: Decades beyond which a colour of the heat map does not change any more.
_MOST_DECADES = 12.0


class _Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def draw_all(report: Report) -> Figures:
    """Return every picture that there are data for.

    Args:
        report: What is drawn.

    Returns:
        The figures by name; `missing` says why one is left out.
    """
    figures: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    for name in PICTURES:
        figure, why = _attempt(report, name)
        if figure is not None:
            figures[name] = figure
        else:
            missing[name] = why
    return Figures(figures, missing)


def _attempt(report: Report, name: str) -> tuple[Figure | None, str]:
    try:
        return draw(report, name), ""
    except ReportError as error:
        return None, str(error).partition(": ")[2].rstrip(".")


def draw(report: Report, name: str) -> Figure:
    """Return one picture.

    Args:
        report: What is drawn.
        name: A key of `PICTURES`.

    Returns:
        The figure.

    Raises:
        ReportError: If there is no such picture, or there are no data for it.
    """
    if name not in PICTURES:
        known = ", ".join(map(repr, PICTURES))
        raise ReportError(f"`name` (={name!r}) must be one of {known}, or None.")
    return PICTURES[name](report)


def depth_profile(report: Report) -> Figure:
    """Return the gradient along each trunk, newest probe and first one, with limits.

    Args:
        report: What is drawn.

    Returns:
        The figure.

    Raises:
        ReportError: If no layer's gradient was measured.
    """
    profiles = depth_profiles(report)
    if not profiles:
        raise ReportError("No depth profile: no layer's gradient was measured.")
    figure = _Picture(figsize=(7.0, 4.2), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    colours = iter(_LINES * len(profiles))
    for profile in profiles:
        colour = _GREY if profile.past else next(colours)
        _draw_profile(axes, profile, colour)
    shown = [p for p in profiles if not p.past]
    longest = max(shown, key=lambda p: len(p.names))
    _mark_findings(axes, report, shown)
    axes.axhline(1.0, color="black", linewidth=0.6)
    low = _limit(report, "vanishing_decades")
    high = _limit(report, "exploding_decades")
    _limit_line(axes, 10**-low, f"vanishing: {low:g} decades lost (GW101)")
    _limit_line(axes, 10**high, f"exploding: {high:g} decades gained (GW201)", "-.")
    _log_scale(axes, [10**-low, 10**high, *(v for p in profiles for v in p.values)])
    _name_ticks(axes.xaxis, longest.names if len(shown) == 1 else (), rotation=60)
    axes.set_xlabel("layer, from the input to the output")
    axes.set_ylabel("gradient norm / norm at the top")
    axes.set_title(_title(report), fontsize="medium")
    _legend(axes)
    return figure


def heat_map(report: Report) -> Figure:
    """Return gradient and update ratio of every layer at every probe in memory.

    Args:
        report: What is drawn.

    Returns:
        The figure.

    Raises:
        ReportError: If the report knows no probes, as one read from JSON.
    """
    probes = report._series.probes
    rows = rows_of(probes)
    if not rows:
        raise ReportError(
            "No heat map: this report holds no series of probes with gradients. One "
            "read from JSON has none; `read_run(folder).report` of a recorded run does."
        )
    height = min(11.0, 1.9 + 0.21 * len(rows))
    figure = _Picture(figsize=(8.4, height), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sick = {name for finding in report.findings for name in finding.layers}
    _draw_grid(left, gradient_grid(probes, rows), growth=True)
    _draw_grid(right, update_grid(probes, rows), growth=False)
    left.set_ylabel("layer, the input on top")
    labels = [f"{name or ROOT_NAME} {_MARK}" if name in sick else name for name in rows]
    _name_ticks(left.yaxis, labels, most=round(height * 4.5))
    for label in left.get_yticklabels():
        if label.get_text().endswith(_MARK):
            label.set_color(_SICK)
    for axes in (left, right):
        axes.set_xlabel("optimizer step of the probe")
        _name_ticks(axes.xaxis, [str(p.step) for p in probes], rotation=60, most=12)
    named = f"{_MARK} named by a finding; " if sick else ""
    note = f"{named}black: exactly 0; grey: not measured"
    figure.suptitle(f"{_title(report)}\n{note}", fontsize="medium")
    return figure


def time_profile(report: Report) -> Figure:
    """Return the gradient of each recurrent layer by time step.

    Args:
        report: What is drawn.

    Returns:
        The figure.

    Raises:
        ReportError: If no recurrent layer was measured.
    """
    profiles = [p for p in report.time_profiles if _peak(p) > 0.0]
    if not profiles:
        raise ReportError("No time profile: no recurrent layer was measured.")
    figure = _Picture(figsize=(7.0, 4.0), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    drawn: list[float] = []
    for profile, colour in zip(profiles, _LINES * len(profiles), strict=False):
        drawn += _draw_time(axes, profile, colour)
    limit = _limit(report, "vanishing_time_decades")
    _limit_line(axes, 10**-limit, f"{limit:g} decades below the peak (GW102, GW202)")
    _log_scale(axes, [*drawn, 10**-limit])
    axes.set_xlabel("time step, in the order of the recurrence")
    axes.set_ylabel("gradient norm / its peak")
    axes.set_title(_title(report), fontsize="medium")
    _legend(axes)
    return figure


#: What can be drawn, by name.
PICTURES: dict[str, Callable[[Report], Figure]] = {
    "depth profile": depth_profile,
    "heat map": heat_map,
    "time profile": time_profile,
}


def _limit(report: Report, name: str) -> float:
    """Return a limit in use; a report may come from a file that anyone wrote."""
    value = report.settings.get(name)
    default = float(Settings.model_fields[name].default)
    known = isinstance(value, int | float) and 0.0 < value <= _MOST_POWERS
    return float(value) if known and value is not None else default


def _title(report: Report) -> str:
    name = _plain(report.run.name or report.run.model)
    step = report.layers_step
    when = f", step {step}" if step is not None and report.run.steps > 1 else ""
    return f"{name}{when}: {report.health.value}" if name else report.health.value


def _draw_profile(axes: Axes, profile: Profile, colour: str) -> None:
    places = range(len(profile.values))
    style = "--" if profile.past else "-"
    mark = None if profile.past or len(profile.values) > 60 else "o"
    axes.plot(
        places,
        [v if v > 0 else math.nan for v in profile.values],
        linestyle=style,
        marker=mark,
        markersize=4,
        color=colour,
        label=_plain(profile.label),
        zorder=2 if profile.past else 3,
    )


def _mark_findings(axes: Axes, report: Report, profiles: Sequence[Profile]) -> None:
    """Ring the layers that each finding names."""
    shapes = iter("osD^v" * (1 + len(report.findings)))
    for finding in report.findings:
        named = set(finding.layers)
        points = [
            (place, value)
            for profile in profiles
            for place, (layer, value) in enumerate(
                zip(profile.layers, profile.values, strict=True)
            )
            if layer in named and value > 0
        ]
        if points:
            axes.scatter(
                [place for place, _ in points],
                [value for _, value in points],
                s=90,
                marker=next(shapes),
                facecolors="none",
                edgecolors=_SICK,
                linewidths=1.4,
                label=_plain(f"{finding.code} {finding.name}"),
                zorder=4,
            )


def _draw_grid(axes: Axes, grid: Grid, *, growth: bool) -> None:
    """Draw rows of layers; with `growth` white is zero, else dark is small."""
    finite = [v for row in grid for v in row if math.isfinite(v)]
    if growth:
        high = min(_MOST_DECADES, max([2.0, *map(abs, finite)]))
        low, colours = -high, colormaps["RdBu_r"]
    else:
        low, high, colours = -6.0, 0.0, colormaps["cividis"]
    axes.set_facecolor("#C8C8C8")
    image = axes.imshow(
        # Below the scale stands for exactly zero alone.
        [[v if v == -math.inf else max(v, low) for v in row] for row in grid],
        aspect="auto",
        interpolation="nearest",
        cmap=colours.with_extremes(under="black", bad="#C8C8C8"),
        vmin=low,
        vmax=high,
    )
    axes.set_title("gradient" if growth else "update", fontsize="medium")
    unit = "decades above the top of the trunk" if growth else "log10(update / weight)"
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(image, ax=axes, label=unit)


def _draw_time(axes: Axes, profile: TimeSummary, colour: str) -> list[float]:
    peak = _peak(profile)
    values = [n / peak if n > 0 else math.nan for n in profile.norms]
    direction = "" if profile.direction == "forward" else f" ({profile.direction})"
    label = _plain(f"{profile.layer or ROOT_NAME}{direction}")
    if profile.horizon is not None:
        left, after = share_left(profile.horizon_share, profile.horizon)
        label += f": {left} is left after {plural(after, 'step')}"
    axes.plot(range(len(values)), values, color=colour, label=label, marker=".")
    return values


def _peak(profile: TimeSummary) -> float:
    return max((n for n in profile.norms if math.isfinite(n)), default=0.0)


def _limit_line(axes: Axes, value: float, label: str, style: str = ":") -> None:
    axes.axhline(value, color=_VERMILLION, linestyle=style, linewidth=1.2, label=label)


def _log_scale(axes: Axes, values: Iterable[float]) -> None:
    """Make the axis logarithmic, from one whole decade to another."""
    known = [math.log10(v) for v in values if math.isfinite(v) and v > 0]
    axes.set_yscale("log")
    if known:
        low = max(math.floor(min(known) - 0.2), -_MOST_POWERS)
        high = min(math.ceil(max(known) + 0.2), _MOST_POWERS)
        axes.set_ylim(10.0**low, 10.0**high)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)


def _name_ticks(
    axis: Any, names: Sequence[str], rotation: float = 0.0, most: int = _MOST_TICKS
) -> None:
    """Name every tick, or every n-th where there are too many."""
    if not names:
        axis.set_major_locator(FixedLocator([]))
        return
    stride = max(1, math.ceil(len(names) / most))
    places = list(range(0, len(names), stride))
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter([_short(names[i]) for i in places]))
    turned = rotation if len(places) > 6 else 0.0
    for label in axis.get_ticklabels():
        label.set(rotation=turned, fontsize="small")
        if turned:
            label.set(ha="right", rotation_mode="anchor")


def _short(name: str, most: int = 26) -> str:
    shown = name if len(name) <= most else "\u2026" + name[1 - most :]
    return _plain(shown) or ROOT_NAME


def _plain(text: str) -> str:
    """Return a text that matplotlib shows as it is.

    A dollar sign would start mathematics, and labels that begin with an underscore are
    left out of legends.
    """
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _legend(axes: Axes) -> None:
    axes.legend(fontsize="small", framealpha=0.85)
