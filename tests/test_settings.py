"""Settings: every field described, wrong ones named, files read or refused clearly."""

import sys

import pytest
from pydantic import ValidationError

from gradwatch import Settings
from gradwatch.errors import SettingsError


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_field_says_what_it_is(name):
    """A description that ends in a full stop, and a default within its own range."""
    field = Settings.model_fields[name]
    assert field.description
    assert field.description.endswith(".")
    Settings.from_mapping({name: field.default}, origin="test")


def test_settings_are_frozen_and_hashable():
    """Equal settings make equal watches."""
    settings = Settings(every=3)
    assert settings == Settings(every=3)
    assert hash(settings) == hash(Settings(every=3))
    with pytest.raises(ValidationError):
        settings.every = 4


WRONG = {
    "share": ({"budget": 0.0}, r"`budget` \(=0.0\) must be greater than 0"),
    "count": ({"max_probes": 0}, r"`max_probes` \(=0\) must be greater than or equal"),
    "type": ({"budget": "much"}, r"`budget` \(='much'\) must be a valid number"),
    "choice": (
        {"nan_origin": "yes"},
        r"`nan_origin` \(='yes'\) must be 'auto'",
    ),
    "none": ({"vanishing_decades": None}, r"`vanishing_decades` \(=None\)"),
    "unknown": (
        {"probe_evry": 3},
        "`probe_evry` is not a setting; did you mean",
    ),
    "strange": ({"zzz": 3}, "`zzz` is not a setting; see"),
    "element": ({"probe_steps": (0, "x")}, r"`probe_steps.1` \(='x'\)"),
    "two": ({"budget": 2, "zzz": 1}, "`budget`.*; `zzz`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named_with_its_value_and_range(name):
    """As a mapping, one sentence an error."""
    fields, message = WRONG[name]
    with pytest.raises(SettingsError, match=message):
        Settings.coerce(fields)


@pytest.mark.parametrize("given", [3, [1], object()])
def test_what_is_no_settings_is_refused(given):
    """The message says what may be passed."""
    with pytest.raises(SettingsError, match="must be a Settings, a dict, or the path"):
        Settings.coerce(given)


def test_none_is_the_defaults():
    """And settings pass through."""
    assert Settings.coerce(None) == Settings()
    settings = Settings(every=2)
    assert Settings.coerce(settings) is settings


FILES = {
    "toml": ("a.toml", "every = = 3", "is not TOML"),
    "yaml": ("a.yaml", "every: [3", "is not YAML"),
    "list": ("a.yml", "- 1\n- 2", "must hold a table of settings; got list"),
    "text": ("a.yaml", "just text", "must hold a table of settings; got str"),
    "suffix": ("a.json", "{}", r"has the ending '\.json'; expected \.toml"),
    "none": ("a", "every = 3", "has the ending ''"),
    "field": ("a.toml", "evry = 3", r"a\.toml: `evry` is not a setting"),
    "range": ("a.yaml", "every: 0", r"`every` \(=0\) must be"),
    "table": ("a.toml", "[tool.gradwatch]\nevery = 0", r"`every` \(=0\)"),
    "binary": ("a.toml", b"\xff\xfe\x00", "cannot be read"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_unreadable_file_is_explained(name, tmp_path):
    """The file, what is wrong with it, and what was expected."""
    file, content, message = FILES[name]
    path = tmp_path / file
    if isinstance(content, str):
        path.write_text(content)
    else:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        Settings.load(path)


def test_a_missing_file_or_a_folder_is_explained(tmp_path):
    """The path is named."""
    with pytest.raises(SettingsError, match=r"nope\.toml cannot be read"):
        Settings.coerce(tmp_path / "nope.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.coerce(str(tmp_path))


def test_empty_files_and_foreign_tables_are_the_defaults(tmp_path):
    """A project file without a table for gradwatch changes nothing."""
    for name, content in {
        "a.toml": "",
        "b.yaml": "",
        "c.toml": "[tool.ruff]\nline-length = 88\n",
    }.items():
        (tmp_path / name).write_text(content)
        assert Settings.load(tmp_path / name) == Settings()


def test_yaml_without_pyyaml_says_what_to_install(tmp_path, monkeypatch):
    """The package is named, and the way around it."""
    path = tmp_path / "a.yaml"
    path.write_text("every: 3")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(SettingsError, match=r"pip install PyYAML.*TOML"):
        Settings.load(path)
