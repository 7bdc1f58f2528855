"""Settings from a TOML or YAML file, and what is wrong with them in words."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradwatch.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What a reader raises for a file that is not its own, is too deep, or has numbers of
#: thousands of digits; `tomllib.TOMLDecodeError` is a ValueError.
_UNREADABLE = ValueError, RecursionError
#: Values in messages: aliases of YAML may hold more than memory does.
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 80


def read_fields(file: Path) -> Mapping[str, Any]:
    """Return the fields that a file sets.

    A TOML file may hold them under `[tool.gradwatch]` or at its top level.

    Args:
        file: The file; its ending says which it is.

    Returns:
        Values by field name, unchecked.

    Raises:
        SettingsError: If the file is missing, malformed or holds no table.
    """
    fields = _read_config(file)
    tool = fields.get("tool") if isinstance(fields, Mapping) else None
    if isinstance(tool, Mapping):
        fields = tool.get("gradwatch", {})
    if not isinstance(fields, Mapping):
        raise SettingsError(
            f"`settings` file {file} must hold a table of settings; got "
            f"{type(fields).__name__}."
        )
    return fields


def _read_config(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"`settings` file {file} cannot be read ({error}); pass the path of a TOML "
            "or YAML file, a dict, or a Settings."
        ) from None
    suffix = file.suffix.lower()
    if suffix == ".toml":
        try:
            return tomllib.loads(text)
        except _UNREADABLE as error:
            raise SettingsError(
                f"`settings` file {file} is not TOML: {error}."
            ) from None
    if suffix in {".yaml", ".yml"}:
        return _read_yaml(file, text)
    raise SettingsError(
        f"`settings` file {file} has the ending {suffix!r}; expected .toml, .yaml or "
        ".yml."
    )


def _read_yaml(file: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise SettingsError(
            f"`settings` file {file} is YAML; install PyYAML (`pip install "
            "PyYAML`) or use TOML."
        ) from None
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, *_UNREADABLE) as error:
        raise SettingsError(f"`settings` file {file} is not YAML: {error}.") from None
    return {} if loaded is None else loaded


def explain(error: ValidationError, origin: str, names: Iterable[str]) -> str:
    """Say which field is wrong, its value and the range.

    Args:
        error: What pydantic found.
        origin: Where the fields come from.
        names: Names of the fields there are.

    Returns:
        One sentence a field.
    """
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            lines.append(f"`{name}` is not a setting{_suggest(name, names)}")
        else:
            expected = item["msg"].removeprefix("Input should be ")
            lines.append(f"`{name}` (={_shown.repr(item['input'])}) must be {expected}")
    return f"{origin}: " + "; ".join(lines) + "."


def _suggest(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return "; see `gradwatch.Settings` for the names"
