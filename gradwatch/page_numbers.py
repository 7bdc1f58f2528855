"""From the series behind a report to the packed numbers that its page draws.

A cell is two bytes, deflated, so that 500 layers at 500 probes with five quantities
stay below 5 MB: thousandths of a decade (0.2 % of a norm), or hundredths of a percent.
"""

from __future__ import annotations

import base64
import math
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from gradwatch.history import Series
from gradwatch.plot_numbers import (
    norms_by_layer,
    rows_of,
    top_norm,
    updates_by_layer,
)
from gradwatch.records import ChainRecord, PulseRecord, StepRecord
from gradwatch.settings import Settings

#: Probes that are shown; of more, evenly spaced ones (chosen: more than fit a screen).
MAX_COLUMNS = 500
#: Pulses and probes with time profiles that are kept (chosen, for the page's size).
_MAX_PULSES = 5000
_MAX_TIMES = 100
MISSING, ZERO, NOT_FINITE = -32768, -32767, -32766
_DECADE, _WHOLE = 1000, 10000
_LARGEST = 32000
_LEAST_BEFORE = 5


def pack(values: Iterable[int]) -> str:
    """Return 16-bit integers, least significant byte first, deflated, as base64."""
    cells = array("h", values)
    if sys.byteorder == "big":
        cells.byteswap()
    return base64.b64encode(zlib.compress(cells.tobytes())).decode("ascii")


def decades(value: float | None, top: float | None = 1.0) -> int:
    """Return log10(value / top) as a cell."""
    if value is None or top is None:
        return MISSING
    if not math.isfinite(value):
        return NOT_FINITE
    if value <= 0 or top <= 0:
        return ZERO
    cell = round((math.log10(value) - math.log10(top)) * _DECADE)
    return max(-_LARGEST, min(_LARGEST, cell))


def share(value: float | None) -> int:
    """Return a share between 0 and 1 as a cell."""
    if value is None:
        return MISSING
    return NOT_FINITE if not math.isfinite(value) else round(value * _WHOLE)


def thinned(probes: Sequence[StepRecord]) -> list[StepRecord]:
    """Return at most `MAX_COLUMNS` probes, the first and the last among them."""
    if len(probes) <= MAX_COLUMNS:
        return list(probes)
    last = len(probes) - 1
    places = [round(i * last / (MAX_COLUMNS - 1)) for i in range(MAX_COLUMNS)]
    return [probes[place] for place in places]


def series_data(series: Series, settings: Settings) -> dict[str, Any] | None:
    """Return what the pictures of a page show; None without a probe.

    Args:
        series: Probes and pulses of a run.
        settings: The limits.

    Returns:
        Plain values for JSON: steps, layers, one packed grid a quantity (layer by
        layer, a cell a probe), the trunk at each probe, time profiles, pulses.
    """
    probes = thinned(series.probes)
    if not probes:
        return None
    rows = rows_of(probes) or [r.layer for r in probes[-1].layers]
    columns = [_column(probe) for probe in probes]
    return {
        "steps": [probe.step for probe in probes],
        "probes": len(series.probes),
        "layers": rows,
        "grids": {
            name: pack(
                column[name].get(row, MISSING) for row in rows for column in columns
            )
            for name in ("gradient", "update", "weight", "dead", "saturated")
        },
        "trunk": _trunk(probes),
        "times": _times(probes),
        "pulses": _pulses(series.pulses, settings),
    }


def _column(probe: StepRecord) -> dict[str, dict[str, int]]:
    """Return the cells of one probe, by quantity and layer."""
    return {
        "gradient": _gradients(probe),
        "update": {n: decades(ratio) for n, ratio in updates_by_layer(probe).items()},
        "weight": _weights(probe),
        "dead": _worst(
            (a.layer, a.dead_units / a.num_units)
            for a in probe.activations
            if a.hidden and not a.gate and a.dead_units is not None and a.num_units
        ),
        "saturated": _worst(
            (a.layer, a.saturated_share)
            for a in probe.activations
            if a.hidden and not a.gate and a.saturated_share is not None
        ),
    }


