"""What remedies learn of a model: sites, weights, recurrent layers, training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from gradwatch.activation_sites import where_called
from gradwatch.anatomy_reading import optimizer_facts, target_scale
from gradwatch.capture import CapturedBatch


def anatomy_of(model, inputs, targets=None, steps=3, optimizer=None, clip=None):
    """Train a little under a watch and return what it read of the model."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    with gradwatch.watch(model, console=None) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(inputs)
            loss = output.square().mean()
            if targets is not None:
                loss = F.cross_entropy(output, targets)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        return watch.anatomy()


class Mixed(nn.Module):
    """A shared module, a function, a gate, a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.gate = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)
        self.act = nn.Tanh()

    def forward(self, x):
        x = self.act(self.first(x))
        x = self.act(self.second(x))
        x = F.relu(self.third(x)) * torch.sigmoid(self.gate(x))
        return self.head(x)


@pytest.fixture
def mixed():
    """Return the anatomy of the mixed net."""
    torch.manual_seed(0)
    return anatomy_of(Mixed(), torch.randn(32, 8), torch.randint(3, (32,)))


def test_a_shared_activation_module_names_its_layers(mixed):
    """Both layers know the module, and each the other."""
    site = mixed.site("first")
    assert (site.activation, site.module) == ("tanh", "act")
    assert site.shared_with == ("second",)
    assert site.swappable


def test_a_function_is_found_in_the_source(mixed):
    """The line of the user's forward that calls it is named."""
    site = mixed.site("third")
    assert site.module is None
    file, _, line = site.where.rpartition(":")
    text = Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert "relu" in text


def test_a_gate_is_never_swappable(mixed):
    """Its output only scales another tensor."""
    site = mixed.site("gate")
    assert not site.swappable
    assert site.reason == "gate"


def test_an_output_activation_is_never_swappable():
    """A sigmoid that no weight layer reads is tied to the loss."""
    model = nn.Sequential(
        nn.Linear(8, 16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, 1),
        nn.Sigmoid(),
    )
    sites = anatomy_of(model, torch.randn(16, 8)).sites
    assert [site.layer for site in sites if site.swappable] == ["0", "2"]
    assert [s.reason for s in sites if not s.swappable] in ([], ["output activation"])


def test_weights_have_the_sizes_and_spread_of_their_layers():
    """Linear and convolution, square and not, against torch's own numbers."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 10),
    )
    anatomy = anatomy_of(model, torch.randn(16, 1, 8, 8), torch.randint(10, (16,)))
    first, same, strided, head = anatomy.weights
    assert (first.dims, first.in_size, first.out_size, first.fan_in) == (2, 1, 4, 9)
    assert (first.keeps_shape, same.keeps_shape, strided.keeps_shape) == (
        False,
        True,
        False,
    )
    assert head.layer == "7"
    assert not head.hidden
    spread = model[2].weight.detach().std()
    assert same.std == pytest.approx(float(spread), rel=1e-5)
    bias = model[2].bias.detach().mean()
    assert same.bias_mean == pytest.approx(float(bias), abs=1e-6)


class Reader(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_a_recurrent_layer_tells_its_kind_and_its_length():
    """Kind, sizes and the time steps of the probed batch."""
    model = Reader(nn.RNN(3, 8, nonlinearity="relu", batch_first=True))
    (facts,) = anatomy_of(
        model, torch.randn(4, 11, 3), torch.randint(2, (4,))
    ).recurrent
    assert (facts.kind, facts.nonlinearity, facts.steps) == ("RNN", "relu", 11)
    radius = torch.linalg.eigvals(model.rnn.weight_hh_l0.detach()).abs().max()
    assert facts.spectral_radius == pytest.approx(float(radius), rel=0.2)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_bias_of_the_gate_that_keeps_the_state_is_read(kind):
    """Second block of torch's gates, both bias vectors added."""
    model = Reader(kind(3, 8, batch_first=True))
    with torch.no_grad():
        for name in ("bias_ih_l0", "bias_hh_l0"):
            model.rnn.get_parameter(name)[8:16] = 1.5
    anatomy = anatomy_of(
        model,
        torch.randn(4, 5, 3),
        torch.randint(2, (4,)),
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-6),
    )
    assert anatomy.recurrent[0].gate_bias == pytest.approx(3.0, abs=1e-3)


