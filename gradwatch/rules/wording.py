"""How rules put numbers and layers into words."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Names that a Sequential gives: `3`, `0.2`, and `3 (sum)` for a join.
_NUMERIC = re.compile(r"\d+(\.\d+)*( \(.*\))?")
#: What stands for the name of the root module, which is empty.
ROOT_NAME = "(model)"


def joined(parts: Sequence[str]) -> str:
    """Return parts as a list in a sentence, such as ``a, b and c``."""
    return " and ".join([*([", ".join(parts[:-1])] if parts[1:] else []), *parts[-1:]])


def listed(parts: Sequence[str], most: int = 3) -> str:
    """Return the first parts of a list, and how many more there are.

    Args:
        parts: What is listed.
        most: Parts to spell out.

    Returns:
        Such as ``3, 8, 10 and 5 more``.
    """
    if len(parts) <= most:
        return joined(parts)
    return f"{', '.join(parts[:most])} and {len(parts) - most} more"


def some(layers: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list, and how many more there are.

    Args:
        layers: Names of layers.
        most: Names to spell out.

    Returns:
        Such as ``layers.0, layers.1 and 5 more``.
    """
    return listed([named(layer) for layer in layers], most) or "no layer"


def named(layer: str) -> str:
    """Return a layer's name, such that a bare number of a Sequential reads as one.

    Args:
        layer: Name of a layer or a point; that of the root module is empty.

    Returns:
        Such as `fc1`, `layer 3`, or `(model)` for the root.
    """
    return f"layer {layer}" if _NUMERIC.fullmatch(layer) else layer or ROOT_NAME


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 spike`` or ``3 spikes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def unique(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetition, in their order."""
    return tuple(dict.fromkeys(layers))


def because(reasons: Sequence[str]) -> str:
    """Return a clause that lists the reasons, empty without any."""
    return f"; {joined(reasons)}" if reasons else ""


def amount(value: float, digits: int = 3) -> str:
    """Return a number in few characters, such as ``0.05``, ``1,230`` or ``1e22``.

    Args:
        value: The number.
        digits: Significant digits; 380 stays 380 with two of them.

    Returns:
        The number; as a power of ten below 1e-4 and from 1e5 on.
    """
    text = f"{value:.{digits}g}"
    if 1e3 <= value < 1e5 or (1.0 <= value < 1e3 and "e" in text):
        return f"{float(text):,.0f}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def relative(ratio: float, whole: str) -> str:
    """Return a ratio in words, such as ``20% of its size`` or ``1e22 times its size``.

    Args:
        ratio: Part over whole.
        whole: What it is a part of.

    Returns:
        A share below ten times the whole, a multiple from there on.
    """
    if ratio < 10.0:
        return f"{ratio:.0%} of {whole}"
    return f"{amount(ratio)} times {whole}"


def relative_step(ratio: float) -> str:
    """Return an update ratio in words, such as ``20% of its size``."""
    return relative(ratio, "its size")


def only(share: float) -> str:
    """Return a small share, such as ``only 0.4%`` or ``less than 0.1%``."""
    if share == 0.0:
        return "0%"
    return f"only {share:.1%}" if share >= 1e-3 else "less than 0.1%"


def share_left(share: float, reach: float) -> tuple[str, int]:
    """Return what is left of a gradient, and after how many whole time steps.

    Args:
        share: Share that is left at the horizon.
        reach: The horizon in time steps, between two of them as a rule.

    Returns:
        Such as `("1%", 9)`; `("less than 1%", 1)` where one step is beyond it.
    """
    text = f"{100 * share:g}%"
    return (text, round(reach)) if reach >= 1.0 else (f"less than {text}", 1)
