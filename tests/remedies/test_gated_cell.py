"""Gated layers that stand in for plain ones, and the bias that keeps their state."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import gradwatch
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Risk
from gradwatch.remedies.gated_cell import GatedCell
from gradwatch.remedies.gated_modules import DropInLSTM, gated_like, set_gate_bias
from gradwatch.rules import RULES
from gradwatch.treatment import ModelEditor
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import ADAM, SGD, recurrent, run, through_time

REMEDY = GatedCell()
STEPS = 60


class Net(nn.Module):
    """A recurrent layer or cell that is read after its last step."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        if isinstance(self.rnn, nn.RNNCellBase):
            state = None
            for step in x.unbind(1):
                state = self.rnn(step, state)
            last = state[0] if isinstance(state, tuple) else state
        else:
            last = self.rnn(x)[0][:, -1]
        return self.head(last)


def decades(net, steps=STEPS):
    """Return what the gradient loses from the last input to the first."""
    torch.manual_seed(1)
    x = torch.randn(16, steps, 8, requires_grad=True)
    net(x).pow(2).sum().backward()
    norms = x.grad.norm(dim=(0, 2))
    return float(torch.log10(norms[-1] / norms[0]))


def treated(net, offer):
    """Return a copy of a network that a recommendation was applied to."""
    editor = ModelEditor(net)
    REMEDY.apply(editor, offer)
    return editor.model, editor.changes


# -- what is offered -----------------------------------------------------------


def test_an_rnn_that_fades_becomes_gated_in_the_order_of_the_record():
    """LSTM chrono 5 of 6, GRU with bias 4 5 of 6, then what was not or less counted."""
    found = offers(REMEDY, through_time())
    assert [(o.options["to"], o.options["bias"]) for o in found] == [
        ("LSTM", "chrono"),
        ("GRU", "4"),
        ("GRU", "chrono"),
        ("LSTM", "4"),
    ]
    assert "5 of 6" in found[0].record
    assert "not counted" in found[2].record
    assert "4 of 6" in found[3].record
    assert all(offer.risk is Risk.RESHAPES for offer in found)


def test_an_rnn_that_explodes_gets_the_bias_that_was_counted_first():
    """LSTM with forget bias 4: 2 of 3."""
    first, *_ = offers(REMEDY, through_time("GW202"))
    assert (first.options["to"], first.options["bias"]) == ("LSTM", "4")
    assert "2 of 3" in first.record


def test_under_sgd_each_variant_is_offered_with_adam_first():
    """Alone, none learned within 160 steps in the fault bench."""
    found = offers(REMEDY, through_time("GW102", recurrent(), optimizer=SGD))
    assert len(found) == 8
    for with_adam, alone in zip(found[::2], found[1::2], strict=True):
        assert REMEDY.recipe(with_adam) == Recipe(optimizer="Adam", lr=1e-3)
        assert REMEDY.recipe(alone) == Recipe()
        assert with_adam.options["bias"] == alone.options["bias"]
        assert "torch.optim.Adam(" in with_adam.code
    assert len(offers(REMEDY, through_time("GW102", optimizer=ADAM))) == 4


def test_layers_of_two_kinds_get_the_bias_of_their_own_gates():
    """Chrono also sets the input gate of an LSTM; a GRU has none."""
    other = recurrent("GRU")
    facts = (recurrent("LSTM"), dataclasses.replace(other, layer="gru"))
    found = offers(REMEDY, through_time("GW102", *facts))
    assert [(o.layers, o.options["to"]) for o in found] == [
        (("rnn",), "LSTM"),
        (("rnn",), "LSTM"),
        (("gru",), "GRU"),
        (("gru",), "GRU"),
    ]


def test_the_reason_has_the_measured_numbers():
    """Decades lost, steps, horizon; T in the title."""
    first, *_ = offers(REMEDY, through_time())
    assert first.title == "Exchange rnn for LSTM, gate bias log U(1, 59)"
    assert "fades by 6.0 decades over 60 time steps; 1% is left after 20" in first.why
    assert first.options["steps"] == 60


def test_without_a_known_length_chrono_is_not_offered():
    """It is drawn from the length."""
    case = through_time("GW102", recurrent(steps=None), steps=2)
    case = run("GW102", anatomy=case.anatomy, layers=("rnn",))
    assert {offer.options["bias"] for offer in offers(REMEDY, case)} == {"4"}


