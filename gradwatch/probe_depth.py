"""From a probe's numbers to the profiles over depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradwatch.probe_entries import ChainEntry
from gradwatch.probe_numbers import ProbeNumbers, rms_of
from gradwatch.records import ChainRecord, LayerRecord, PointRecord


def chain_records(numbers: ProbeNumbers) -> list[ChainRecord]:
    """Return the chains of all passes, those of one stream merged."""
    merged: dict[tuple[str, ...], list[int]] = {}
    for number, chain in enumerate(numbers.probe.chains):
        key = (chain.source, *(point.label for point in chain.points))
        merged.setdefault(key, []).append(number)
    records = []
    for which in merged.values():
        first = numbers.probe.chains[which[0]]
        passes = {n: _norms_along(numbers, numbers.probe.chains[n]) for n in which}
        kept = numbers.not_skipped(
            {
                n: all(norm is None or math.isfinite(norm) for norm in norms)
                for n, norms in passes.items()
            }
        )
        points = [
            PointRecord(
                point.label,
                point.layer,
                rms_of(passes[n][position] for n in which if n in kept),
                point.width,
            )
            for position, point in enumerate(first.points)
        ]
        known = not numbers.probe.opaque
        records.append(ChainRecord(first.source, tuple(points), first.main, known))
    return records


def _norms_along(numbers: ProbeNumbers, chain: ChainEntry) -> list[float | None]:
    norms: list[float | None] = []
    for point in chain.points:
        if point.entry is not None:
            norms.append(numbers.gradient(point.entry))
        else:
            value = rms_of(numbers.pending.get(t) for t in point.tickets)
            norms.append(None if value is None else value / numbers.scale)
    return norms


def fallback_chain(
    numbers: ProbeNumbers, layers: Sequence[LayerRecord]
) -> list[ChainRecord]:
    """Module order stands in where no graph could be read."""
    if numbers.probe.backwards and not numbers.probe.opaque:
        return []
    weights = {e.facts.name: e for e in numbers.probe.layers if e.weight}
    points = [
        PointRecord(r.layer, r.layer, r.grad_norm, weights[r.layer].width)
        for r in layers
        if r.layer in weights and r.call == 0
    ][:-1]
    if len(points) < 3:
        return []
    return [ChainRecord(points[0].layer, tuple(points), True, False)]
