"""Code to paste, in the user's terms: their model, their layer names."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

from gradwatch.anatomy import ActivationSite
from gradwatch.remedies.activations import Activation
from gradwatch.remedies.initialisers import Initialiser

#: Names from which a list is written as a comprehension where they count up evenly.
_MIN_RUN = 4
_WIDTH = 88
#: A number that is an index: `blocks.0` is `blocks[0]`.
_INDEX = re.compile("0|[1-9][0-9]*")
#: Names that an f-string holds as they are.
_ORDINARY = re.compile(r"[\w.-]+")
_COUNTED = re.compile(r"^(?P<head>.*?)(?P<number>\d+)(?P<tail>\D*)$")
#: Modules under a number that is a key. Every remedy writes paths and only the model
#: tells a key from an index, so whoever asks the remedies says it once.
_KEYED: ContextVar[frozenset[str]] = ContextVar("keyed", default=frozenset())


@contextmanager
def keys_known(keyed: Iterable[str]) -> Iterator[None]:
    """Write numbers that are keys of an `nn.ModuleDict` as such, while it lasts.

    Args:
        keyed: Names of the modules under them (`Anatomy.keyed`).

    Yields:
        Nothing.
    """
    token = _KEYED.set(frozenset(keyed))
    try:
        yield
    finally:
        _KEYED.reset(token)


def path(layer: str, model: str = "model") -> str:
    """Return the expression that reaches a module.

    Args:
        layer: Qualified name, such as `blocks.0.conv2`.
        model: Name of the variable that holds the model.

    Returns:
        Such as `model.blocks[0].conv2`, or `model.heads["0"]` where `keys_known` says
        that the number is a key.
    """
    text = model
    reached: list[str] = []
    for part in layer.split(".") if layer else ():
        reached.append(part)
        if ".".join(reached) in _KEYED.get():
            text += f"[{quoted(part)}]"
        elif _INDEX.fullmatch(part):
            text += f"[{part}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            return f"{model}.get_submodule({quoted(layer)})"
    return text


def quoted(name: str) -> str:
    """Return a name as a string of Python's, whatever characters are in it."""
    if name.isprintable() and '"' not in name and "\\" not in name:
        return f'"{name}"'
    return ascii(name)


def names(layers: Sequence[str]) -> str:
    """Return the expression of a list of names, short where they count up evenly.

    Args:
        layers: Names in their order.

    Returns:
        Such as `["a", "b"]` or `[f"fc{i}" for i in range(1, 11)]`.
    """
    run = _even_run(layers)
    if run is not None:
        return run
    items = [quoted(name) for name in layers]
    line = ", ".join(items)
    if len(line) < _WIDTH - 20:
        return f"[{line}]"
    lines = [items[0]]
    for item in items[1:]:
        lines[-1] += ","
        if len(lines[-1]) + len(item) < _WIDTH - 8:
            lines[-1] += f" {item}"
        else:
            lines.append(item)
    return "[\n    " + "\n    ".join(lines) + "\n]"


def _even_run(layers: Sequence[str]) -> str | None:
    if len(layers) < _MIN_RUN or not all(map(_ORDINARY.fullmatch, layers)):
        return None
    for place in range(layers[0].count(".") + 1):
        parts = [name.split(".") for name in layers]
        if any(len(p) != len(parts[0]) for p in parts):
            return None
        found = [_COUNTED.match(p[place]) for p in parts]
        if any(match is None for match in found):
            continue
        numbers = [int(match["number"]) for match in found if match is not None]
        shells = {
            ".".join([*p[:place], f"{m['head']}{{i}}{m['tail']}", *p[place + 1 :]])
            for p, m in zip(parts, found, strict=True)
            if m is not None
        }
        steps = {b - a for a, b in pairwise(numbers)}
        padded = any(len(str(int(m["number"]))) != len(m["number"]) for m in found if m)
        if len(shells) == 1 and len(steps) == 1 and min(steps) > 0 and not padded:
            step = steps.pop()
            stop = numbers[-1] + 1
            first = numbers[0]
            span = f"{first}, {stop}" if first or step > 1 else f"{stop}"
            span += f", {step}" if step > 1 else ""
            return f'[f"{shells.pop()}" for i in range({span})]'
    return None


def each(layers: Sequence[str], lines: Iterable[str]) -> str:
    """Return code that does the same with several modules, each called `layer`.

    Args:
        layers: Names in their order.
        lines: Lines that use `layer`, not indented.

    Returns:
        A loop, or two lines for a single module.
    """
    body = list(lines)
    if len(layers) == 1:
        return "\n".join([f"layer = {path(layers[0])}", *body])
    return "\n".join(
        [
            f"for name in {names(layers)}:",
            "    layer = model.get_submodule(name)",
            *(f"    {line}" for line in body),
        ]
    )


def replaced(modules: Sequence[str], new: str) -> str:
    """Return code that puts a new module in the place of others.

    Args:
        modules: Names of the modules to replace.
        new: Expression of the new module.

    Returns:
        A loop, or one line for a single module.
    """
    if len(modules) == 1:
        return assigned(modules[0], new)
    return "\n".join(
        [
            f"for name in {names(modules)}:",
            '    parent, _, child = name.rpartition(".")',
            f"    setattr(model.get_submodule(parent), child, {new})",
        ]
    )


def assigned(module: str, new: str) -> str:
    """Return code that puts a new module in the place of one.

    Args:
        module: Its name.
        new: Expression of the new module.

    Returns:
        One line.
    """
    place = path(module)
    if not place.endswith(")"):
        return f"{place} = {new}"
    parent, _, child = module.rpartition(".")
    return f"setattr({path(parent)}, {quoted(child)}, {new})"


def drawn(layers: Mapping[str, Initialiser]) -> str:
    """Return code that draws weights anew and sets biases to zero.

    Args:
        layers: The initialiser of each layer, in execution order.

    Returns:
        One loop for each initialiser.
    """
    groups: dict[str, list[str]] = {}
    for layer, initialiser in layers.items():
        groups.setdefault(initialiser.code, []).append(layer)
    blocks = [
        each(
            group,
            [code, "if layer.bias is not None:", "    nn.init.zeros_(layer.bias)"],
        )
        for code, group in groups.items()
    ]
    return "\n".join(blocks)


def swapped(sites: Sequence[ActivationSite], to: Activation) -> str:
    """Return code that exchanges activations: modules by code, functions by a comment.

    Args:
        sites: The activations.
        to: What they become.

    Returns:
        Lines of code.
    """
    modules = list(dict.fromkeys(s.module for s in sites if s.module is not None))
    parts = [replaced(modules, to.module_code)] if modules else []
    for where in dict.fromkeys(s.where for s in sites if s.module is None):
        old = next(s.activation for s in sites if s.module is None and s.where == where)
        parts.append(f"# {place_of(where)}: {function_of(old)}(x) -> {to.function}(x)")
    return "\n".join(parts)


def place_of(where: str) -> str:
    """Return a place as a comment names it: on one line, whatever is in it."""
    return (where if where.isprintable() else ascii(where)) or "in forward"


def function_of(activation: str) -> str:
    """Return the usual function of an activation, such as `torch.sigmoid`."""
    tops = {"relu", "tanh", "sigmoid", "exp"}
    return f"torch.{activation}" if activation in tops else f"F.{activation}"
