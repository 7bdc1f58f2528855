"""Weight matrices of a probe and how far the optimizer moved them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from gradwatch.history import History
from gradwatch.records import ParameterRecord, StepRecord
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


def weights(record: StepRecord, structure: Structure) -> list[ParameterRecord]:
    """Return trainable parameters of two or more dimensions, embeddings left out.

    Biases and gains have other scales, and most rows of an embedding get no gradient
    (facts B2).
    """
    return [
        parameter
        for parameter in record.parameters
        if parameter.trainable
        and parameter.ndim >= 2
        and structure.role(parameter.layer) is not Role.EMBEDDING
    ]


def update_ratios(record: StepRecord, structure: Structure) -> dict[str, float]:
    """Return the update ratio of each layer's weight, the largest if it has several.

    Weights that are all zero, frozen ones and those without a gradient are left out.
    """
    ratios: dict[str, float] = {}
    for parameter in weights(record, structure):
        ratio = parameter.update_ratio
        if ratio is None or not math.isfinite(ratio):
            continue
        if parameter.zero_weight or parameter.grad_norm is None:
            continue
        ratios[parameter.layer] = max(ratio, ratios.get(parameter.layer, 0.0))
    return ratios


def median_update(record: StepRecord, structure: Structure) -> float | None:
    """Return the median over layers of the update ratio; None if not measured."""
    ratios = update_ratios(record, structure)
    return median(ratios.values()) if ratios else None


def kept_update(
    probe: StepRecord, history: History, structure: Structure
) -> float | None:
    """Return `median_update` of a kept probe, computed once while it is kept."""
    return history.derived(
        probe, "median update", lambda record: median_update(record, structure)
    )


def starvation(
    record: StepRecord, structure: Structure, layers: Sequence[str]
) -> float | None:
    """Return the update ratio at the input end of a chain over that at its top.

    The lower third of the weight layers is compared with the upper third, each by
    its median, because single layers scatter.

    Args:
        record: The probe.
        structure: Tells embeddings from weights.
        layers: Layers of the chain, source first.

    Returns:
        The ratio of the two medians; None with fewer than three measured layers or if
        the top was not updated.
    """
    ratios = update_ratios(record, structure)
    along = [ratios[layer] for layer in dict.fromkeys(layers) if layer in ratios]
    if len(along) < 3:
        return None
    third = len(along) // 3
    top = median(along[-third:])
    return median(along[:third]) / top if top > 0 else None


def outside_workable_range(
    record: StepRecord, structure: Structure, settings: Settings
) -> bool:
    """Whether the learning rate alone can explain that the loss does not fall."""
    ratios = update_ratios(record, structure)
    if not ratios:
        return False
    too_small = max(ratios.values()) <= settings.min_update_ratio
    return too_small or median(ratios.values()) >= settings.max_update_ratio