@pytest.mark.parametrize(("kind", "first"), [("LSTM", "chrono"), ("GRU", "4")])
def test_a_gated_layer_gets_the_bias_alone(kind, first):
    """It is drawn anew, nothing else."""
    found = offers(REMEDY, through_time("GW102", recurrent(kind)))
    assert found[0].options["bias"] == first
    for offer in found:
        assert offer.risk is Risk.REINITIALISES
        assert offer.title.startswith("Set the")
        assert "keeps about 50% of the state" in offer.why


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (through_time("GW102", recurrent("LSTM", gate_bias=3.5)), "is 3.5 already"),
        (through_time("GW102", recurrent("GRU", gate_bias=None)), "bias=False"),
        (through_time("GW202", recurrent("GRU")), "gated already"),
        (through_time("GW101"), "No recurrent layer"),
        (run("GW102"), "No recurrent layer"),
    ],
    ids=["remembers", "no bias", "grows", "depth", "not recurrent"],
)
def test_it_is_refused_where_it_does_not_help(case, words):
    """With the number that says so."""
    assert not offers(REMEDY, case)
    assert words in refusals(REMEDY, case)[0].reason


def test_a_cell_becomes_a_gru_cell_and_an_lstm_cell_only_by_hand():
    """The loop must carry a second state."""
    *applied, by_hand = offers(REMEDY, through_time("GW102", recurrent("RNNCell")))
    assert {offer.options["to"] for offer in applied} == {"GRU"}
    assert by_hand.risk is Risk.ADVICE
    assert not by_hand.can_apply


def test_it_has_a_word_on_every_rule():
    """An offer or a refusal, never silence."""
    for rule in RULES:
        assert list(REMEDY.propose(through_time(rule.code)))


# -- what it does ----------------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
def test_the_gradient_reaches_back_after_the_exchange(number):
    """The plain layer loses more than 10 decades over 60 steps, the gated one 2."""
    torch.manual_seed(0)
    net = Net(nn.RNN(8, 16, batch_first=True))
    assert decades(net) > 10
    after, (change,) = treated(net, offers(REMEDY, through_time())[number])
    assert abs(decades(after)) < 2
    assert change.layer == "rnn"
    assert isinstance(net.rnn, nn.RNN)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_gradient_reaches_back_with_another_bias_alone(kind):
    """A default gated layer is no cure; its weights stay as they were."""
    torch.manual_seed(0)
    net = Net(getattr(nn, kind)(8, 16, batch_first=True))
    assert decades(net) > 5
    for offer in offers(REMEDY, through_time("GW102", recurrent(kind))):
        after, _ = treated(net, offer)
        assert abs(decades(after)) < 2
        assert torch.equal(after.rnn.weight_hh_l0, net.rnn.weight_hh_l0)


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_the_gradient_reaches_back_through_a_loop_over_a_cell(kind):
    """The user's loop stays."""
    torch.manual_seed(0)
    net = Net(getattr(nn, kind)(8, 16))
    assert decades(net) > 5
    offer = offers(REMEDY, through_time("GW102", recurrent(kind)))[0]
    after, _ = treated(net, offer)
    assert abs(decades(after)) < 2