def _gradients(probe: StepRecord) -> dict[str, int]:
    norms = norms_by_layer(probe)
    top = top_norm(probe.chains, list(norms.values()))
    cells = {name: decades(norm, top) for name, norm in norms.items()}
    broken = {r.layer for r in probe.layers if r.grad_finite is False}
    return {**cells, **dict.fromkeys(broken, NOT_FINITE)}


def _weights(probe: StepRecord) -> dict[str, int]:
    """Return the norm of all parameters of each layer."""
    squares: dict[str, float] = {}
    for record in probe.parameters:
        if record.weight_rms is not None:
            square = record.weight_rms * record.weight_rms * record.numel
            squares[record.layer] = squares.get(record.layer, 0.0) + square
    return {layer: decades(math.sqrt(square)) for layer, square in squares.items()}


def _worst(shares: Iterable[tuple[str, float]]) -> dict[str, int]:
    worst: dict[str, int] = {}
    for layer, value in shares:
        worst[layer] = max(worst.get(layer, MISSING), share(value))
    return worst


def _main(chains: Sequence[ChainRecord]) -> ChainRecord | None:
    return next(iter(sorted(chains, key=lambda chain: not chain.main)), None)


def _trunk(probes: Sequence[StepRecord]) -> dict[str, Any] | None:
    """Return the main trunk at each probe that has the points of the newest one."""
    newest = next((c for p in reversed(probes) if (c := _main(p.chains))), None)
    if newest is None:
        return None
    labels = [point.label for point in newest.points]
    cells: list[int] = []
    for probe in probes:
        chain = _main(probe.chains)
        if chain is None or [point.label for point in chain.points] != labels:
            cells.extend([MISSING] * len(labels))
            continue
        top = top_norm([chain], ())
        cells.extend(decades(point.grad_norm, top) for point in chain.points)
    return {
        "labels": labels,
        "layers": [point.layer for point in newest.points],
        "known": newest.structure_known,
        "cells": pack(cells),
    }


def _times(probes: Sequence[StepRecord]) -> list[dict[str, Any]]:
    """Return time profiles of evenly spaced probes, the newest among them."""
    with_times = [p for p in probes if p.time_profiles]
    stride = -(-len(with_times) // _MAX_TIMES) or 1
    chosen = with_times[::-1][::stride][::-1]
    return [
        {
            "step": probe.step,
            "layer": profile.layer,
            "direction": profile.direction,
            "cells": pack(decades(n, max(profile.norms)) for n in profile.norms),
        }
        for probe in chosen
        for profile in probe.time_profiles
        if profile.norms
    ]


def _pulses(pulses: Sequence[PulseRecord], settings: Settings) -> dict[str, Any]:
    shown = pulses[-_MAX_PULSES:]
    norms = [_finite(pulse.grad_norm) for pulse in shown]
    return {
        "steps": [pulse.step for pulse in shown],
        "norms": norms,
        "after": [_finite(pulse.step_grad_norm) for pulse in shown],
        "losses": [_finite(pulse.loss) for pulse in shown],
        "skipped": [i for i, pulse in enumerate(shown) if pulse.skipped],
        "broken": [i for i, p in enumerate(shown) if not p.finite and not p.skipped],
        "clipped": [
            i
            for i, pulse in enumerate(shown)
            if pulse.clip_factor is not None and pulse.clip_factor < 1 - 1e-3
        ],
        "spikes": _spikes(norms, settings),
    }


def _spikes(norms: Sequence[float | None], settings: Settings) -> list[int]:
    """Return the places of norms beyond `spike_ratio` times the median before them."""
    found = []
    for place, norm in enumerate(norms):
        before = norms[max(0, place - settings.spike_window) : place]
        known = [value for value in before if value is not None]
        if norm is None or len(known) < _LEAST_BEFORE:
            continue
        if norm > settings.spike_ratio * median(known) > 0:
            found.append(place)
    return found


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
