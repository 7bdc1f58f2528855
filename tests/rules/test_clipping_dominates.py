"""GW303: clipping that decides the step."""

import pytest

from gradwatch.findings import Severity
from gradwatch.rules.clipping_dominates import ClippingDominates
from gradwatch.settings import Settings
from gradwatch.testing import make_history, make_pulses, make_step, make_structure

RULE = ClippingDominates()


def judge(factor, losses=None, hard=100, length=100):
    """Return what the rule says of hand-made records."""
    norms = [1.0 / (factor or 1.0)] * length
    pulses = make_pulses(norms, losses=losses, clip_factor=factor)
    pulses = pulses[:hard] + make_pulses(
        [1.0] * (length - hard), start=hard, clip_factor=1.0
    )
    history = make_history(make_step(length - 1), pulses=pulses)
    return RULE.judge(history, make_structure(), Settings())


def test_hard_clipping_is_a_note_and_with_a_flat_loss_a_warning():
    """Adaptive optimizers do not mind the size of the gradient."""
    finding = judge(0.05)
    assert finding.severity is Severity.NOTE
    assert finding.evidence[1].value == pytest.approx(20.0)
    assert judge(0.05, losses=[2.3] * 100).severity is Severity.WARNING
    falling = [2.3 * 0.98**i for i in range(100)]
    assert judge(0.05, losses=falling).severity is Severity.NOTE


QUIET = {
    "not clipped": {"factor": 1.0},
    "clipped by five": {"factor": 0.2},
    "four steps of ten": {"factor": 0.05, "hard": 40},
    "few steps": {"factor": 0.05, "hard": 15, "length": 15},
    "not read": {"factor": None},
}


@pytest.mark.parametrize("fields", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(fields):
    """More than half of the steps, by more than ten times."""
    assert judge(**fields) is None


def test_it_says_why_it_cannot_judge():
    """Clipping was not read."""
    history = make_history(make_step())
    assert "fewer than 20" in RULE.unmet(history, make_structure(), Settings())
