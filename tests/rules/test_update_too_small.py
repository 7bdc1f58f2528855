"""GW302: steps that are too small."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.update_too_small import UpdateTooSmall
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_chain,
    make_history,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
)

RULE = UpdateTooSmall()
NAMES = [*layer_names(6), "head"]


def probe(step, ratio, **fields):
    """Return a probe whose weights all look the same."""
    weights = [make_parameter(name, update_ratio=ratio) for name in NAMES]
    return make_step(step, **({"parameters": weights, "lr": 1e-6} | fields))


def judge(*probes, losses=()):
    """Return what the rule says of hand-made records."""
    history = make_history(*probes, pulses=make_pulses(losses=list(losses)))
    return RULE.judge(history, make_structure(), Settings())


def test_tiny_updates_are_a_warning():
    """With a flat loss, or one that is not known."""
    assert judge(probe(20, 1e-6)).severity is Severity.WARNING
    finding = judge(probe(20, 1e-6), losses=[2.3] * 21)
    assert finding.severity is Severity.WARNING
    assert "about 0.001 would be usual" in finding.help


def test_a_loss_that_falls_slowly_makes_it_a_note():
    """Between half and nine tenths of the first."""
    losses = [2.3 * 0.98**i for i in range(21)]
    assert judge(probe(20, 1e-6), losses=losses).severity is Severity.NOTE


QUIET = {
    "healthy": ([probe(20, 1e-3)], ()),
    "converged: the loss is below half": (
        [probe(20, 1e-6)],
        [2.0 * 0.9**i for i in range(21)],
    ),
    "moved before": ([probe(10, 1e-3), probe(20, 1e-6)], ()),
    "warm-up": ([probe(10, 1e-7, lr=1e-7), probe(20, 1e-6)], ()),
    "schedule has run down": ([probe(0, 1e-6, lr=1e-3), probe(20, 1e-6)], ()),
    "learning rate of zero": ([probe(20, 0.0, lr=0.0)], ()),
    "first steps": ([probe(5, 1e-6)], ()),
    "the profile is sick": ([probe(20, 1e-6, chains=[make_chain(decades=3.0)])], ()),
    "no gradient at all": (
        [
            probe(
                20,
                1e-6,
                parameters=[
                    make_parameter(n, update_ratio=0.0, grad_norm=0.0) for n in NAMES
                ],
            )
        ],
        (),
    ),
}


@pytest.mark.parametrize(("probes", "losses"), QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(probes, losses):
    """Traps of facts B2 that records can see."""
    assert judge(*probes, losses=losses) is None


UNMET = {
    "no update": (make_step(20, parameters=[]), "no applied update"),
    "first steps": (probe(5, 1e-6), "fewer than 20 steps"),
    "zero rate": (probe(20, 0.0, lr=0.0), "learning rate is zero"),
}


@pytest.mark.parametrize(("record", "reason"), UNMET.values(), ids=UNMET)
def test_it_says_why_it_cannot_judge(record, reason):
    """In plain words."""
    assert reason in RULE.unmet(make_history(record), make_structure(), Settings())
