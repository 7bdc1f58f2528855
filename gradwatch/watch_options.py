"""The options of `watch()` and `check()`: refused at once, with the value, if wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from torch import nn

from gradwatch.errors import ModelError, SettingsError
from gradwatch.layers import clean_name, matches
from gradwatch.settings import Settings


def check_model(model: object) -> None:
    """Refuse what is no module, or has no parameters.

    Args:
        model: What a user wants watched.

    Raises:
        ModelError: If it cannot be trained.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"`model` (={type(model).__name__}) must be a torch.nn.Module; pass the "
            "module whose parameters the optimizer updates."
        )
    if next(model.parameters(), None) is None:
        raise ModelError(
            f"`model` (={type(model).__name__}) has no parameters, so nothing can be "
            "trained or watched; pass the module that owns them."
        )


def check_console(console: object) -> None:
    """Refuse an unknown mode of the console.

    Args:
        console: The option.

    Raises:
        SettingsError: If there is no such mode.
    """
    if console not in ("live", "alerts", "end", None):
        raise SettingsError(
            f"`console` (={console!r}) must be 'live', 'alerts', 'end' or None."
        )


def settings_of(
    settings: Settings | Mapping[str, Any] | str | Path | None,
    budget: float | None,
    every: int | None,
) -> Settings:
    """Return the settings with what `watch()` itself overrides."""
    options = Settings.coerce(settings)
    changes = {"budget": budget, "every": every}
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        return options
    return Settings.from_mapping({**options.model_dump(), **given}, origin="watch()")


def patterns_of(
    name: str, patterns: Iterable[str | type], model: nn.Module
) -> tuple[str | type, ...]:
    """Return patterns of layers as a tuple.

    Args:
        name: Name of the option.
        patterns: Name patterns or module types, or one of them.
        model: The model; each pattern must match one of its layers.

    Returns:
        The patterns.

    Raises:
        SettingsError: If a pattern is of another type or matches no layer.
    """
    if isinstance(patterns, str | type) or not isinstance(patterns, Iterable):
        patterns = (patterns,)
    result = tuple(patterns)
    for pattern in result:
        if not isinstance(pattern, str | type):
            raise SettingsError(
                f"`{name}` (={pattern!r}) must hold name patterns such as 'encoder.*' "
                f"or module types such as nn.Linear; got {type(pattern).__name__}."
            )
        named = ((clean_name(key), module) for key, module in model.named_modules())
        if not any(matches((pattern,), key, module) for key, module in named):
            raise SettingsError(
                f"`{name}` (={pattern!r}) matches no layer of the model; its layers "
                f"are {_some_names(model)}."
            )
    return result


def _some_names(model: nn.Module) -> str:
    names = [clean_name(name) for name, _ in model.named_modules() if name]
    shown = ", ".join(names[:6]) or "none besides the model itself"
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def check_name(name: object) -> None:
    """Refuse a name that is no text.

    Args:
        name: The option.

    Raises:
        SettingsError: If it is neither text nor None.
    """
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise SettingsError(
            f"`name` (={kind_of(name)}) must be text such as 'generator', or None."
        )


def check_callable(name: str, value: object) -> None:
    """Refuse what cannot be called.

    Args:
        name: Name of the option.
        value: The option; None is fine.

    Raises:
        SettingsError: If it cannot be called.
    """
    if value is not None and not callable(value):
        raise SettingsError(f"`{name}` (={kind_of(value)}) must be callable or None.")


def kind_of(value: object) -> str:
    """Return a value for a message, short."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r:.60}"


def is_number(value: object) -> bool:
    """Whether a value is one number, or a tensor with one entry."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, SupportsFloat)
