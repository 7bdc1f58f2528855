"""From findings to ranked recommendations and visible rejections."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import recommender
from gradwatch.anatomy import ActivationSite, Anatomy, OptimizerFacts, WeightFacts
from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.recommender import recommend
from gradwatch.remedies import REMEDIES
from gradwatch.remedies.base import Remedy
from gradwatch.remedy_ranking import UNRANKED, place
from gradwatch.settings import Settings
from gradwatch.situations import Situation
from gradwatch.structure import Structure


def finding(code="GW101", severity=Severity.WARNING):
    """Return a finding over three layers."""
    return Finding(
        code=code,
        name="x",
        health=Health.VANISHING,
        severity=severity,
        confidence=Confidence.HIGH,
        layers=("0", "2", "4"),
        message="",
        help="",
        evidence=(Evidence("D", 6.0, 2.0, "decades", (0, 5)),),
    )


def plain(activation, depth=10):
    """Return the anatomy of a plain net in a Sequential."""
    return Anatomy(
        model="Sequential",
        weights=tuple(
            WeightFacts(
                str(2 * i), "Linear", 0, 32, 32, 32, 32, 0.1, 0.0, True, activation
            )
            for i in range(depth)
        ),
        sites=tuple(
            ActivationSite(str(2 * i), activation, module=str(2 * i + 1))
            for i in range(depth)
        ),
        optimizer=OptimizerFacts("SGD", 0.1),
    )


def ask(*findings, anatomy=None):
    """Ask the recommender about a plain sigmoid net."""
    return recommend(
        findings, Structure(), anatomy or plain("sigmoid"), History(), Settings()
    )


def test_code_to_paste_tells_keys_from_indices():
    """What the anatomy knows of the model's containers reaches the code."""
    for keyed, start in (((), "model[1]"), (("1",), 'model["1"]')):
        anatomy = replace(plain("sigmoid", depth=1), keyed=keyed)
        recommendations, _ = ask(finding("GW104"), anatomy=anatomy)
        swap = next(r for r in recommendations if r.remedy == "swap-activation")
        assert f"{start} = nn." in swap.code


def test_a_vanishing_sigmoid_net_is_told_to_swap_first():
    """The measured table's first place (facts C)."""
    offers, _ = ask(finding())
    assert (offers[0].remedy, offers[0].options["to"]) == ("swap-activation", "relu")
    assert offers[0].answers == ("GW101",)


def test_a_vanishing_relu_net_is_told_to_initialise_first():
    """Swapping ReLU for ReLU would be no answer."""
    offers, _ = ask(finding(), anatomy=plain("relu"))
    assert offers[0].remedy == "initialise-weights"


def test_clipping_is_never_offered_for_vanishing_and_says_why():
    """The best-known wrong advice is visible, with its reason."""
    offers, rejections = ask(finding())
    assert "clip-gradients" not in {offer.remedy for offer in offers}
    reason = {r.remedy: r.reason for r in rejections}["clip-gradients"]
    assert "enlarge" in reason


def test_a_note_gets_no_recommendation():
    """Nothing is wrong yet."""
    assert ask(finding(severity=Severity.NOTE)) == ((), ())


def test_what_is_offered_is_not_rejected_as_well():
    """One remedy stands on one side only."""
    offers, rejections = ask(finding(), finding("GW103"))
    assert not {o.remedy for o in offers} & {r.remedy for r in rejections}


def test_one_treatment_of_two_findings_is_one_recommendation():
    """It names both findings that it answers."""
    offers, _ = ask(finding("GW101"), finding("GW105"))
    keys = [(o.remedy, o.layers, tuple(o.options.items())) for o in offers]
    assert len(keys) == len(set(keys))
    assert any(set(o.answers) == {"GW101", "GW105"} for o in offers)


def test_a_remedy_that_fails_takes_nothing_else_away(monkeypatch, caplog):
    """Its error is logged; the others answer."""

    class Broken(Remedy):
        name = "swap-activation"
        summary = "breaks"
        risk = Risk.SAFE

        def propose(self, case):
            raise RuntimeError("a bug")

    others = tuple(r for r in REMEDIES if r.name != "swap-activation")
    monkeypatch.setattr(recommender, "all_remedies", lambda: (Broken(), *others))
    offers, _ = ask(finding())
    assert offers
    assert "swap-activation" in caplog.text


def test_what_the_table_does_not_name_comes_last():
    """A treatment nobody measured does not outrank one that was."""
    new = Recommendation("weight-search", "t", ("GW101",), (), "w", "c", Risk.ADVICE)
    assert place(Situation.VANISHING_SIGMOID, new)[0] == UNRANKED
    known = replace(new, remedy="change-optimizer", options={"to": "Adam"})
    assert place(Situation.VANISHING_SIGMOID, known)[0] < UNRANKED


def test_every_line_of_the_table_names_a_remedy():
    """A renamed remedy would fall out of the table in silence."""
    from gradwatch.remedy_ranking import _TABLE

    names = {remedy.name for remedy in REMEDIES}
    for lines in _TABLE.values():
        assert {line.remedy for line in lines} <= names


def test_every_situation_but_other_has_a_place_in_the_table():
    """A new situation without remedies would offer in no order."""
    from gradwatch.remedy_ranking import _TABLE

    assert set(_TABLE) == set(Situation) - {Situation.OTHER}


@pytest.fixture(scope="module")
def sick_report():
    """Return the report of a real vanishing net."""
    torch.manual_seed(0)
    hidden = [m for _ in range(10) for m in (nn.Linear(32, 32), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(64, 32), torch.randint(4, (64,))
    with gradwatch.watch(model, console=None) as watch:
        for _ in range(12):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch.report()


def test_a_report_carries_recommendations_after_the_watch_has_closed(sick_report):
    """Bound to the layers of this model."""
    first = sick_report.recommendations[0]
    assert first.remedy == "swap-activation"
    assert {site.module for site in first.sites} == {str(2 * i + 1) for i in range(10)}
    assert "nn.ReLU" in first.code
    assert any(isinstance(r, Rejection) for r in sick_report.rejections)


def test_a_healthy_report_recommends_nothing():
    """No finding, no offer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(64, 8)
    with gradwatch.watch(model, console=None) as watch:
        for _ in range(12):
            optimizer.zero_grad()
            (model(x) - x[:, :1]).square().mean().backward()
            optimizer.step()
    assert watch.report().recommendations == ()
