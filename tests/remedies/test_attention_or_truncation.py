"""Advice on the way through time, with the measured horizon."""

import pytest
import torch
from torch import nn

from gradwatch.recommendations import Risk
from gradwatch.remedies.attention_or_truncation import AttentionOrTruncation
from gradwatch.rules import RULES
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import recurrent, run, through_time

REMEDY = AttentionOrTruncation()


def by_option(case):
    """Return the advice by its option."""
    return {next(iter(offer.options)): offer for offer in offers(REMEDY, case)}


def test_all_of_it_is_advice():
    """No code of ours can do it."""
    for code in ("GW102", "GW202"):
        for offer in offers(REMEDY, through_time(code)):
            assert offer.risk is Risk.ADVICE
            assert not offer.can_apply


def test_fading_is_cut_at_the_horizon():
    """6 decades over 59 steps: 2 decades, 1 %, after 20."""
    found = by_option(through_time())
    assert list(found) == ["read", "by", "every"]
    assert found["every"].options["every"] == 20
    assert found["by"].options["by"] == 3
    assert "1% of it is left" in found["every"].why


def test_growth_is_cut_where_it_is_tenfold():
    """6 decades over 59 steps: one decade after 9."""
    found = by_option(through_time("GW202"))
    assert list(found) == ["every", "by"]
    assert found["every"].options["every"] == 9


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_truncation_computes_the_same_and_cuts_the_gradient(kind, batch_first):
    """Same outputs as in one go; no gradient beyond 20 steps."""
    facts = recurrent(kind, batch_first=batch_first)
    offer = by_option(through_time("GW102", facts))["every"]
    model = nn.Module()
    model.rnn = getattr(nn, kind)(8, 16, batch_first=batch_first)
    shape = (2, 60, 8) if batch_first else (60, 2, 8)
    x = torch.randn(shape, requires_grad=True)
    scope = {"torch": torch, "model": model, "x": x}
    exec(offer.code, scope)
    torch.testing.assert_close(scope["output"], model.rnn(x)[0])
    time = 1 if batch_first else 0
    scope["output"].select(time, -1).sum().backward()
    norms = x.grad.transpose(0, time).norm(dim=(1, 2))
    assert torch.count_nonzero(norms) == 20


def test_attention_gives_every_step_a_gradient():
    """The lines run, and the first step's gradient is of the size of the last's."""
    facts = recurrent(batch_first=True)
    lines = by_option(through_time("GW102", facts))["read"].code.splitlines()

    class Owner(nn.Module):
        pass

    scope = {"nn": nn, "self": Owner()}
    exec(lines[1], scope)
    rnn = nn.RNN(8, 16, batch_first=True)
    x = torch.randn(4, 60, 8, requires_grad=True)
    scope["output"] = rnn(x)[0]
    exec("\n".join(lines[2:]), scope)
    assert scope["context"].shape == (4, 16)
    scope["context"].pow(2).sum().backward()
    norms = x.grad.norm(dim=(0, 2))
    assert 0.1 < float(norms[0] / norms[-1]) < 10


@pytest.mark.parametrize("batch_first", [True, False])
def test_shorter_sequences_hold_the_same_numbers(batch_first):
    """Three steps become one with three times the features."""
    facts = recurrent(batch_first=batch_first)
    offer = by_option(through_time("GW102", facts))["by"]
    shape = (2, 60, 8) if batch_first else (60, 2, 8)
    scope = {"x": torch.randn(shape)}
    total = float(scope["x"].sum())
    exec(offer.code, scope)
    assert scope["x"].shape == ((2, 20, 24) if batch_first else (20, 2, 24))
    assert float(scope["x"].sum()) == pytest.approx(total, abs=1e-3)
    assert "takes 24" in offer.code


@pytest.mark.parametrize(("kind", "cut"), [("RNNCell", "h ="), ("LSTMCell", "h, c =")])
def test_the_loop_over_a_cell_is_cut_by_a_line(kind, cut):
    """The state is detached in the user's loop."""
    offer = by_option(through_time("GW102", recurrent(kind)))["every"]
    assert f"if t % 20 == 0:\n    {cut}" in offer.code


def test_without_a_profile_the_usual_numbers_stand():
    """35 steps between cuts."""
    anatomy = through_time().anatomy
    found = by_option(run("GW102", anatomy=anatomy, layers=("rnn",)))
    assert found["every"].options["every"] == 35


@pytest.mark.parametrize("case", [through_time("GW101"), run("GW102")])
def test_it_is_refused_off_time(case):
    """Depth has other cures."""
    assert not offers(REMEDY, case)
    assert "No recurrent layer" in refusals(REMEDY, case)[0].reason


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(through_time(rule.code)))
