"""How rules put numbers and layers into words."""

from __future__ import annotations

from collections.abc import Sequence


def some(layers: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list, and how many more there are.

    Args:
        layers: Names of layers.
        most: Names to spell out.

    Returns:
        Such as ``layers.0, layers.1 and 5 more``.
    """
    if not layers:
        return "no layer"
    names = [named(layer) for layer in layers[:most]]
    if len(layers) == 1:
        return names[0]
    if len(layers) <= most:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names)} and {len(layers) - most} more"


def named(layer: str) -> str:
    """Return a layer's name, such that a bare number of a Sequential reads as one."""
    return f"layer {layer}" if layer.isdigit() else layer


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 spike`` or ``3 spikes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def unique(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetition, in their order."""
    return tuple(dict.fromkeys(layers))


def because(reasons: Sequence[str]) -> str:
    """Return a clause that lists the reasons, empty without any."""
    return f"; {', and '.join(reasons)}" if reasons else ""


def relative_step(ratio: float) -> str:
    """Return an update ratio in words, such as ``20% of its size``."""
    if ratio < 10.0:
        return f"{ratio:.0%} of its size"
    return f"{ratio:.3g} times its size"
