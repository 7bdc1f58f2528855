"""When half precision is to blame, and what keeps gradients in its range."""

import pytest
import torch
from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Risk
from gradwatch.remedies.loss_scaling import LossScaling
from gradwatch.rules import RULES
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import probe, run

REMEDY = LossScaling()
AUTOCAST = Anatomy(autocast="float16")


def half(code="GW107", anatomy=AUTOCAST, scale=1.0):
    """Return a run in float16."""
    return run(code, probe(30, float16=True, loss_scale=scale), anatomy=anatomy)


def test_underflow_asks_for_a_dynamic_scale_then_for_bfloat16():
    """As in facts C."""
    scale, bfloat16 = offers(REMEDY, half())
    assert REMEDY.recipe(scale) == Recipe(loss_scaling=True)
    assert REMEDY.recipe(bfloat16) == Recipe(autocast="bfloat16")
    assert scale.can_apply
    assert scale.risk is Risk.SAFE


def test_overflow_asks_for_bfloat16_first():
    """A loss scale does not keep activations below 65504."""
    first, second = offers(REMEDY, half("GW205"))
    assert first.options == {"autocast": "bfloat16"}
    assert second.options == {"scale": "dynamic"}


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1.0, "No loss scale is in use"),
        (128.0, "The loss scale is 128"),
        (None, "not known"),
    ],
)
def test_the_scale_in_use_is_told(scale, words):
    """As the newest probe saw it."""
    assert words in offers(REMEDY, half(scale=scale))[0].why


def test_weights_in_float16_must_be_float32_first():
    """GradScaler refuses float16 gradients, so no code of ours can do it alone."""
    for offer in offers(REMEDY, half(anatomy=Anatomy(dtype="float16"))):
        assert offer.code.startswith("model.float()")
        assert offer.risk is Risk.ADVICE
        assert not offer.can_apply
    assert "model.float()" not in offers(REMEDY, half())[0].code


@pytest.mark.parametrize("number", [0, 1])
def test_the_lines_train_a_step(number):
    """On the processor, where a GradScaler works too (slowly)."""
    offer = offers(REMEDY, half())[number]
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    scope = {
        "torch": torch,
        "model": model,
        "optimizer": optimizer,
        "batch": torch.randn(8, 4),
        "target": torch.randn(8, 4),
        "loss_fn": lambda output, target: ((output - target) ** 2).mean(),
    }
    exec(offer.code.replace('"cuda"', '"cpu"'), scope)
    if number == 1:
        scope["loss"].backward()
        optimizer.step()
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("code", ["GW107", "GW205"])
def test_other_precisions_are_not_at_fault(code):
    """float32 and bfloat16 reach from 1e-38 to 3e38."""
    for dtype in ("float32", "bfloat16"):
        case = run(code, probe(30), anatomy=Anatomy(dtype=dtype))
        (refusal,) = refusals(REMEDY, case)
        assert refusal.reason == f"No float16 was seen: training is in {dtype}."


def test_it_has_a_word_on_every_rule():
    """Only the two that precision can cause get an offer."""
    offered = {rule.code for rule in RULES if offers(REMEDY, half(rule.code))}
    assert offered == {"GW107", "GW205"}