def test_the_optimizer_in_use_is_named():
    """Class, rate, momentum and groups."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(
        [
            {"params": model[0].parameters(), "lr": 0.5},
            {"params": model[2].parameters()},
        ],
        lr=0.1,
        momentum=0.9,
    )
    facts = optimizer_facts(optimizer)
    assert (facts.kind, facts.lr, facts.momentum, facts.num_groups) == (
        "SGD",
        0.5,
        0.9,
        2,
    )


def test_raw_inputs_are_seen_with_their_scale():
    """Grey values of 0 to 255 keep their mean, and the layer that reads them."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs = torch.rand(64, 8) * 255
    (facts,) = anatomy_of(model, inputs, torch.randint(2, (64,))).inputs
    assert facts.mean == pytest.approx(float(inputs.mean()), rel=1e-5)
    assert facts.max_abs == pytest.approx(float(inputs.abs().max()), rel=1e-5)


def test_the_clipping_in_use_is_read_from_the_steps():
    """The norm that most steps were clipped to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    inputs, targets = torch.randn(32, 8), torch.randint(2, (32,))
    clipped = anatomy_of(model, inputs, targets, steps=6, clip=1e-3)
    free = anatomy_of(model, inputs, targets, steps=6)
    assert clipped.grad_clip == pytest.approx(1e-3, rel=1e-3)
    assert free.grad_clip is None


def test_a_class_of_torch_is_never_shown_as_the_users_code():
    """A line in torch's own files is nobody's to change."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert where_called("0", "relu", dict(model.named_modules())) == ""


def test_a_broken_network_still_has_an_anatomy():
    """NaN weights are read, not refused."""
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    anatomy = anatomy_of(model, torch.randn(8, 4), torch.randint(2, (8,)))
    assert len(anatomy.weights) == 3


@pytest.mark.parametrize("scale", [0.5, 1e4])
def test_the_scale_of_a_regression_target_is_read_from_its_gradient(scale):
    """T = y - n/2 times the gradient of a mean squared error, exactly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x, target = torch.randn(32, 4), scale * torch.randn(32, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with gradwatch.watch(model, console=None) as watch:
        F.mse_loss(model(x), target).backward()
        optimizer.step()
        anatomy = watch.anatomy()
    expected = float(target.double().square().mean().sqrt())
    assert anatomy.target_scale == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_are_no_regression_target(smoothing):
    """Cross-entropy says nothing of a target's scale, smoothed or not."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 500))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradwatch.watch(model, console=None) as watch:
        targets = torch.randint(500, (32,))
        F.cross_entropy(
            model(torch.randn(32, 4)), targets, label_smoothing=smoothing
        ).backward()
        optimizer.step()
        assert watch.anatomy().target_scale is None


def test_a_target_behind_outputs_that_have_run_away_is_not_read():
    """At 1e12, float32 knows outputs to 1e5 only: 4096 would be rounding's own."""
    batch = CapturedBatch((), {}, (torch.zeros(1), {}), frozenset(), ())
    batch.kept = batch.of = 16
    batch.outputs = [1e12 * torch.randn(16, 1)]
    batch.cotangents = [2 * (batch.outputs[0] - 1e4) / 16]
    assert target_scale([batch]) is None
    early = replace(batch, outputs=[torch.randn(16, 1)])
    early.cotangents = [2 * (early.outputs[0] - 1e4) / 16]
    assert target_scale([batch, early]) == pytest.approx(1e4, rel=1e-3)


class Gated(nn.Module):
    """A feed-forward of the Llama kind: SiLU of one projection times another."""

    def __init__(self):
        super().__init__()
        self.up, self.gate = nn.Linear(8, 16), nn.Linear(8, 16)
        self.down = nn.Linear(16, 2)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def test_the_gate_of_a_gated_feed_forward_is_never_swappable():
    """Whatever its activation is called."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Gated())
    anatomy = anatomy_of(model, torch.randn(16, 8), torch.randint(2, (16,)))
    assert anatomy.site("0").swappable
    assert anatomy.site("2.gate").reason == "gate"


def test_a_closed_watch_still_tells_the_anatomy():
    """Of a healthy network too, while the model lives."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradwatch.watch(model, console=None) as watch:
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    assert len(watch.anatomy().weights) == 2


def test_a_logistic_loss_of_huge_logits_is_no_regression():
    """An error far smaller than the output says nothing of a target."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        model[2].weight.mul_(1e3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with gradwatch.watch(model, console=None) as watch:
        targets = torch.rand(32, 1).round()
        F.binary_cross_entropy_with_logits(
            model(torch.randn(32, 4)), targets, pos_weight=torch.tensor(3.0)
        ).backward()
        optimizer.step()
        assert watch.anatomy().target_scale is None


def test_numbers_that_are_keys_are_told_from_indices():
    """Of an `nn.ModuleDict` only, and only those that look like an index."""
    blocks = nn.ModuleDict({"0": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].blocks = blocks
    assert anatomy_of(model, torch.randn(3, 4)).keyed == ("0.blocks.0",)
