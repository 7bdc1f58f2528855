"""From a report and its series of probes to the numbers that pictures show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradwatch.records import ChainRecord, StepRecord
from gradwatch.report import ChainSummary, Report

#: Rows (layers) of columns (probes); NaN where nothing was measured, -inf for zero.
Grid = list[list[float]]


@dataclass(frozen=True, slots=True)
class Profile:
    """One line of the depth profile.

    Attributes:
        label: What the legend calls it.
        names: Names of the points, the input's end first.
        layers: Layers that the points belong to.
        values: Gradient norm over that at the top, no unit; NaN if not measured.
        past: Whether it is the first probe, shown for comparison.
    """

    label: str
    names: tuple[str, ...]
    layers: tuple[str, ...]
    values: tuple[float, ...]
    past: bool = False


def depth_profiles(report: Report) -> list[Profile]:
    """Return the trunks at the shown probe, and the main one at the first probe.

    Args:
        report: The report.

    Returns:
        Profiles with a finite top; the layers in execution order where no trunk is
        known.
    """
    shown = report.layers_step
    found = [_of_chain(chain, report) for chain in report.chains]
    profiles = [profile for profile in found if profile is not None]
    if not profiles:
        return _of_layers(report)
    probes = report._series.probes
    if probes and shown is not None and probes[0].step < shown:
        past = _first(probes, profiles[0])
        if past is not None:
            profiles.append(past)
    return profiles


def _of_chain(chain: ChainSummary, report: Report) -> Profile | None:
    values = relative([p.grad_norm for p in chain.points])
    if values is None:
        return None
    label = f"trunk from {chain.source}" if len(report.chains) > 1 else "trunk"
    if report.layers_step is not None and len(report._series.probes) > 1:
        label += f", step {report.layers_step}"
    if chain.decades is not None:
        # A minus sign for growth would need a legend of its own.
        change = "lost" if chain.decades >= 0 else "gained"
        label += f": {abs(chain.decades):.1f} decades {change} towards the input"
    if not chain.structure_known:
        label += " (module order)"
    return Profile(
        label,
        tuple(p.label for p in chain.points),
        tuple(p.layer for p in chain.points),
        values,
    )


def _first(probes: Sequence[StepRecord], now: Profile) -> Profile | None:
    for chain in probes[0].chains:
        if tuple(p.label for p in chain.points) == now.names:
            values = relative([p.grad_norm for p in chain.points])
            if values is not None:
                label = f"at step {probes[0].step}"
                return Profile(label, now.names, now.layers, values, past=True)
    return None


def _of_layers(report: Report) -> list[Profile]:
    rows = [row for row in report.layers if row.grad_norm is not None]
    values = relative([row.grad_norm for row in rows])
    if values is None:
        return []
    names = tuple(row.name for row in rows)
    return [Profile("layers in execution order (no trunk)", names, names, values)]


def relative(norms: Sequence[float | None]) -> tuple[float, ...] | None:
    """Return norms over the last one that is finite and not zero; None without one."""
    known = [n for n in norms if n is not None and math.isfinite(n) and n > 0]
    if not known:
        return None
    top = known[-1]
    return tuple(math.nan if n is None else _ratio(n, top) for n in norms)


def rows_of(probes: Iterable[StepRecord]) -> list[str]:
    """Return the layers with a gradient at some probe and parameters, in order.

    Where no layer of those owns parameters that were seen, all layers with a gradient.
    """
    probes = tuple(probes)
    owners = {p.layer for probe in probes for p in probe.parameters}
    places: dict[str, int] = {}
    for probe in probes:
        for record in probe.layers:
            if record.grad_norm is not None:
                places.setdefault(record.layer, record.order)
    named = [name for name in places if name in owners] or list(places)
    return sorted(named, key=places.__getitem__)


def norms_by_layer(probe: StepRecord) -> dict[str, float]:
    """Return each layer's gradient norm, the root mean square over its calls."""
    calls: dict[str, list[float]] = {}
    for record in probe.layers:
        if record.grad_norm is not None:
            calls.setdefault(record.layer, []).append(record.grad_norm)
    return {
        name: math.hypot(*values) / math.sqrt(len(values))
        for name, values in calls.items()
    }


def updates_by_layer(probe: StepRecord) -> dict[str, float]:
    """Return the update ratio of each layer's largest parameter."""
    largest: dict[str, tuple[bool, int, float]] = {}
    for record in probe.parameters:
        if record.update_ratio is not None:
            key = (record.ndim >= 2, record.numel, record.update_ratio)
            largest[record.layer] = max(largest.get(record.layer, key), key)
    return {name: ratio for name, (_, _, ratio) in largest.items()}


def gradient_grid(probes: Sequence[StepRecord], rows: Sequence[str]) -> Grid:
    """Return log10 of each layer's gradient norm over that at the top of the trunk."""
    columns = []
    for probe in probes:
        norms = norms_by_layer(probe)
        top = top_norm(probe.chains, [norms.get(name) for name in rows])
        columns.append([_decades(norms.get(name), top) for name in rows])
    return [list(row) for row in zip(*columns, strict=True)]


def update_grid(probes: Sequence[StepRecord], rows: Sequence[str]) -> Grid:
    """Return log10 of the update ratio of each layer's largest parameter."""
    columns = []
    for probe in probes:
        ratios = updates_by_layer(probe)
        columns.append([_decades(ratios.get(name), 1.0) for name in rows])
    return [list(row) for row in zip(*columns, strict=True)]


def top_norm(
    chains: Sequence[ChainRecord], norms: Sequence[float | None]
) -> float | None:
    """Return what the gradients of one probe are compared with."""
    for chain in sorted(chains, key=lambda c: not c.main):
        points = chain.positive_points()
        if points:
            return points[-1].grad_norm
    known = [n for n in norms if n is not None and math.isfinite(n) and n > 0]
    return known[-1] if known else None


def _ratio(norm: float, top: float) -> float:
    return norm / top if math.isfinite(norm) else math.nan


def _decades(norm: float | None, top: float | None) -> float:
    if norm is None or top is None or not math.isfinite(norm):
        return math.nan
    return math.log10(norm) - math.log10(top) if norm > 0 else -math.inf
