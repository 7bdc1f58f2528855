"""Which clip value a run asks for, and when clipping is no answer."""

from statistics import median, quantiles

import pytest
import torch
from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.recipe import Recipe
from gradwatch.remedies.clip_gradients import ClipGradients
from gradwatch.rules import RULES
from gradwatch.testing import make_chain, make_pulses
from tests.remedies.cases import finding, offers, refusals
from tests.remedies.runs import ADAM, SGD, probe, run, spiky

REMEDY = ClipGradients()


def clipped(norm=100.0, to=1.0, count=50):
    """Return pulses that are all clipped."""
    return make_pulses([norm] * count, step_grad_norm=to, clip_factor=to / norm)


def test_spikes_are_clipped_at_the_percentiles_of_the_run_itself():
    """The 10th first, as measured; then the median and the 90th; all are named."""
    pulses = spiky()
    norms = [pulse.grad_norm for pulse in pulses]
    found = offers(REMEDY, run("GW204", probe(100), pulses=pulses))
    tenths = quantiles(norms, n=10, method="inclusive")
    for offer, expected, learned in zip(
        found, (tenths[0], median(norms), tenths[-1]), (11, 7, 1), strict=True
    ):
        assert offer.options["max_norm"] == pytest.approx(expected)
        assert REMEDY.recipe(offer).max_grad_norm == pytest.approx(expected)
        assert "is 5 at the median step, 1 and 9 at the 10th and 90th percentile" in (
            offer.why
        )
        assert "and 300 at most; 3 jumps stand out" in offer.why
        assert offer.record.startswith(f"{learned} of 12")


def test_skipped_and_non_finite_steps_do_not_count():
    """Their norms are no norms."""
    inf = float("inf")
    pulses = [
        *spiky(),
        *make_pulses([inf] * 20, start=100, finite=False),
        *make_pulses([1e9] * 20, start=120, skipped=True),
    ]
    *_, high = offers(REMEDY, run("GW204", probe(139), pulses=pulses))
    assert high.options["max_norm"] == pytest.approx(9.0)


def test_the_line_clips():
    """It is run on a model."""
    *_, offer = offers(REMEDY, run("GW204", probe(100), pulses=spiky()))
    model = nn.Linear(4, 4)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    exec(offer.code, {"torch": torch, "model": model})
    total = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert float(total) == pytest.approx(9.0, rel=1e-3)


def test_clipping_that_is_tight_enough_already_is_left_alone():
    """Both values are named; a looser one leaves the tighter values on offer."""
    anatomy = Anatomy(optimizer=SGD, grad_clip=0.5)
    case = run("GW204", probe(100), pulses=spiky(), anatomy=anatomy)
    (refusal,) = refusals(REMEDY, case)
    assert refusal.reason == (
        "Gradients are already clipped to 0.5, below the 10th percentile of their "
        "norm, 1."
    )
    anatomy = Anatomy(optimizer=SGD, grad_clip=5.0)
    case = run("GW204", probe(100), pulses=spiky(), anatomy=anatomy)
    assert [offer.options["max_norm"] for offer in offers(REMEDY, case)] == [1.0]


def test_too_few_norms_give_no_value():
    """Ten are needed."""
    case = run("GW204", probe(9), pulses=make_pulses([1.0] * 9))
    assert "Fewer than 10" in refusals(REMEDY, case)[0].reason


def test_under_adam_it_says_what_clipping_does_there():
    """It keeps a jump out of its memory."""
    case = run("GW204", probe(100), pulses=spiky(), optimizer=ADAM)
    assert "memory" in offers(REMEDY, case)[0].caution
    assert not offers(REMEDY, run("GW204", probe(100), pulses=spiky()))[0].caution


@pytest.mark.parametrize("code", ["GW301", "GW205"])
def test_too_large_updates_and_nan_are_clipped_only_after_spikes(code):
    """Steady norms are no spikes."""
    assert offers(REMEDY, run(code, probe(100, 0.5), pulses=spiky()))
    steady = run(code, probe(100, 0.5), pulses=make_pulses([1.0] * 100))
    assert not offers(REMEDY, steady)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("GW101", "cannot enlarge a gradient: it repaired 0 of 36"),
        ("GW102", "cannot enlarge a gradient"),
        ("GW107", "cannot enlarge a gradient"),
        ("GW201", "0 of 27"),
        ("GW203", "0 of 27"),
        ("GW302", "cannot enlarge"),
    ],
)
def test_clipping_is_refused_where_folk_advice_has_it(code, words):
    """Even in a run with spikes."""
    case = run(code, probe(100), pulses=spiky())
    assert not offers(REMEDY, case)
    (refusal,) = refusals(REMEDY, case)
    assert words in refusal.reason


@pytest.mark.parametrize(("norm", "value"), [(1e6, 1.0), (0.2, 0.2)])
def test_explosion_through_time_gets_the_usual_value_with_its_poor_record(norm, value):
    """Percentiles of a run that explodes at every step are exploded too."""
    case = run("GW202", probe(20), pulses=make_pulses([norm] * 20))
    (offer,) = offers(REMEDY, case)
    assert offer.options == {"max_norm": value}
    assert "0 of 3" in offer.record
    assert "leaves the cause" in offer.caution


@pytest.mark.parametrize("code", ["GW201", "GW202", "GW203"])
def test_clipping_that_hides_an_explosion_points_to_the_explosion(code):
    """The cause stands among the findings."""
    case = run("GW303", probe(50), pulses=clipped(), findings=(finding(code),))
    (refusal,) = refusals(REMEDY, case)
    assert refusal.reason.startswith(f"Clipping hides {code}")


def test_an_explosion_too_small_for_a_finding_is_seen_behind_clipping():
    """From two decades on."""
    case = run("GW303", probe(50, chains=[make_chain(decades=-2.4)]), pulses=clipped())
    (refusal,) = refusals(REMEDY, case)
    assert "grows 2.4 decades" in refusal.reason


def test_a_looser_clip_keeps_the_length_of_an_ordinary_step_under_sgd():
    """Clip times rate stays as it was; Adam does not mind."""
    high, middle = offers(REMEDY, run("GW303", probe(50), pulses=clipped()))
    assert high.options == {"max_norm": 100.0, "factor": 0.01}
    assert REMEDY.recipe(middle) == Recipe(max_grad_norm=100.0, lr_factor=0.01)
    case = run("GW303", probe(50), pulses=clipped(), optimizer=ADAM)
    assert "factor" not in offers(REMEDY, case)[0].options


def test_without_norms_a_clip_cannot_be_loosened():
    """Nothing to choose from."""
    (refusal,) = refusals(REMEDY, run("GW303", probe(50)))
    assert "not known" in refusal.reason


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(run(rule.code, probe(100), pulses=spiky())))
