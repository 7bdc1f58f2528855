"""The remedies on depth, applied to real networks: D before and after, and no harm."""

import warnings
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradwatch
from gradwatch.anatomy import InputFacts
from gradwatch.anatomy_reading import read_anatomy
from gradwatch.history import History
from gradwatch.remedies import Case
from gradwatch.remedies.add_normalisation import AddNormalisation
from gradwatch.remedies.add_residual import AddResidual
from gradwatch.remedies.initialise_weights import InitialiseWeights
from gradwatch.remedies.normalise_data import NormaliseData
from gradwatch.remedies.revive_units import ReviveUnits
from gradwatch.remedies.swap_activation import SwapActivation
from gradwatch.structure import Structure
from gradwatch.treatment import ModelEditor
from tests.remedies.cases import finding

WIDTH, DEPTH = 32, 15


class Functional(nn.Module):
    """A chain whose activations are functions."""

    def __init__(self, function, depth=DEPTH, width=WIDTH):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 4)

    def forward(self, signal):
        for layer in self.layers:
            signal = self.function(layer(signal))
        return self.head(signal)


class Stream(nn.Module):
    """A residual network whose branches add at full size."""

    def __init__(self, blocks=20, width=WIDTH):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 4)
        for block in self.blocks:
            for layer in (block[0], block[2]):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, signal):
        signal = self.stem(signal)
        for block in self.blocks:
            signal = signal + block(signal)
        return self.head(signal)


class Row(nn.Module):
    """A block without a shortcut whose inner width is another."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, signal):
        return self.down(functional.gelu(self.up(signal)))


def modules(activation, depth=DEPTH, std=None, norm=None):
    """Return a chain whose activations are modules: fc1, act1, ..., head."""
    layers = OrderedDict()
    for i in range(1, depth + 1):
        layers[f"fc{i}"] = nn.Linear(WIDTH, WIDTH)
        if std is not None:
            nn.init.normal_(layers[f"fc{i}"].weight, std=std)
        if norm is not None:
            layers[f"norm{i}"] = norm(WIDTH)
        layers[f"act{i}"] = activation()
    layers["head"] = nn.Linear(WIDTH, 4)
    return nn.Sequential(layers)


def convolutions(depth=8):
    """Return a chain of convolutions that keep their shape, with sigmoids."""
    layers = []
    for _ in range(depth):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 4))


def batch_for(model):
    """Return inputs and labels."""
    torch.manual_seed(1)
    images = isinstance(next(model.modules()), nn.Sequential) and isinstance(
        next(iter(model.children())), nn.Conv2d
    )
    shape = (64, 8, 4, 4) if images else (64, WIDTH)
    return torch.randn(shape), torch.randint(0, 4, (64,))


def look(model, code="GW101", **fields):
    """Watch two steps that do not move, and return D and the case."""
    inputs, labels = batch_for(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, console=None) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        anatomy = watch.anatomy()
    record = watch.history.latest
    decades = max((c.decades() or 0.0 for c in record.chains), key=abs, default=0.0)
    case = Case(
        finding(code, **fields),
        structure=watch.structure,
        anatomy=anatomy,
        history=watch.history,
    )
    return decades, case


def treated(model, remedy, case, options):
    """Apply the variant with these options to a copy."""
    chosen = next(
        offer
        for offer in remedy.propose(case)
        if hasattr(offer, "options") and options.items() <= offer.options.items()
    )
    editor = ModelEditor(model)
    remedy.apply(editor, chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an activation that was not found
        return editor.finish((remedy.name,)), chosen


SIGMOIDS = {
    "modules": lambda: modules(nn.Sigmoid),
    "functions": lambda: Functional(torch.sigmoid),
    "convolutions": convolutions,
}
CURES = {
    "relu": (SwapActivation(), {"to": "relu", "init": "he"}),
    "selu": (SwapActivation(), {"to": "selu"}),
    "tanh": (SwapActivation(), {"to": "tanh"}),
    "leaky": (SwapActivation(), {"to": "leaky_relu"}),
    "batch norm": (AddNormalisation(), {"norm": "batch"}),
    "residual": (AddResidual(), {"variant": "scaled"}),
    "zero residual": (AddResidual(), {"variant": "learned"}),
    "pre-norm": (AddResidual(), {"variant": "pre-norm"}),
}


@pytest.mark.parametrize(("remedy", "options"), CURES.values(), ids=CURES)
@pytest.mark.parametrize("make", SIGMOIDS.values(), ids=SIGMOIDS)
def test_a_logistic_network_gets_its_gradient_back(make, remedy, options):
    """D falls from over 4 to below 2 decades, and the original is untouched."""
    torch.manual_seed(0)
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sick, case = look(model)
    cured, _ = look(treated(model, remedy, case, options)[0])
    assert sick > 4
    assert abs(cured) < 2
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


def test_relu_without_he_weights_does_not_bring_it_back():
    """The folk advice: PyTorch's default lets 0.41 through each layer."""
    torch.manual_seed(0)
    model = modules(nn.Sigmoid)
    _, case = look(model)
    swapped, _ = treated(model, SwapActivation(), case, {"init": "keep"})
    assert look(swapped)[0] > 3


