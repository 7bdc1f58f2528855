"""The gradient through time equals a loop unrolled by hand."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gradwatch
from gradwatch.recurrent import recurrent_spectrum
from tests.harmless import watched

TIME, BATCH, WIDTH, HIDDEN = 7, 3, 4, 5


class Reader(nn.Module):
    """A recurrent module whose outputs and final states a loss reads."""

    def __init__(self, core, packed=False):
        super().__init__()
        self.core = core
        self.packed = packed
        self.head = nn.Linear(HIDDEN * (2 if core.bidirectional else 1), 2)

    def forward(self, x, state=None, lengths=None):
        if lengths is not None:
            x = pack_padded_sequence(
                x, lengths, self.core.batch_first, enforce_sorted=False
            )
        out, final = self.core(x, state)
        if lengths is not None:
            out, _ = pad_packed_sequence(out, self.core.batch_first)
        last = out[:, -1] if self.core.batch_first else out[-1]
        final = final if isinstance(final, tuple) else (final,)
        loss = self.head(last).square().mean() + 0.1 * out[..., 0].mean()
        return loss + sum(part.sin().mean() for part in final)


def cell_of(core, suffix):
    """Return one step of a recurrent module, by torch's cell functions."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [getattr(core, name + suffix) for name in names]
    if isinstance(core, nn.LSTM):
        return lambda x, s: torch.lstm_cell(x, s, *weights)
    if isinstance(core, nn.GRU):
        return lambda x, s: (torch.gru_cell(x, s[0], *weights),)
    step = torch.rnn_relu_cell if core.nonlinearity == "relu" else torch.rnn_tanh_cell
    return lambda x, s: (step(x, s[0], *weights),)


def unrolled(reader, x, lengths=None):
    """Return {direction: gradient norm by step of the recurrence}, the naive way."""
    core = reader.core
    if core.batch_first:
        x = x.transpose(0, 1)
    if lengths is None:
        lengths = torch.full((BATCH,), TIME)
    profiles, finals, layer_input = {}, [], x
    for layer in range(core.num_layers):
        outputs = []
        for reverse in range(2 if core.bidirectional else 1):
            cell = cell_of(core, f"_l{layer}" + "_reverse" * reverse)
            zero = torch.zeros(BATCH, HIDDEN, dtype=x.dtype)
            state = (zero,) * (2 if isinstance(core, nn.LSTM) else 1)
            rows = [[None] * BATCH for _ in range(TIME)]
            states = {}
            order = reversed(range(TIME)) if reverse else range(TIME)
            for t in order:
                running = [b for b in range(BATCH) if t < lengths[b]]
                states[t] = new = cell(layer_input[t], state)
                merged = []
                for after, before in zip(new, state, strict=True):
                    after.retain_grad()
                    parts = [
                        after[b] if b in running else before[b] for b in range(BATCH)
                    ]
                    merged.append(parts)
                state = tuple(torch.stack(part) for part in merged)
                for b in range(BATCH):
                    rows[t][b] = merged[0][b] if b in running else zero[b]
            finals.append(state)
            outputs.append(torch.stack([torch.stack(row) for row in rows]))
            name = "reverse" if reverse else "forward"
            if core.num_layers > 1:
                name += f", stacked layer {layer}"
            profiles[name] = [states[t] for t in sorted(states, reverse=bool(reverse))]
        layer_input = torch.cat(outputs, -1)
    out = layer_input
    longest = int(max(lengths))
    last = out[longest - 1]
    loss = reader.head(last).square().mean() + 0.1 * out[:longest, :, 0].mean()
    for kind in range(len(finals[0])):
        loss = loss + torch.stack([final[kind] for final in finals]).sin().mean()
    loss.backward()
    reader.zero_grad()
    return {
        name: [
            float(torch.stack([part.grad for part in step]).norm()) for step in steps
        ]
        for name, steps in profiles.items()
    }


