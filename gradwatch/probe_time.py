"""From a probe's numbers to the profiles over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import nn

from gradwatch.probe_entries import LayerEntry
from gradwatch.probe_numbers import ProbeNumbers, rms_of
from gradwatch.records import TimeProfile
from gradwatch.recurrent import recurrent_spectrum


def replay_profiles(
    numbers: ProbeNumbers, modules: Mapping[str, nn.Module]
) -> list[TimeProfile]:
    """Return the profiles of recurrent layers that were replayed step by step."""
    profiles = []
    for replayed, ticket in numbers.probe.at_step.profiles:
        module = modules.get(replayed.layer)
        norms = [value / numbers.scale for value in numbers.pending.get_all(ticket)]
        radius, singular = None, None
        if module is not None and _spans_decades(norms):
            radius, singular = recurrent_spectrum(module)
        profiles.append(
            TimeProfile(
                replayed.layer,
                replayed.direction,
                tuple(norms),
                "replay",
                radius,
                singular,
            )
        )
    return profiles


def loop_profiles(
    numbers: ProbeNumbers,
    modules: Mapping[str, nn.Module],
    entries: Sequence[LayerEntry],
) -> list[TimeProfile]:
    """Modules that ran on their own output: their calls are time steps."""
    calls: dict[str, dict[int, list[float | None]]] = {}
    for entry in entries:
        if entry.facts.name in numbers.probe.loop_layers:
            by_call = calls.setdefault(entry.facts.name, {})
            by_call.setdefault(entry.call, []).append(numbers.gradient(entry))
    profiles = []
    for layer, by_call in calls.items():
        norms = tuple(rms_of(by_call[call]) or 0.0 for call in sorted(by_call))
        module = modules.get(layer)
        radius, singular = None, None
        if module is not None and _spans_decades(norms):
            radius, singular = recurrent_spectrum(module)
        profiles.append(
            TimeProfile(layer, "forward", norms, "cell-loop", radius, singular)
        )
    return profiles


def _spans_decades(norms: Sequence[float], decades: float = 2.0) -> bool:
    positive = [n for n in norms if n > 0 and math.isfinite(n)]
    return bool(positive) and math.log10(max(positive) / min(positive)) >= decades