FADED = {
    "relu": (lambda: modules(nn.ReLU, 25), {"init": "matching"}),
    "leaky": (lambda: modules(lambda: nn.LeakyReLU(0.3), 25), {"init": "matching"}),
    "gelu function": (lambda: Functional(functional.gelu), {"init": "matching"}),
    "tanh": (lambda: modules(nn.Tanh, std=0.05), {"init": "matching"}),
    "tanh orthogonal": (lambda: modules(nn.Tanh, std=0.05), {"init": "orthogonal"}),
    "linear": (lambda: Functional(lambda x: x, 25), {"init": "matching"}),
}


@pytest.mark.parametrize(("make", "options"), FADED.values(), ids=FADED)
def test_weights_too_small_are_drawn_for_their_activation(make, options):
    """D falls below 1.2 decades; slopes of leaky ReLUs are read from the module."""
    torch.manual_seed(0)
    model = make()
    sick, case = look(model)
    cured, _ = look(treated(model, InitialiseWeights(), case, options)[0])
    assert sick > 2.5
    assert abs(cured) < 1.2


GROWING = {
    "he": (InitialiseWeights(), {"init": "matching"}),
    "selu": (SwapActivation(), {"to": "selu"}),
    "tanh": (SwapActivation(), {"to": "tanh"}),
    "layer norm": (AddNormalisation(), {"norm": "layer"}),
    "pre-norm": (AddResidual(), {"variant": "pre-norm"}),
}


@pytest.mark.parametrize(("remedy", "options"), GROWING.values(), ids=GROWING)
def test_an_explosion_is_stopped(remedy, options):
    """Weights of deviation 0.6 instead of 0.25: 0.38 decades a layer."""
    torch.manual_seed(0)
    model = modules(nn.ReLU, std=0.6)
    sick, case = look(model, "GW201")
    cured, _ = look(treated(model, remedy, case, options)[0])
    assert sick < -4
    assert abs(cured) < 2


def test_unscaled_residual_branches_are_scaled_down():
    """20 branches at full size grow 20 times by a factor of about sqrt(2)."""
    torch.manual_seed(0)
    model = Stream()
    sick, case = look(model, "GW201")
    assert sick < -2
    for init in ("scale-branches", "zero-branches"):
        cure, chosen = treated(model, InitialiseWeights(), case, {"init": init})
        assert len(chosen.layers) == 20
        assert abs(look(cure)[0]) < 0.5


def test_far_too_large_branches_are_drawn_before_they_are_scaled():
    """Scaling alone would leave 2.5 times too large weights above the ends."""
    torch.manual_seed(0)
    model = Stream()
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block[0], block[2]):
                layer.weight.mul_(2.5)
    sick, case = look(model, "GW201")
    assert sick < -8
    for init in ("scale-branches", "zero-branches"):
        cure, chosen = treated(model, InitialiseWeights(), case, {"init": init})
        assert "blocks.3.0" in chosen.layers
        assert float(cure.blocks[3][0].weight.detach().std()) == pytest.approx(
            (2 / WIDTH) ** 0.5, rel=0.1
        )
        assert abs(look(cure)[0]) < 0.5


