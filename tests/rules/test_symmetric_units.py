"""GW108: layers whose units are all the same."""

import pytest

from gradwatch.findings import Health, Severity
from gradwatch.rules.symmetric_units import SymmetricUnits
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_history,
    make_parameter,
    make_step,
    make_structure,
)

RULE = SymmetricUnits()
NAMES = [*layer_names(6), "head"]


def history_of(equal, update=1e-3, probes=3):
    """Return probes at which the named layers have equal rows."""
    return make_history(
        *(
            make_step(
                step,
                parameters=[
                    make_parameter(
                        name, update_ratio=update, equal_rows=equal.get(name, False)
                    )
                    for name in NAMES
                ],
            )
            for step in range(probes)
        )
    )


def judge(history):
    """Return what the rule says."""
    return RULE.judge(history, make_structure(), Settings())


def test_equal_rows_that_stay_equal_are_a_warning():
    """Steps moved the weights and did not tell the units apart."""
    finding = judge(history_of({NAMES[1]: True, NAMES[2]: True}))
    assert finding.severity is Severity.WARNING
    assert finding.health is Health.STALLED
    assert finding.layers == (NAMES[1], NAMES[2])


QUIET = {
    "random rows": history_of({}),
    "not measured": history_of(dict.fromkeys(NAMES)),
    "weights that did not move": history_of(dict.fromkeys(NAMES, True), update=0.0),
    "the head alone": history_of({"head": True}),
    "one probe": history_of(dict.fromkeys(NAMES, True), probes=1),
}


@pytest.mark.parametrize("history", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(history):
    """Only symmetry that training keeps counts."""
    assert judge(history) is None


def test_one_probe_is_not_enough():
    """Before a second probe nobody knows whether a step breaks the symmetry."""
    history = history_of(dict.fromkeys(NAMES, True), probes=1)
    assert RULE.unmet(history, make_structure(), Settings()) == "fewer than 2 probes"