CORES = {
    "rnn": lambda **k: nn.RNN(WIDTH, HIDDEN, **k),
    "rnn-relu": lambda **k: nn.RNN(WIDTH, HIDDEN, nonlinearity="relu", **k),
    "lstm": lambda **k: nn.LSTM(WIDTH, HIDDEN, **k),
    "gru": lambda **k: nn.GRU(WIDTH, HIDDEN, **k),
}
KINDS = {
    "plain": {},
    "batch-first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "stacked": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


def shape(core):
    """Return the shape of an input."""
    first = core.batch_first
    return (BATCH, TIME, WIDTH) if first else (TIME, BATCH, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("core", CORES)
def test_a_replay_equals_the_unrolled_loop(core, kind):
    """Every direction and stacked layer, states as gradients flow through them."""
    torch.manual_seed(0)
    reader = Reader(CORES[core](**KINDS[kind])).double()
    x = torch.randn(shape(reader.core), dtype=torch.float64)
    report = gradwatch.check(reader, x)
    found = {p.direction: list(p.norms) for p in report.time_profiles}
    expected = unrolled(reader, x)
    assert found.keys() == expected.keys()
    for name, norms in expected.items():
        assert found[name] == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("kind", ["plain", "bidirectional", "stacked"])
@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_packed_sequences_end_where_they_end(core, kind):
    """Padding neither carries nor receives a gradient, in both directions."""
    torch.manual_seed(0)
    reader = Reader(CORES[core](**KINDS[kind])).double()
    x = torch.randn(shape(reader.core), dtype=torch.float64)
    lengths = torch.tensor([4, 7, 2])

    def loss_fn(model, batch):
        return model(batch, lengths=lengths)

    report = gradwatch.check(reader, x, loss_fn=loss_fn)
    expected = unrolled(reader, x, lengths)
    found = {p.direction: list(p.norms) for p in report.time_profiles}
    for name, norms in expected.items():
        assert found[name] == pytest.approx(norms, rel=1e-6, abs=1e-14)


def test_a_training_run_measures_the_profile_of_its_own_loss():
    """Inside a watch the cotangents are the user's, whatever was passed as state."""
    torch.manual_seed(0)
    reader = Reader(nn.LSTM(WIDTH, HIDDEN))
    optimizer = torch.optim.SGD(reader.parameters(), lr=0.1)
    state = tuple(torch.zeros(1, BATCH, HIDDEN) for _ in range(2))
    x = torch.randn(TIME, BATCH, WIDTH)
    expected = unrolled(reader, x)["forward"]
    with watched(reader, every=1) as watch:
        reader(x, state).backward()
        optimizer.step()
    (profile,) = watch.history.first_probe.time_profiles
    assert list(profile.norms) == pytest.approx(expected, rel=1e-4)


def test_unbatched_and_parametrized_modules_are_replayed():
    """No batch axis; a recurrent weight under a parametrization, left as it was."""
    torch.manual_seed(0)
    core = nn.RNN(WIDTH, HIDDEN)
    parametrizations.orthogonal(core, "weight_hh_l0")
    calls = []
    core.parametrizations.weight_hh_l0[0].register_forward_hook(
        lambda *args: calls.append(1)
    )

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = core

        def forward(self, x):
            return self.core(x)[0][-1]

    report = gradwatch.check(Last(), torch.randn(TIME, WIDTH))
    (profile,) = report.time_profiles
    assert len(profile.norms) == TIME
    assert all(norm > 0 for norm in profile.norms)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_projections_and_single_steps_have_no_profile():
    """What cannot be replayed is left out."""
    torch.manual_seed(0)

    class First(nn.Module):
        def __init__(self, core):
            super().__init__()
            self.core = core

        def forward(self, x):
            return self.core(x)[0]

    projected = First(nn.LSTM(WIDTH, HIDDEN, proj_size=2))
    assert gradwatch.check(projected, torch.randn(TIME, 2, WIDTH)).time_profiles == ()
    single = First(nn.GRU(WIDTH, HIDDEN))
    assert gradwatch.check(single, torch.randn(1, 2, WIDTH)).time_profiles == ()


def test_a_loop_over_a_cell_is_a_time_profile_not_depth():
    """The calls of a cell on its own state are time steps."""

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(WIDTH, HIDDEN)
            self.head = nn.Linear(HIDDEN, 1)
            self.states = []

        def forward(self, x):
            h = torch.zeros(x.shape[1], HIDDEN, dtype=x.dtype)
            for step in x:
                h = self.cell(step, h)
                if h.requires_grad and self.states is not None:
                    h.retain_grad()
                    self.states.append(h)
            return self.head(h)

    torch.manual_seed(0)
    model = Loop()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, every=1) as watch:
        model(torch.randn(TIME, BATCH, WIDTH)).square().sum().backward()
        expected = [float(h.grad.norm()) for h in model.states]
        model.states = None
        optimizer.step()
    record = watch.history.first_probe
    (profile,) = record.time_profiles
    assert profile.how == "cell-loop"
    assert list(profile.norms) == pytest.approx(expected, rel=1e-4)
    assert record.chains == ()


def test_the_spectrum_is_that_of_the_recurrent_weight():
    """Radius and largest singular value; nothing for gates."""
    core = nn.RNN(WIDTH, 3)
    with torch.no_grad():
        core.weight_hh_l0.copy_(torch.tensor([[0.0, 2, 0], [0, 0, 3], [0, 0, 0.5]]))
    radius, singular = recurrent_spectrum(core)
    assert radius == pytest.approx(0.5, abs=1e-6)
    expected = float(torch.linalg.matrix_norm(core.weight_hh_l0.detach(), 2))
    assert singular == pytest.approx(expected)
    assert recurrent_spectrum(nn.LSTM(WIDTH, 3)) == (None, None)
    assert recurrent_spectrum(nn.RNNCell(WIDTH, 3))[0] is not None
