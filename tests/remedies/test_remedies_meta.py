"""All remedies hold to one template: identity, docstring, page, file, test, answers."""

import importlib
import re
from pathlib import Path

import pytest

from gradwatch.anatomy import Anatomy
from gradwatch.history import History
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies import REMEDIES, Case, Remedy
from gradwatch.remedies.pages import HEADINGS, answered, index, pages, sections
from gradwatch.rules import RULES
from gradwatch.structure import Structure
from tests.remedies.cases import case, chain, finding

ROOT = Path(__file__).resolve().parents[2]
#: Section 5 of the design, in its order.
DESIGNED = (
    *("swap-activation", "initialise-weights", "add-normalisation", "add-residual"),
    *("gated-cell", "orthogonal-recurrence", "clip-gradients", "adjust-learning-rate"),
    *("change-optimizer", "weight-decay", "gradient-amplification", "pretrain-layers"),
    *("loss-scaling", "normalise-data", "revive-units", "reconnect"),
    *("attention-or-truncation", "weight-search"),
)
each_remedy = pytest.mark.parametrize("remedy", REMEDIES, ids=lambda r: r.name)
each_code = pytest.mark.parametrize("code", [rule.code for rule in RULES])


def test_the_eighteen_remedies_of_the_design_exist_once_each():
    """The tuple is the register."""
    names = [remedy.name for remedy in REMEDIES]
    assert sorted(names) == sorted(DESIGNED)
    assert len(DESIGNED) == 18


def test_every_remedy_class_is_registered():
    """A file that is not in the tuple would never be asked."""
    ours = {c for c in Remedy.__subclasses__() if c.__module__.startswith("gradwatch.")}
    assert {type(remedy) for remedy in REMEDIES} == ours


def test_every_remedy_that_a_rule_names_exists():
    """And every remedy is named by a rule, or nobody would recommend it."""
    names = {remedy.name for remedy in REMEDIES}
    assert {name for rule in RULES for name in rule.remedies} == names


@each_remedy
def test_identity_has_the_format(remedy):
    """A verb and an object in kebab case; one line."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", remedy.name)
    assert remedy.summary.endswith(".")
    assert len(remedy.summary) < 80
    assert isinstance(remedy.risk, Risk)


@each_remedy
def test_file_class_and_test_carry_the_name(remedy):
    """gated-cell: gated_cell.py, GatedCell, test_gated_cell.py."""
    snake = remedy.name.replace("-", "_")
    assert type(remedy).__module__ == f"gradwatch.remedies.{snake}"
    assert type(remedy).__name__ == "".join(map(str.title, remedy.name.split("-")))
    assert (ROOT / "tests" / "remedies" / f"test_{snake}.py").exists()
    assert importlib.import_module(type(remedy).__module__).__doc__


@each_remedy
def test_docstring_has_the_headings_in_order(remedy):
    """When it applies, when never, what apply does, record, risk, references."""
    parts = sections(remedy)
    assert tuple(parts) == ("", *HEADINGS)
    assert all(parts.values())


@each_code
@each_remedy
def test_a_remedy_has_a_word_on_every_finding_of_an_unknown_network(remedy, code):
    """Nothing is known but the finding: an answer, and no error."""
    said = list(remedy.propose(Case(finding(code))))
    assert said
    for answer in said:
        assert answer.remedy == remedy.name
        assert answer.answers == (code,)


@each_code
@each_remedy
def test_every_answer_is_fit_to_be_read(remedy, code):
    """On a chain of layers: sentences, plain options, a risk not above its own."""
    worst = list(Risk).index(remedy.risk)
    for answer in remedy.propose(case(code, anatomy=chain(activation="relu"))):
        if isinstance(answer, Rejection):
            assert answer.reason.endswith(".")
            continue
        assert isinstance(answer, Recommendation)
        assert answer.title
        assert answer.why.endswith(".")
        assert answer.code
        assert answer.record
        assert answer.source
        assert all(
            isinstance(value, str | float | int | bool)
            for value in answer.options.values()
        )
        assert isinstance(remedy.recipe(answer), Recipe) or not answer.can_apply
        if answer.risk is not Risk.ADVICE:
            assert list(Risk).index(answer.risk) <= worst


@each_remedy
def test_a_remedy_holds_no_state(remedy):
    """The same case gives the same answer."""
    asked = Case(finding(), (), Structure(), Anatomy(), History())
    assert list(remedy.propose(asked)) == list(remedy.propose(asked))


@pytest.mark.parametrize("name", pages(), ids=str)
def test_pages_are_in_step(name):
    """Run `python -m gradwatch.remedies.pages docs/remedies` after a change."""
    file = ROOT / "docs" / "remedies" / name
    assert file.read_text("utf-8") == pages()[name]


def test_the_index_lists_every_remedy_with_the_rules_that_name_it():
    """By name and code."""
    for remedy in REMEDIES:
        (row,) = (line for line in index().splitlines() if f"[{remedy.name}]" in line)
        assert all(code in row for code in answered(remedy))


def test_no_page_is_left_over():
    """A renamed remedy takes its page with it."""
    found = {file.name for file in (ROOT / "docs" / "remedies").glob("*.md")}
    assert found == set(pages())
