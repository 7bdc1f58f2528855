"""Recurrent weights that keep the length of a gradient."""

import copy

import pytest
import torch
from torch import nn

from gradwatch.anatomy import InputFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Risk
from gradwatch.remedies.orthogonal_recurrence import (
    OrthogonalRecurrence,
    draw_recurrent,
)
from gradwatch.rules import RULES
from gradwatch.treatment import ModelEditor
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import ADAM, SGD, recurrent, run, through_time

REMEDY = OrthogonalRecurrence()


class Net(nn.Module):
    """A recurrent layer that is read after its last step."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


def decades(net, steps=50):
    """Return what the gradient loses from the last input to the first."""
    torch.manual_seed(1)
    x = torch.randn(16, steps, 8, requires_grad=True)
    (net(x) * torch.randn(16, net.rnn.hidden_size)).sum().backward()
    norms = x.grad.norm(dim=(0, 2))
    return float(torch.log10(norms[-1] / norms[0]))


def treated(net, offer):
    """Return a copy of a network that a recommendation was applied to."""
    editor = ModelEditor(net)
    REMEDY.apply(editor, offer)
    return editor.model


def test_fading_and_growth_through_time_are_answered():
    """With the record of each; growth is clipped as well."""
    (fades,) = offers(REMEDY, through_time(steps=40))
    (grows,) = offers(REMEDY, through_time("GW202", steps=40))
    assert "4 of 6" in fades.record
    assert "1 of 3" in grows.record
    assert REMEDY.recipe(fades) == Recipe()
    assert REMEDY.recipe(grows) == Recipe(max_grad_norm=1.0)
    assert fades.risk is Risk.REINITIALISES


def test_under_sgd_it_is_offered_with_adam_first():
    """In three set-ups of the fault bench it learned only so."""
    with_adam, alone = offers(REMEDY, through_time("GW202", optimizer=SGD))
    assert REMEDY.recipe(with_adam) == Recipe(
        max_grad_norm=1.0, optimizer="Adam", lr=1e-3
    )
    assert REMEDY.recipe(alone) == Recipe(max_grad_norm=1.0)
    assert len(offers(REMEDY, through_time(optimizer=ADAM))) == 1


def test_long_sequences_are_cautioned():
    """Up to about 50 steps it is a remedy of its own."""
    short = recurrent(steps=40)
    assert "prefer a gated" not in (
        offers(REMEDY, through_time("GW102", short, steps=40))[0].caution
    )
    assert "60 steps are many" in offers(REMEDY, through_time())[0].caution


def test_inputs_of_a_large_deviation_get_smaller_weights():
    """So that what reaches tanh is the same."""
    inputs = (InputFacts("rnn", 0.0, 20.0, 60.0),)
    (offer,) = offers(REMEDY, through_time(inputs=inputs))
    assert offer.options["input_gain"] == pytest.approx(0.005)


@pytest.mark.parametrize("case", [through_time("GW101"), run("GW102"), run("GW201")])
def test_it_is_refused_off_time(case):
    """Depth has other cures."""
    assert not offers(REMEDY, case)
    assert "No recurrent layer" in refusals(REMEDY, case)[0].reason


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "gain"), [("tanh", 0.3), ("relu", 3.0)])
def test_the_gradient_keeps_its_size_over_fifty_steps(kind, gain, layers):
    """Before, weights of another size lose or gain more than 5 decades."""
    torch.manual_seed(0)
    net = Net(nn.RNN(8, 32, layers, batch_first=True, nonlinearity=kind))
    with torch.no_grad():
        for name, parameter in net.rnn.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.xavier_normal_(parameter, gain=gain)
    assert abs(decades(net)) > 5
    facts = recurrent(
        nonlinearity=kind, hidden_size=32, num_layers=layers, batch_first=True
    )
    (offer,) = offers(REMEDY, through_time("GW102", facts))
    assert abs(decades(treated(net, offer))) < 1.5


def test_a_gated_layer_gets_orthogonal_blocks_and_keeps_the_rest():
    """Each gate's block by itself; biases and input weights stay."""
    net = Net(nn.LSTM(8, 16, batch_first=True))
    (offer,) = offers(REMEDY, through_time("GW102", recurrent("LSTM")))
    after = treated(net, offer).rnn
    for block in after.weight_hh_l0.detach().split(16):
        torch.testing.assert_close(block @ block.T, torch.eye(16), atol=1e-5, rtol=0)
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(getattr(after, name), getattr(net.rnn, name))


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell"])
def test_cells_are_drawn_too(kind):
    """Their weights have no suffix."""
    net = nn.Module()
    net.rnn = getattr(nn, kind)(8, 16)
    (offer,) = offers(REMEDY, through_time("GW102", recurrent(kind)))
    weight = treated(net, offer).rnn.weight_hh.detach()[:16]
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), atol=1e-5, rtol=0)


def test_half_precision_is_drawn_in_float32():
    """The decomposition knows no half."""
    weight = torch.empty(32, 16, dtype=torch.bfloat16)
    draw_recurrent(weight, 16, identity=False)
    block = weight[16:].float()
    torch.testing.assert_close(block @ block.T, torch.eye(16), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_the_lines_to_paste_do_what_apply_does(kind):
    """Same deviations in every parameter of both stacked layers."""
    facts = recurrent(nonlinearity=kind, num_layers=2)
    (offer,) = offers(REMEDY, through_time("GW202", facts))
    net = Net(nn.RNN(8, 16, 2, nonlinearity=kind))
    pasted = copy.deepcopy(net)
    code, _, clip = offer.code.partition("# between")
    exec(code, {"nn": nn, "model": pasted})
    assert "max_norm=1.0" in clip
    applied = treated(net, offer)
    for name, parameter in applied.state_dict().items():
        other = pasted.state_dict()[name]
        if name.startswith("rnn.weight_ih"):
            assert float(other.std()) == pytest.approx(float(parameter.std()), rel=0.3)
        elif "weight" in name:
            square = other @ other.T
            torch.testing.assert_close(square, torch.eye(16), atol=1e-5, rtol=0)
        else:
            assert torch.equal(other, parameter)


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(through_time(rule.code)))
