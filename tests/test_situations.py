"""Which situation a finding describes."""

import pytest

from gradwatch.anatomy import ActivationSite, Anatomy, InputFacts, WeightFacts
from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity
from gradwatch.situations import Situation, main_activation, situation
from gradwatch.structure import ResidualSpan, Structure


def finding(code, since=0):
    """Return a finding that says only what a situation is read from."""
    return Finding(
        code=code,
        name="x",
        health=Health.VANISHING,
        severity=Severity.WARNING,
        confidence=Confidence.HIGH,
        layers=("0",),
        message="",
        help="",
        evidence=(Evidence("D", 3.0, 2.0, "decades", (0, 0)),),
        since_step=since,
    )


def net(activation="relu", count=10, **fields):
    """Return the anatomy of a plain network of one activation."""
    return Anatomy(
        weights=tuple(WeightFacts(str(i), "Linear") for i in range(count)),
        sites=tuple(ActivationSite(str(i), activation) for i in range(count - 1)),
        **fields,
    )


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("sigmoid", Situation.VANISHING_SIGMOID),
        ("hardsigmoid", Situation.VANISHING_SIGMOID),
        ("tanh", Situation.VANISHING_TANH),
        ("relu", Situation.VANISHING_RELU),
        ("gelu", Situation.VANISHING_RELU),
    ],
)
def test_vanishing_is_told_apart_by_the_activation(activation, expected):
    """Each has a cure of its own."""
    assert situation(finding("GW101"), Structure(), net(activation)) is expected
    assert situation(finding("GW105"), Structure(), net(activation)) is expected


def test_a_gate_does_not_decide_what_the_network_is_made_of():
    """Sigmoids that may not be swapped are not its activation."""
    gates = tuple(
        ActivationSite(f"g{i}", "sigmoid", swappable=False, reason="gate")
        for i in range(5)
    )
    anatomy = Anatomy(sites=(*gates, ActivationSite("0", "relu")))
    assert main_activation(anatomy) == "relu"


@pytest.mark.parametrize(
    ("structure", "anatomy", "expected"),
    [
        (Structure(), net("relu"), Situation.EXPLODING_PLAIN),
        (Structure(), net("exp"), Situation.EXPLODING_EXP),
        (
            Structure(),
            net("relu", inputs=(InputFacts("0", 127.0, 80.0, 255.0),)),
            Situation.RAW_DATA,
        ),
        (
            Structure(spans=tuple(ResidualSpan(f"s{i}", ("a",)) for i in range(4))),
            net("relu"),
            Situation.EXPLODING_RESIDUAL,
        ),
        (
            Structure(),
            net("relu", count=60, norms=("n",)),
            Situation.EXPLODING_BATCH_NORM,
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Situation) else "",
)
def test_exploding_is_told_apart_by_its_cause(structure, anatomy, expected):
    """Data before structure, structure before initialisation."""
    assert situation(finding("GW201"), structure, anatomy) is expected


def test_concatenations_are_no_residual_stream():
    """A U-Net's skips do not add up."""
    spans = tuple(ResidualSpan(f"s{i}", ("a",), kind="cat") for i in range(4))
    where = situation(finding("GW201"), Structure(spans=spans), net())
    assert where is Situation.EXPLODING_PLAIN


def test_death_is_told_apart_by_when_it_came():
    """Dead at the start is the initialisation; later, the learning rate."""
    at_start = situation(finding("GW103", since=1), Structure(), net())
    later = situation(finding("GW103", since=20), Structure(), net())
    assert at_start is Situation.DEAD_AT_START
    assert later is Situation.DEAD_BY_RATE


def test_an_unknown_rule_has_no_situation():
    """A rule of a plug-in gets what its remedies say, in their order."""
    assert situation(finding("XY001"), Structure(), net()) is Situation.OTHER
