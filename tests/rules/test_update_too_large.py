"""GW301: steps that are too large."""

import pytest

from gradwatch.findings import Health, Severity
from gradwatch.rules.update_too_large import UpdateTooLarge
from gradwatch.settings import Settings
from gradwatch.structure import Role
from gradwatch.testing import (
    layer_names,
    make_history,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
)

RULE = UpdateTooLarge()
NAMES = [*layer_names(6), "head"]


def judge(ratios, losses=(), structure=None, lr=0.5, **fields):
    """Return what the rule says of hand-made records."""
    weights = [
        make_parameter(name, update_ratio=ratio, **fields)
        for name, ratio in zip(NAMES, ratios, strict=True)
    ]
    pulses = make_pulses(losses=list(losses))
    history = make_history(make_step(20, parameters=weights, lr=lr), pulses=pulses)
    return RULE.judge(history, structure or make_structure(), Settings())


def test_large_updates_are_a_warning():
    """A tenth of the weight in one step; ten times that is critical."""
    finding = judge([0.2] * 7)
    assert finding.severity is Severity.WARNING
    assert finding.health is Health.UNSTABLE
    assert "about 0.0025 would be usual" in finding.help
    assert judge([1.5] * 7).severity is Severity.CRITICAL


def test_a_falling_loss_makes_it_a_note():
    """Whatever the ratio, it learns."""
    losses = [2.0 * 0.9**i for i in range(21)]
    assert judge([0.2] * 7, losses).severity is Severity.NOTE


QUIET = {
    "healthy": ([3e-2] * 7, {}),
    "three of seven layers": ([0.5] * 3 + [1e-3] * 4, {}),
    "not measured": ([None] * 7, {}),
    "all-zero weights (LoRA B)": ([5.0] * 7, {"zero_weight": True}),
    "no gradient": ([0.5] * 7, {"grad_norm": None}),
    "biases and gains": ([0.5] * 7, {"ndim": 1}),
}


@pytest.mark.parametrize(("ratios", "fields"), QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(ratios, fields):
    """The median over weight matrices decides."""
    assert judge(ratios, **fields) is None


def test_embeddings_are_left_out():
    """Most of their rows get no gradient."""
    structure = make_structure(roles=dict.fromkeys(NAMES, Role.EMBEDDING))
    assert judge([0.5] * 7, structure=structure) is None


def test_it_says_why_it_cannot_judge():
    """No update was measured."""
    history = make_history(make_step(parameters=[]))
    assert "no applied update" in RULE.unmet(history, make_structure(), Settings())


def early_blow_up(losses):
    """Return a history whose first probes had large updates and whose last has not."""
    probes = [
        make_step(
            step,
            parameters=[make_parameter(name, update_ratio=ratio) for name in NAMES],
            loss=loss,
        )
        for (step, ratio), loss in zip(
            [(0, 9.0), (1, 0.7), (5, 0.2), (20, 0.02), (50, 0.005)], losses, strict=True
        )
    ]
    return make_history(*probes)


def test_a_blow_up_that_the_loss_did_not_recover_from_stands():
    """Grown weights make the same rate look small; the harm is done."""
    hurt = early_blow_up([2.9, 4.8, 5.0, 3.0, 2.9])
    finding = RULE.judge(hurt, make_structure(), Settings())
    assert finding.severity >= Severity.WARNING
    assert finding.evidence[0].steps == (0, 0)


def test_a_blow_up_that_is_overcome_is_over():
    """The loss falls below nine tenths of its first value."""
    fine = early_blow_up([2.9, 4.8, 3.4, 2.0, 1.0])
    assert RULE.judge(fine, make_structure(), Settings()) is None


def test_a_blow_up_after_which_the_loss_doubled_needs_less():
    """Divergence, and updates beyond the limit before it."""
    diverged = early_blow_up([2.9, 3.8, 6.4, 6.2, 6.0])
    finding = RULE.judge(diverged, make_structure(), Settings())
    assert finding.severity is Severity.WARNING
    assert finding.evidence[0].steps == (5, 5)


def test_the_first_steps_of_adam_are_a_note():
    """They are as large as the rate, however small the gradient."""
    weights = [make_parameter(name, update_ratio=0.14) for name in NAMES]
    for step, expected in ((2, Severity.NOTE), (5, Severity.WARNING)):
        history = make_history(make_step(step, parameters=weights))
        finding = RULE.judge(history, make_structure(), Settings())
        assert finding.severity is expected
