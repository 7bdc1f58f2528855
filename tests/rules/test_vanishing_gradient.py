"""GW101: D along the trunk, with and without a consequence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.findings import Health, Severity
from gradwatch.records import PointRecord
from gradwatch.rules.vanishing_gradient import VanishingGradient
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_chain,
    make_history,
    make_layer,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
    scaled,
)

RULE = VanishingGradient()
NAMES = [*layer_names(6), "head"]


def judge(history, structure=None, settings=None):
    """Return what the rule says of hand-made records."""
    return RULE.judge(history, structure or make_structure(), settings or Settings())


def starved(low=1e-5, high=1e-3):
    """Return weights of which the lower third is updated far less."""
    ratios = [low, low, 3e-4, 3e-4, high, high, high]
    return [
        make_parameter(name, update_ratio=ratio)
        for name, ratio in zip(NAMES, ratios, strict=True)
    ]


def weak():
    """Return layers whose signal is lost on the way."""
    return [
        make_layer(name, i, sample_signal=0.7 * 0.3**i) for i, name in enumerate(NAMES)
    ]


SICK = {
    "starved updates": {"parameters": starved()},
    "weak signal": {"layers": weak()},
}


@pytest.mark.parametrize("fields", SICK.values(), ids=SICK.keys())
def test_a_faded_gradient_with_a_consequence_is_a_warning(fields):
    """Starved updates or a lost signal turn the note into a warning."""
    step = make_step(5, chains=[make_chain(decades=2.6)], **fields)
    finding = judge(make_history(step))
    assert finding.severity is Severity.WARNING
    assert finding.health is Health.VANISHING
    assert finding.evidence[0].value == pytest.approx(2.6)
    assert finding.evidence[0].limit == 2.0
    assert finding.layers == ("layers.0", "layers.1")


def test_four_decades_with_a_consequence_are_critical():
    """The limit is `severe_decades`."""
    step = make_step(5, chains=[make_chain(decades=4.1)], parameters=starved())
    assert judge(make_history(step)).severity is Severity.CRITICAL


def test_a_flat_loss_is_a_consequence():
    """Where the loss is known over twenty steps and has not fallen."""
    step = make_step(22, chains=[make_chain(decades=2.5)])
    flat = make_pulses(losses=[2.3] * 23)
    assert judge(make_history(step, pulses=flat)).severity is Severity.WARNING
    falling = make_pulses(losses=[2.3 * 0.9**i for i in range(23)])
    assert judge(make_history(step, pulses=falling)).severity is Severity.NOTE
    short = make_pulses(losses=[2.3] * 15)
    assert judge(make_history(step, pulses=short)).severity is Severity.NOTE


@pytest.mark.parametrize("ratio", [1e-6, 0.3], ids=["too small", "too large"])
def test_a_learning_rate_explains_a_flat_loss(ratio):
    """A flat loss says nothing of the profile where the updates are to blame."""
    weights = [make_parameter(name, update_ratio=ratio) for name in NAMES]
    step = make_step(12, chains=[make_chain(decades=2.5)], parameters=weights)
    history = make_history(step, pulses=make_pulses(losses=[2.3] * 13))
    assert judge(history).severity is Severity.NOTE


def test_a_faded_gradient_alone_is_a_note():
    """LayerScale of 1e-5 loses 5 decades and trains well under AdamW (facts B2b)."""
    step = make_step(5, chains=[make_chain(decades=5.3)])
    assert judge(make_history(step)).severity is Severity.NOTE


def test_module_order_caps_at_a_note():
    """Execution order is wrong for 24 of 41 published architectures (facts B2b)."""
    chain = make_chain(decades=4.5, structure_known=False)
    finding = judge(make_history(make_step(5, chains=[chain], parameters=starved())))
    assert finding.severity is Severity.NOTE
    assert "module order" in finding.message


HEALTHY = {
    "below the limit": make_chain(decades=1.9),
    "grows": make_chain(decades=-3.0),
    "two points": make_chain(norms=[1e-4, 1.0]),
    "frozen prefix: no gradient is not zero": make_chain(
        norms=[None, None, 0.9, 1.0, 1.0]
    ),
    "exact zeros are dropped": make_chain(norms=[0.0, 0.8, 0.9, 1.0]),
    "narrow layers: widened limit": make_chain(decades=2.5, points=20, width=8),
}


@pytest.mark.parametrize("chain", HEALTHY.values(), ids=HEALTHY.keys())
def test_it_does_not_fire_on(chain):
    """Traps of facts B2 that the profile can see, each with starved updates."""
    assert (
        judge(make_history(make_step(5, chains=[chain], parameters=starved()))) is None
    )


def test_zero_initialisation_downstream_gives_no_verdict():
    """Exact zeros below an all-zero weight say nothing yet."""
    chain = make_chain(norms=[1e-4, 0.0, 0.0, 1e-1, 1.0])
    step = make_step(0, chains=[chain], zero_init_downstream=True)
    assert judge(make_history(step)) is None
    reason = RULE.unmet(make_history(step), make_structure(), Settings())
    assert "all zero" in reason


def test_a_funnel_is_judged_by_its_gradient_alone():
    """Widths from 1024 to 8 change nothing but the allowance of the narrow end."""
    widths = [1024, 256, 64, 32, 16, 8]
    points = tuple(
        PointRecord(f"layers.{i}", f"layers.{i}", 1.0, width)
        for i, width in enumerate(widths)
    )
    chain = make_chain()
    chain = type(chain)("layers.0", points)
    assert judge(make_history(make_step(5, chains=[chain]))) is None


NOT_ENOUGH = {
    "no probe": (make_history(), "no probe"),
    "no chain": (make_history(make_step(chains=[])), "fewer than 3 hidden points"),
    "two points": (
        make_history(make_step(chains=[make_chain(points=2)])),
        "fewer than 3 trunk points",
    ),
}


@pytest.mark.parametrize(("history", "reason"), NOT_ENOUGH.values(), ids=NOT_ENOUGH)
def test_it_says_why_it_cannot_judge(history, reason):
    """Not measured is neither zero nor healthy."""
    assert judge(history) is None
    assert reason in RULE.unmet(history, make_structure(), Settings())


def test_the_stream_that_is_sick_is_named():
    """An encoder behind cross-attention is a chain of its own."""
    chains = [make_chain(), make_chain(decades=3.0, prefix="encoder", main=False)]
    finding = judge(make_history(make_step(5, chains=chains)))
    assert "in the stream from encoder.0" in finding.message
    assert finding.layers == ("encoder.0", "encoder.1")


def test_a_slope_is_told_from_a_break():
    """The message says in words of the net where the gradient goes."""
    slope = judge(make_history(make_step(5, chains=[make_chain(decades=5.0)])))
    assert "loses 5.0 decades between layers.5 and layers.0 (1.00 a layer)" in (
        slope.message
    )
    assert "smooth slope" in slope.message
    chain = make_chain(norms=[1e-3, 1e-3, 1e-3, 1.0, 1.0, 1.0])
    finding = judge(make_history(make_step(5, chains=[chain])))
    assert "one break between layers.3 and layers.2" in finding.message
    assert finding.origin == "layers.2"


def test_tied_modules_count_once():
    """A module called twice gives two points and one listed layer."""
    chain = make_chain(decades=3.0)
    points = (chain.points[0], *chain.points)
    step = make_step(5, chains=[type(chain)("layers.0", points)])
    assert judge(make_history(step)).layers.count("layers.0") == 1


@given(
    decades=st.floats(-6, 6),
    exponent=st.floats(-6, 6),
    low=st.floats(1e-6, 1e-2),
)
def test_the_scale_of_the_loss_changes_nothing(decades, exponent, low):
    """Multiplying every gradient by a constant changes no verdict."""
    step = make_step(5, chains=[make_chain(decades=decades)], parameters=starved(low))
    history = make_history(step)
    before, after = judge(history), judge(scaled(history, 10**exponent))
    if not math.isclose(decades, 2.0, abs_tol=1e-9):
        assert (before is None) == (after is None)
    if before and after:
        assert before.severity == after.severity


def test_reasons_are_joined_as_a_sentence_is():
    """Commas, and one `and` before the last."""
    step = make_step(
        22, chains=[make_chain(decades=4.5)], parameters=starved(), layers=weak()
    )
    flat = make_pulses(losses=[2.3] * 23)
    message = judge(make_history(step, pulses=flat)).message
    reasons = message.partition("; ")[2]
    assert reasons == (
        "the lower layers move 0.01 times as far as the upper ones, the outputs of "
        "layers.5 hardly depend on the input and the loss is still at 100% of its "
        "first value."
    )


def test_a_halved_loss_makes_a_note():
    """Whatever the lower layers get, the network learns."""
    step = make_step(22, chains=[make_chain(decades=3.0)], parameters=starved())
    falling = make_pulses(losses=[2.3 * 0.9**i for i in range(23)])
    assert judge(make_history(step)).severity is Severity.WARNING
    assert judge(make_history(step, pulses=falling)).severity is Severity.NOTE
