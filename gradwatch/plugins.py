"""Rules and remedies of other packages: found by entry points, checked, never trusted.

A plug-in names its classes in its `pyproject.toml`::

    [project.entry-points."gradwatch.rules"]
    heavy-weights = "my_package:HeavyWeights"

Nothing is imported before a watch, a report or the command line asks for rules. What
cannot be used is left out with one warning that names it; it never ends a training run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from gradwatch.errors import PluginWarning

_T = TypeVar("_T")
#: Names of rules and remedies: kebab case.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def load(group: str, check: Callable[[object], _T]) -> tuple[_T, ...]:
    """Load what other packages offer.

    Args:
        group: Group of entry points.
        check: Returns the object if it can be used; raises with the reason if not.

    Returns:
        One object for each entry point that could be used, in the order of their
        names. A class is called without arguments.
    """
    entries = sorted(entry_points(group=group), key=lambda e: (e.name, e.value))
    loaded = (_load(entry, check) for entry in entries)
    return tuple(thing for thing in loaded if thing is not None)


def _load(entry: EntryPoint, check: Callable[[object], _T]) -> _T | None:
    try:
        thing = entry.load()
        return check(thing() if isinstance(thing, type) else thing)
    # Whatever happens in a stranger's import, even an exit, is not the run's end.
    except (Exception, SystemExit) as error:
        warn(f"{_described(entry)} is left out: {described(error)}")
        return None


def described(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}"


def check_name(name: object, taken: set[str], what: str) -> None:
    """Refuse a name that is none, or that another one has.

    Args:
        name: The name.
        taken: Names in use.
        what: What is named, for the message.

    Raises:
        ValueError: If the name cannot be used.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"`name` (={name!r}) of a {what} must be in kebab-case")
    if name in taken:
        raise ValueError(f"there is a {what} named {name!r} already")


def warn(text: str) -> None:
    """Emit a `PluginWarning`, also where warnings are errors: it must not end a run."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", PluginWarning)
        warnings.warn(text, PluginWarning, stacklevel=3)


def _described(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"The plug-in `{entry.name} = {entry.value}`{package} ({entry.group})"