def test_branches_without_a_norm_get_one_in_front_of_each_layer():
    """The stream then grows by a constant amount a block, not by a factor."""
    torch.manual_seed(0)
    model = Stream()
    sick, case = look(model, "GW201")
    cure, chosen = treated(model, AddNormalisation(), case, {"place": "branches"})
    assert len(chosen.layers) == 20 * 2 + 1  # the head too
    assert sick < -2
    assert abs(look(cure)[0]) < 1.5


@pytest.mark.parametrize("variant", ["pre-norm", "scaled", "learned"])
def test_blocks_that_repeat_get_a_shortcut_as_a_whole(variant):
    """Their layers change the width, the blocks do not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), *(Row() for _ in range(10)), nn.Linear(WIDTH, 4)
    )
    sick, case = look(model)
    cure, chosen = treated(model, AddResidual(), case, {"variant": variant})
    assert chosen.options["blocks"] == 10
    assert sick > 4
    assert abs(look(cure)[0]) < 1


def test_deep_batch_norm_is_taken_out():
    """40 layers grow by 1.2 each; SELU with LeCun weights stays."""
    torch.manual_seed(0)
    model = modules(nn.ReLU, 40, norm=nn.BatchNorm1d)
    sick, case = look(model, "GW201")
    cure, _ = treated(model, SwapActivation(), case, {"norms": "drop"})
    assert not any(isinstance(m, nn.BatchNorm1d) for m in cure.modules())
    assert sick < -2.5
    assert abs(look(cure)[0]) < 1.5


@pytest.mark.parametrize("to", ["relu", "leaky_relu"])
def test_dead_units_come_back(to):
    """Biases of -5 silence every unit; of 64 inputs some units see none above zero."""
    torch.manual_seed(0)
    model = modules(nn.ReLU, 4)
    for layer in model.children():
        if isinstance(layer, nn.Linear) and layer is not model.head:
            nn.init.constant_(layer.bias, -5.0)
    layers = tuple(f"fc{i}" for i in range(1, 5))
    _, case = look(model, "GW103", layers=layers)
    cure, _ = treated(model, ReviveUnits(), case, {"to": to})
    inputs, _ = batch_for(model)
    assert float(model[:-1](inputs).detach().abs().max()) == 0.0
    alive = (cure[:-1](inputs) > 0).any(0).float().mean()
    assert float(alive) > 0.7


def test_raw_inputs_are_standardised_before_the_layer_that_reads_them():
    """The treated network of raw data is the network of standardised data."""
    torch.manual_seed(0)
    model = modules(nn.ReLU, 3)
    _, case = look(model, "GW201")
    facts = InputFacts("fc1", 100.0, 50.0, 255.0)
    case = replace(case, anatomy=replace(case.anatomy, inputs=(facts,)))
    cure, _ = treated(model, NormaliseData(), case, {"what": "inputs"})
    inputs, _ = batch_for(model)
    torch.testing.assert_close(cure(100 + 50 * inputs), model(inputs))


def test_a_scaled_target_scales_the_output_and_the_loss():
    """(y - s f)^2 / s^2 = (y / s - f)^2."""
    torch.manual_seed(0)
    model = modules(nn.ReLU, 3)
    _, case = look(model, "GW201")
    case = replace(case, anatomy=replace(case.anatomy, target_scale=1000.0))
    cure, chosen = treated(model, NormaliseData(), case, {"what": "targets"})
    inputs, _ = batch_for(model)
    torch.testing.assert_close(cure(inputs), 1000 * model(inputs))
    assert NormaliseData().recipe(chosen).loss_factor == pytest.approx(1e-6)


def test_post_norm_transformers_normalise_first_and_at_the_end():
    """Through PyTorch's own attribute; the encoder gets the final norm it lacks."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.TransformerEncoder(layer, 3), nn.Linear(16, 4))
    remedy = AddNormalisation()
    case = Case(finding("GW201"), anatomy=read_anatomy(model, Structure(), History()))
    cure, chosen = treated(model, remedy, case, {"norm": "pre-norm"})
    assert chosen.layers == ("0.layers.0", "0.layers.1", "0.layers.2")
    assert all(block.norm_first for block in cure[0].layers)
    assert not any(block.norm_first for block in model[0].layers)
    output = cure[0](100 * torch.randn(2, 5, 16))
    assert float(output.detach().std()) == pytest.approx(1.0, abs=0.05)
