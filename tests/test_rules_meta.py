"""All rules hold to one template: identity, docstring, settings, page, file, test."""

import importlib
import re
from pathlib import Path

import pytest

from gradwatch.history import History
from gradwatch.rules import RULES, Rule
from gradwatch.rules.pages import HEADINGS, index, pages, sections
from gradwatch.settings import Settings
from gradwatch.structure import Structure
from gradwatch.testing import make_history, make_step, make_structure

ROOT = Path(__file__).resolve().parent.parent
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def test_codes_and_names_are_unique_and_in_order():
    """The tuple is the register."""
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_every_rule_class_is_registered():
    """A file that is not in the tuple would never run."""
    ours = {c for c in Rule.__subclasses__() if c.__module__.startswith("gradwatch.")}
    assert {type(rule) for rule in RULES} == ours


@each_rule
def test_identity_has_the_format(rule):
    """GW and three digits; a noun in kebab case; one line."""
    assert re.fullmatch(r"GW[1-39]\d\d", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
    assert rule.summary.endswith(".")
    assert len(rule.summary) < 80


@each_rule
def test_file_class_and_test_carry_the_name(rule):
    """vanishing-gradient: vanishing_gradient.py, VanishingGradient, its test."""
    snake = rule.name.replace("-", "_")
    assert type(rule).__module__ == f"gradwatch.rules.{snake}"
    assert type(rule).__name__ == "".join(map(str.title, rule.name.split("-")))
    assert (ROOT / "tests" / "rules" / f"test_{snake}.py").exists()
    module = importlib.import_module(type(rule).__module__)
    assert module.__doc__.startswith(rule.code)


@each_rule
def test_docstring_has_the_headings_in_order(rule):
    """What it does, why it matters, evidence, remedies, references."""
    parts = sections(rule)
    assert tuple(parts) == ("", *HEADINGS)
    assert all(parts.values())


@each_rule
def test_settings_exist_and_are_named_in_the_text(rule):
    """No limit hides in a default argument."""
    text = "\n".join(sections(rule).values())
    for name in rule.settings_used:
        assert name in Settings.model_fields
        assert f"`{name}`" in text


@each_rule
def test_remedies_have_the_format_of_remedies(rule):
    """Verbs in kebab case; the register of remedies checks that they exist."""
    assert len(set(rule.remedies)) == len(rule.remedies)
    for name in rule.remedies:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)


@each_rule
def test_a_rule_bears_an_empty_history(rule):
    """Nothing measured: no finding, and a reason in plain words."""
    assert rule.judge(History(), Structure(), Settings()) is None
    assert rule.unmet(History(), Structure(), Settings()) == "no probe yet"


@each_rule
def test_a_rule_bears_a_probe_without_measurements(rule):
    """A compiled model gives parameters at best."""
    bare = make_step(0, chains=[], layers=[], parameters=[], coverage={})
    assert rule.judge(make_history(bare), Structure(), Settings()) is None


@each_rule
def test_a_rule_is_silent_on_a_healthy_network(rule):
    """At every probe."""
    probes = [make_step(step, loss=1.0 / (1 + step)) for step in (0, 1, 2, 5, 10, 50)]
    for count in range(1, len(probes) + 1):
        history = make_history(*probes[:count])
        assert rule.judge(history, make_structure(), Settings()) is None


@pytest.mark.parametrize("name", pages(), ids=str)
def test_pages_are_in_step(name):
    """Run `python -m gradwatch.rules.pages docs/rules` after a change."""
    file = ROOT / "docs" / "rules" / name
    assert file.read_text("utf-8") == pages()[name]


def test_the_index_lists_every_rule():
    """By code."""
    assert all(rule.code in index() for rule in RULES)


def test_no_page_is_left_over():
    """A renamed rule takes its page with it."""
    found = {file.name for file in (ROOT / "docs" / "rules").glob("*.md")}
    assert found == set(pages())
