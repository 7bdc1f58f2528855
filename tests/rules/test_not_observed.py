"""GW901: layers that could not be seen."""

from gradwatch.findings import Severity
from gradwatch.records import Coverage
from gradwatch.rules.not_observed import NotObserved
from gradwatch.settings import Settings
from gradwatch.structure import Role
from gradwatch.testing import layer_names, make_history, make_step, make_structure

RULE = NotObserved()
NAMES = [*layer_names(6), "head"]


def judge(states, structure=None, reasons=()):
    """Return what the rule says of hand-made records."""
    coverage = dict.fromkeys(NAMES, Coverage.OBSERVED) | states
    step = make_step(coverage=coverage, coverage_reasons=tuple(reasons))
    return RULE.judge(make_history(step), structure or make_structure(), Settings())


def test_unseen_layers_are_a_note_with_the_reason():
    """Not seen is never zero, and never healthy."""
    finding = judge(
        {"layers.2": Coverage.NOT_SEEN}, reasons=[("layers.2", "compiled region")]
    )
    assert finding.severity is Severity.NOTE
    assert finding.layers == ("layers.2",)
    assert "1 of 7" in finding.message
    assert "compiled region" in finding.message


def test_it_does_not_fire_where_all_was_seen():
    """Frozen layers were seen, and uncalled ones belong to another rule."""
    assert judge({}) is None
    assert judge({"layers.2": Coverage.NO_GRADIENT}) is None
    unused = make_structure(roles={"layers.2": Role.UNUSED})
    assert judge({"layers.2": Coverage.NOT_SEEN}, unused) is None


def test_it_says_why_it_cannot_judge():
    """Coverage was not recorded."""
    history = make_history(make_step(coverage={}))
    assert "coverage" in RULE.unmet(history, make_structure(), Settings())
