"""Forward quantities of a probe by layer, calls of one module merged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean

from gradwatch.records import ActivationRecord, StepRecord
from gradwatch.structure import Role, Structure


def hidden_chain_layers(record: StepRecord, structure: Structure) -> list[str]:
    """Return the weight layers that a forward profile is taken over, in forward order.

    The points of the main trunk where there is one; else the weight layers in
    execution order, without branches, head and embeddings.
    """
    main = [chain for chain in record.chains if chain.main]
    if main and len(main[0].points) >= 3:
        return list(dict.fromkeys(point.layer for point in main[0].points))
    skipped = {Role.HEAD, Role.EMBEDDING, Role.BRANCH}
    return [
        info.name
        for info in structure.layers.values()
        if info.is_weight and info.order >= 0 and info.role not in skipped
    ]


def output_rms(record: StepRecord) -> dict[str, float]:
    """Return the finite, positive output RMS by layer, the largest over its calls."""
    found: dict[str, float] = {}
    for layer in record.layers:
        rms = layer.output_rms
        if rms is not None and math.isfinite(rms) and rms > 0:
            found[layer.layer] = max(rms, found.get(layer.layer, 0.0))
    return found


def forward_growth(
    record: StepRecord, structure: Structure
) -> tuple[float, str, str] | None:
    """Return how many decades the forward RMS grows over depth, and between what.

    The baseline is the first layer's RMS, or 1 if that is smaller: a small first
    output is no reason to call a normal one large (facts B3, item 3).

    Returns:
        Decades, first layer, layer of the largest RMS; None with fewer than 3 layers.
    """
    rms = output_rms(record)
    along = [name for name in hidden_chain_layers(record, structure) if name in rms]
    if len(along) < 3:
        return None
    first = along[0]
    largest = max(along, key=rms.__getitem__)
    return math.log10(rms[largest] / max(rms[first], 1.0)), first, largest


def sample_signals(record: StepRecord) -> dict[str, float]:
    """Return the sample signal by layer, the largest over its calls."""
    found: dict[str, float] = {}
    for layer in record.layers:
        signal = layer.sample_signal
        if signal is not None and math.isfinite(signal):
            found[layer.layer] = max(signal, found.get(layer.layer, 0.0))
    return found


def weakest_signal(
    record: StepRecord, layers: Iterable[str]
) -> tuple[float, str] | None:
    """Return the smallest sample signal among `layers` and where it is."""
    signals = sample_signals(record)
    measured = [(signals[layer], layer) for layer in layers if layer in signals]
    return min(measured) if measured else None


def hidden_activations(record: StepRecord) -> list[ActivationRecord]:
    """Return activations that a weight layer reads and that are not gates."""
    return [a for a in record.activations if a.hidden and not a.gate]


def dead_shares(record: StepRecord) -> dict[str, float]:
    """Return the share of units never active by layer, the smallest over its calls.

    A unit is dead only if no call ever woke it.
    """
    found: dict[str, float] = {}
    for activation in hidden_activations(record):
        if activation.dead_units is None or not activation.num_units:
            continue
        share = activation.dead_units / activation.num_units
        found[activation.layer] = min(share, found.get(activation.layer, 1.0))
    return found


def saturated_shares(record: StepRecord) -> dict[str, float]:
    """Return the share of saturated outputs by layer, the mean over its calls."""
    calls: dict[str, list[float]] = {}
    for activation in hidden_activations(record):
        if activation.saturated_share is not None:
            calls.setdefault(activation.layer, []).append(activation.saturated_share)
    return {layer: fmean(shares) for layer, shares in calls.items()}