SHAPES = {
    "plain": {},
    "batch first": {"batch_first": True},
    "stacked both ways": {"num_layers": 3, "bidirectional": True, "dropout": 0.0},
    "relu without bias": {"nonlinearity": "relu", "bias": False},
    "double": {"dtype": torch.float64},
}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_a_gated_layer_is_called_like_the_plain_one(kind, options):
    """Same shapes out, with and without a first state, for padded and packed input."""
    old = nn.RNN(8, 16, **options)
    new = gated_like(old, kind)
    dtype = options.get("dtype", torch.float32)
    x = torch.randn(5, 4, 8, dtype=dtype)
    batch = 5 if old.batch_first else 4
    count = old.num_layers * (2 if old.bidirectional else 1)
    first = torch.randn(count, batch, 16, dtype=dtype)
    for given in ((x,), (x, first)):
        for a, b in zip(old(*given), new(*given), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    packed = pack_sequence([torch.randn(n, 8, dtype=dtype) for n in (5, 3, 2)])
    (out_a, state_a), (out_b, state_b) = old(packed), new(packed)
    assert pad_packed_sequence(out_a)[0].shape == pad_packed_sequence(out_b)[0].shape
    assert state_a.shape == state_b.shape


def test_the_drop_in_lstm_computes_what_torchs_lstm_computes():
    """With the cell state at zero; it also takes torch's pair."""
    torch.manual_seed(0)
    ours, theirs = DropInLSTM(8, 16), nn.LSTM(8, 16)
    theirs.load_state_dict(ours.state_dict())
    x, h = torch.randn(5, 4, 8), torch.randn(1, 4, 16)
    output, last = ours(x, h)
    expected, (h_n, _) = theirs(x, (h, torch.zeros_like(h)))
    assert torch.equal(output, expected)
    assert torch.equal(last, h_n)
    pair = (h, torch.randn(1, 4, 16))
    assert torch.equal(ours(x, pair)[0], theirs(x, pair)[0])


def test_mode_and_sizes_are_those_of_the_old_layer():
    """Dropout and evaluation mode too."""
    old = nn.RNN(3, 5, 2, dropout=0.5, bidirectional=True, batch_first=True).eval()
    new = gated_like(old, "LSTM")
    for name in ("input_size", "hidden_size", "num_layers", "dropout", "bidirectional"):
        assert getattr(new, name) == getattr(old, name)
    assert new.batch_first
    assert not new.training


@pytest.mark.parametrize("module", [nn.RNNCell(2, 2), nn.Linear(2, 2)])
def test_what_cannot_be_exchanged_is_refused(module):
    """By name, with what to do."""
    with pytest.raises(TypeError, match="exchange it by hand"):
        gated_like(module, "LSTM")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_chrono_biases_are_logs_of_uniform_times(kind):
    """Each direction and stacked layer; the input gate of an LSTM has the negative."""
    torch.manual_seed(0)
    module = getattr(nn, kind)(4, 1000, 2, bidirectional=True)
    set_gate_bias(module, None, 100)
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        first = getattr(module, f"bias_ih{suffix}")
        total = (first + getattr(module, f"bias_hh{suffix}")).detach()
        keep = total[1000:2000]
        times = keep.exp()
        assert float(times.min()) >= 1.0
        assert float(times.max()) <= 99.01
        assert float(times.mean()) == pytest.approx(50.0, rel=0.08)
        if kind == "LSTM":
            torch.testing.assert_close(total[:1000], -keep)


@pytest.mark.parametrize("number", range(4))
def test_the_lines_to_paste_do_what_apply_does(number):
    """The gate biases have the same range, and the layer the same sizes."""
    facts = recurrent(num_layers=2, batch_first=True)
    offer = offers(REMEDY, through_time("GW102", facts))[number]
    net = Net(nn.RNN(8, 16, 2, batch_first=True))
    applied, _ = treated(net, offer)
    pasted = copy.deepcopy(net)
    exec(offer.code, {"torch": torch, "nn": nn, "model": pasted})
    for name, parameter in applied.rnn.named_parameters():
        other = pasted.rnn.get_parameter(name)
        assert other.shape == parameter.shape
        if name.startswith("bias"):
            gate, mine = other[16:32].detach(), parameter[16:32].detach()
            if offer.options["bias"] == "chrono" and "ih" in name:
                assert 0.0 <= float(gate.min()) <= float(gate.max()) <= math.log(59)
            else:
                assert torch.equal(gate, mine)


def test_the_time_profile_of_the_drop_in_is_measured_with_a_first_state_too():
    """It is called with one state where torch's LSTM has two."""
    torch.manual_seed(0)

    class Carried(Net):
        def forward(self, x):
            return self.head(self.rnn(x, torch.zeros(1, len(x), 16))[0][:, -1])

    model = Carried(DropInLSTM(8, 16, batch_first=True))
    batch = torch.randn(16, 20, 8)
    report = gradwatch.check(model, batch, loss_fn=lambda m, x: m(x).pow(2).mean())
    (profile,) = report.time_profiles
    assert profile.how == "replay"
    assert profile.decades_lost > 1.0
