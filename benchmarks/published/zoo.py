"""The zoo: every architecture of this bench, by modality."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.published.architecture import Architecture
from benchmarks.published.audio import AUDIO, TIME_SERIES
from benchmarks.published.decoders import DECODERS, MOE
from benchmarks.published.multimodal import MULTIMODAL
from benchmarks.published.rates import (
    ADAMW_LADDER,
    ADAMW_RATES,
    SGD_LADDER,
    SGD_RATES,
)
from benchmarks.published.text import SEQ2SEQ, TEXT_ENCODERS
from benchmarks.published.vision import VISION

_LISTED: tuple[Architecture, ...] = (
    *TEXT_ENCODERS,
    *DECODERS,
    *MOE,
    *SEQ2SEQ,
    *VISION,
    *AUDIO,
    *MULTIMODAL,
    *TIME_SERIES,
)

ZOO: tuple[Architecture, ...] = tuple(
    replace(
        architecture,
        adamw_lr=ADAMW_RATES.get(architecture.name, ADAMW_LADDER[0]),
        sgd_lr=SGD_RATES.get(architecture.name, SGD_LADDER[0]),
    )
    for architecture in _LISTED
)


def by_name(names: list[str]) -> tuple[Architecture, ...]:
    """Return the architectures with these names, all of them for an empty list.

    Args:
        names: Names, in any order.

    Returns:
        The architectures, in the order of the zoo.

    Raises:
        ValueError: If a name is not in the zoo.
    """
    if not names:
        return ZOO
    unknown = sorted(set(names) - {architecture.name for architecture in ZOO})
    if unknown:
        raise ValueError(f"`--only` (={unknown}) names architectures not in the zoo")
    return tuple(architecture for architecture in ZOO if architecture.name in names)
