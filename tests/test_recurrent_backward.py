"""The way back through time equals autograd over torch's cells."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gradwatch.recurrent import RecurrentCapture, replay
from tests.recurrent_reference import reference

TIME, BATCH, WIDTH, HIDDEN = 6, 3, 4, 5

CORES = {
    "rnn": nn.RNN,
    "rnn-relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
KINDS = {
    "plain": {},
    "no-bias": {"bias": False},
    "batch-first": {"batch_first": True, "bias": False},
    "bidirectional": {"bidirectional": True},
    "stacked": {"num_layers": 3},
    "both": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


def captured(core, form="batch", *, state=True, dtype=torch.float64, steps=TIME):
    """Return the capture of one call with random gradients of all outputs."""
    core = core.to(dtype)
    x = torch.randn(steps, BATCH, core.input_size, dtype=dtype)
    if form == "unbatched":
        x = x[:, 0]
    elif form == "packed":
        x = pack_padded_sequence(x, [steps - 2, steps, 1], enforce_sorted=False)
    elif core.batch_first:
        x = x.transpose(0, 1)
    given = None
    if state:
        batch = [] if form == "unbatched" else [BATCH]
        layers = core.num_layers * (2 if core.bidirectional else 1)
        count = 2 if isinstance(core, nn.LSTM) else 1
        given = tuple(
            torch.randn(layers, *batch, core.hidden_size, dtype=dtype)
            for _ in range(count)
        )
    with torch.no_grad():
        passed = given if given is None or isinstance(core, nn.LSTM) else given[0]
        out, final = core(x, passed)
    out = out.data if isinstance(out, PackedSequence) else out
    outputs = (out, *(final if isinstance(final, tuple) else (final,)))
    cotangents = [torch.randn_like(part) for part in outputs]
    return RecurrentCapture("core", core, x, given, outputs, cotangents)


def replayed(capture):
    """Return {direction: norms} of a replay."""
    return {profile.direction: profile.norms.tolist() for profile in replay(capture)}


def check(capture, rel=1e-10):
    """Assert that a replay equals the reference, and that there is something to see."""
    found, expected = replayed(capture), reference(capture)
    assert list(found) == list(expected)
    for name, norms in expected.items():
        assert max(norms) > 0
        assert found[name] == pytest.approx(norms, rel=rel, abs=0)


@pytest.mark.parametrize("form", ["batch", "unbatched", "packed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("core", CORES)
def test_a_replay_equals_autograd_over_the_cells(core, kind, form):
    """Every cell, stacked and in both directions, with an initial state and padding."""
    torch.manual_seed(0)
    check(captured(CORES[core](WIDTH, HIDDEN, **KINDS[kind]), form))


@pytest.mark.parametrize("missing", [[0], [1], [-1], [0, -1], [1, -1]], ids=str)
@pytest.mark.parametrize("core", CORES)
def test_outputs_without_a_gradient_count_as_zero(core, missing):
    """Any of sequence and final states may have received none."""
    torch.manual_seed(0)
    module = CORES[core](WIDTH, HIDDEN, **KINDS["both"])
    capture = captured(module, "packed", state=False)
    for index in missing:
        capture.cotangents[index] = None
    if all(cotangent is None for cotangent in capture.cotangents):
        assert replayed(capture) == {}
    else:
        check(capture)


@pytest.mark.parametrize("core", CORES)
def test_norms_scale_with_the_gradient_that_arrives(core):
    """The way back is linear, down to sizes that float32 does not have."""
    torch.manual_seed(0)
    capture = captured(CORES[core](WIDTH, HIDDEN, **KINDS["both"]), "packed")
    small = replace(capture, cotangents=[c * 1e-40 for c in capture.cotangents])
    large = replace(capture, cotangents=[c * 1e40 for c in capture.cotangents])
    for name, norms in replayed(capture).items():
        for scaled, factor in ((small, 1e-40), (large, 1e40)):
            expected = [norm * factor for norm in norms]
            assert replayed(scaled)[name] == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("kind", ["plain", "both"])
@pytest.mark.parametrize("core", CORES)
def test_a_float32_module_is_replayed_to_float32_accuracy(core, kind):
    """Its products are float32, as its own were."""
    torch.manual_seed(0)
    module = CORES[core](WIDTH, HIDDEN, **KINDS[kind])
    check(captured(module, "packed", dtype=torch.float32), rel=1e-4)


@pytest.mark.parametrize("core", CORES)
def test_a_float32_gradient_of_ten_to_minus_sixty_is_a_number(core):
    """Small weights over 100 steps: below what float32 can hold."""
    torch.manual_seed(0)
    module = CORES[core](WIDTH, HIDDEN)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.1)
        if core in {"lstm", "gru"}:  # gates that forget
            module.bias_hh_l0[HIDDEN : 2 * HIDDEN] = -4.0
    capture = captured(module, dtype=torch.float32, steps=100)
    capture.cotangents[0] = None
    assert 0 < reference(capture)["forward"][0] < 1e-60
    check(capture, rel=1e-3)


@pytest.mark.parametrize("core", ["rnn", "lstm", "gru"])
def test_saturated_float32_units_keep_their_small_slopes(core):
    """Where tanh rounds to 1 in float32 its derivative is still not zero."""
    torch.manual_seed(0)
    module = CORES[core](WIDTH, HIDDEN)
    with torch.no_grad():
        module.bias_ih_l0 += 12.0
    check(captured(module, dtype=torch.float32), rel=1e-4)


def test_of_many_sequences_the_first_sixteen_are_replayed(monkeypatch):
    """More are left out, whole."""
    monkeypatch.setitem(globals(), "BATCH", 20)
    torch.manual_seed(0)
    capture = captured(nn.LSTM(WIDTH, HIDDEN))
    found = replayed(capture)["forward"]
    first = replace(
        capture,
        inputs=capture.inputs[:, :16],
        state=tuple(part[:, :16] for part in capture.state),
        cotangents=[cotangent[:, :16] for cotangent in capture.cotangents],
    )
    assert found == pytest.approx(reference(first)["forward"], rel=1e-10)


def test_a_replay_changes_nothing_of_its_capture():
    """Inputs, states, gradients and weights, also those that are used as they are."""
    torch.manual_seed(0)
    for core in CORES.values():
        capture = captured(core(WIDTH, HIDDEN, **KINDS["both"]))
        parts = [
            capture.inputs,
            *capture.state,
            *capture.cotangents,
            *capture.module.parameters(),
        ]
        before = [part.detach().clone() for part in parts]
        replayed(capture)
        for part, old in zip(parts, before, strict=True):
            assert torch.equal(part, old)
