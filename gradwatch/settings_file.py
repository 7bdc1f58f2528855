"""Settings from a mapping or a file, and what is wrong with them in words."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

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

_Loaded = TypeVar("_Loaded", bound="Loadable")


class Loadable(BaseModel):
    """Fields that come from keywords, a mapping or a file."""

    model_config = ConfigDict(defer_build=True)

    @classmethod
    def coerce(
        cls: type[_Loaded], source: _Loaded | Mapping[str, Any] | str | Path | None
    ) -> _Loaded:
        """Return settings from whatever a user may pass.

        Args:
            source: Settings, a mapping of fields, the path of a TOML or YAML file, or
                None for the defaults.

        Returns:
            The settings.

        Raises:
            SettingsError: If a field is unknown or out of range, or the file cannot be
                read; the message names the field, its value and the range.
        """
        if source is None:
            return cls()
        if isinstance(source, cls):
            return source
        if isinstance(source, str | Path):
            return cls.load(source)
        if isinstance(source, Mapping):
            return cls.from_mapping(source, origin="settings")
        raise SettingsError(
            f"`settings` (={source!r}) must be a Settings, a dict, or the path of a "
            f"TOML or YAML file; got {type(source).__name__}."
        )

    @classmethod
    def from_mapping(
        cls: type[_Loaded], fields: Mapping[str, Any], *, origin: str
    ) -> _Loaded:
        """Return settings from a mapping; `origin` is named in the message.

        Args:
            fields: Values by field name.
            origin: Where they come from, for the message.

        Returns:
            The settings.

        Raises:
            SettingsError: If a field is unknown or out of range.
        """
        try:
            return cls(**{str(key): value for key, value in fields.items()})
        except ValidationError as error:
            raise SettingsError(explain(error, origin, cls.model_fields)) from None

    @classmethod
    def load(cls: type[_Loaded], path: str | Path) -> _Loaded:
        """Read settings from a TOML or YAML file.

        A TOML file may hold them under `[tool.gradwatch]` or at its top level.

        Args:
            path: The file; its ending says which it is.

        Returns:
            The settings.

        Raises:
            SettingsError: If the file is missing, malformed or holds a wrong field.
        """  # noqa: DOC502 - raised by what it calls
        return cls.from_mapping(read_fields(Path(path)), origin=str(path))


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
