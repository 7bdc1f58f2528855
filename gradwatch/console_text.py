"""Text for terminals: numbers, bars, sparklines, and names made inert."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence

#: What stands for "not measured".
MISSING = "\u2013"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_LEVELS = "▁▂▃▄▅▆▇█"
#: Characters that could move the cursor, hide text, reorder it or break a line.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: For streams that cannot hold our signs.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("─━\u2013\u2014▏▎▍▌", "-"),
        **dict.fromkeys("▋▊▉█", "#"),
        **dict(zip(_LEVELS[:-1], ".,:-=+*", strict=True)),
        **dict.fromkeys("│╭╮╰╯┃", "|"),
        "…": "...",
        "\u00d7": "x",
        "·": "-",
        "→": "->",
        "≥": ">=",
        "≤": "<=",
        "‖": "|",
        "φ": "phi",
    }
)


def inert(text: str) -> str:
    """Return the text with everything that a terminal could obey made visible.

    Args:
        text: Text from a user, such as a layer's name.

    Returns:
        The text with control, format and line-breaking characters as escapes.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSAFE
        else character
        for character in text
    )


def plain_for(encoding: str | None, text: str) -> str:
    """Return the text with plain signs for those that `encoding` cannot hold."""
    if encoding is None:
        return text
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = text.translate(_PLAIN)
        return text.encode("ascii", "replace").decode()
    return text


def number(value: float | None, digits: int = 2) -> str:
    """Return a number in few characters, such as `0.031`, `3.1e-9` or `NaN`."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e5:
        return str(int(value))
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits, len(str(int(abs(value)))))}g}"
    return _scientific(value, digits)


def _scientific(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def compact(value: float | None) -> str:
    """Return a number with about two digits and at most seven characters."""
    if value is None or not math.isfinite(value) or abs(value) < 1e4:
        return number(value)
    return _scientific(value, 2)


def decades(value: float | None) -> str:
    """Return decades with their sign; `zero` for an exact zero gradient."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "zero" if value < 0 else "Inf"
    text = f"{value:+.1f}"
    return "0.0" if text[1:] == "0.0" else text


def percent(share: float | None) -> str:
    """Return a share in percent; never 0 % or 100 % for what is not exactly that."""
    if share is None or math.isnan(share):
        return MISSING
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{share:.0%}"


def measured(value: float, unit: str) -> str:
    """Return a value with its unit, such as `5.8 decades`, `97%` or `step 556`."""
    if unit == "share":
        return percent(value)
    if unit == "step":
        return f"step {value:.0f}"
    return f"{number(value, 3)} {inert(unit)}" if unit else number(value, 3)


def duration(seconds: float) -> str:
    """Return a time, such as `3.2 ms`, `1.4 s` or `5 min`."""
    if seconds < 1:
        return f"{number(seconds * 1e3)} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def shorten(name: str, width: int) -> str:
    """Return a layer's name in at most `width` characters, its end kept."""
    name = inert(name)
    if len(name) <= width:
        return name
    end = name[len(name) - width + 1 :]
    dot = end.find(".")
    # A cut at a dot reads better, unless it throws much away.
    return "…" + (end[dot:] if 0 <= dot <= width // 3 else end)


def bar(share: float, width: int) -> str:
    """Return a bar of `share` of `width` cells, in eighths; the least is visible."""
    eighths = max(1, round(min(1.0, max(0.0, share)) * width * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a log-scale sparkline of at most `width` cells.

    Each cell shows the largest value it stands for: `·` for an exact zero, `!` for a
    value that is not finite, and eight levels between the least and the largest, but
    no fewer than two decades.

    Args:
        values: Norms, at least zero.
        width: Cells at most.

    Returns:
        The sparkline.
    """
    cells = [_cell(chunk) for chunk in _chunks(values, width)]
    logs = [math.log10(cell) for cell in cells if 0 < cell < math.inf]
    if not logs:
        return "".join(_level(cell, 0.0, 2.0) for cell in cells)
    high = max(logs)
    span = max(2.0, high - min(logs))
    return "".join(_level(cell, high - span, span) for cell in cells)


def _chunks(values: Sequence[float], width: int) -> list[Sequence[float]]:
    cells = max(1, min(width, len(values)))
    edges = [round(i * len(values) / cells) for i in range(cells + 1)]
    return [values[a:b] for a, b in itertools.pairwise(edges) if b > a]


def _cell(chunk: Sequence[float]) -> float:
    return max(chunk) if all(map(math.isfinite, chunk)) else math.inf


def _level(cell: float, low: float, span: float) -> str:
    if math.isinf(cell):
        return "!"
    if cell <= 0:
        return "·"
    share = (math.log10(cell) - low) / span
    return _LEVELS[min(len(_LEVELS) - 1, max(0, int(share * len(_LEVELS))))]
