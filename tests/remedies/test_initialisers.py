"""Moments of what initialisers draw, and the activation each one is for."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradwatch.remedies.initialisers import (
    HE,
    KUMAR,
    LECUN,
    MOMENT_GAINS,
    ORTHOGONAL,
    XAVIER,
    YILMAZ_POLI,
    for_activation,
    named_initialiser,
)

ALL = (HE, XAVIER, LECUN, ORTHOGONAL, KUMAR, YILMAZ_POLI)
# Shape, fan-in and fan-out.
SHAPES = {
    "square": ((256, 256), 256, 256),
    "wide": ((100, 400), 400, 100),
    "convolution": ((64, 32, 3, 3), 288, 576),
}


@pytest.mark.parametrize("initialiser", ALL, ids=lambda i: i.name)
@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES.values(), ids=SHAPES)
def test_a_drawn_weight_has_the_deviation_that_is_promised(
    initialiser, shape, fan_in, fan_out
):
    """Within 2 %: 18,000 entries and more give the deviation to 0.5 %."""
    torch.manual_seed(0)
    weight = torch.empty(shape)
    initialiser.draw(weight, fan_in, fan_out)
    if initialiser is ORTHOGONAL and len(shape) > 2:
        fan_out = shape[0]  # rows of the flattened weight
    assert float(weight.std()) == pytest.approx(
        initialiser.std(fan_in, fan_out), rel=0.02
    )


def test_formulas_are_those_of_the_papers():
    """Fan-in 100, fan-out 300."""
    assert HE.std(100, 300) == pytest.approx(math.sqrt(2 / 100))
    assert XAVIER.std(100, 300) == pytest.approx(math.sqrt(2 / 400))
    assert LECUN.std(100, 300) == pytest.approx(0.1)
    assert KUMAR.std(100, 300) == pytest.approx(0.36)
    assert for_activation("leaky_relu", 0.5).std(100, 300) == pytest.approx(
        math.sqrt(2 / 1.25 / 100)
    )


@pytest.mark.parametrize(("fan_in", "mean"), [(4, -1.0), (8, -1.0), (400, -0.02)])
def test_yilmaz_poli_weights_have_a_negative_mean(fan_in, mean):
    """The mean is max(-1, -8/N)."""
    torch.manual_seed(0)
    weight = torch.empty(20_000, fan_in)
    YILMAZ_POLI.draw(weight, fan_in, 20_000)
    assert float(weight.mean()) == pytest.approx(mean, abs=0.002)


def test_orthogonal_weights_are_isometries_times_their_gain():
    """W^T W is gain^2 times the identity."""
    weight = torch.empty(32, 32)
    ORTHOGONAL.draw(weight, 32, 32)
    expected = 1.05**2 * torch.eye(32)
    torch.testing.assert_close(weight.T @ weight, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", [*MOMENT_GAINS, "selu", "relu"])
def test_gains_are_one_over_the_second_moment(activation):
    """Integrated over a standard normal input."""
    z = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    moment = float((getattr(functional, activation)(z) ** 2 * density).sum())
    assert for_activation(activation).gain == pytest.approx(moment**-0.5, abs=1e-4)


@pytest.mark.parametrize("activation", ["relu", "elu", "gelu", "tanh", "selu", None])
def test_a_net_of_twenty_layers_keeps_its_gradient(activation):
    """Within 1.2 decades over 20 layers of 128; PyTorch's default loses 4 for ReLU."""
    torch.manual_seed(0)
    phi = (lambda x: x) if activation is None else getattr(functional, activation)
    layers = [nn.Linear(128, 128) for _ in range(20)]
    signal = torch.randn(64, 128)
    outputs = []
    for layer in layers:
        with torch.no_grad():
            for_activation(activation).draw(layer.weight, 128, 128)
            layer.bias.zero_()
        outputs.append(layer(signal))
        outputs[-1].retain_grad()
        signal = phi(outputs[-1])
    (signal * torch.randn_like(signal)).sum().backward()
    decades = torch.log10(outputs[-1].grad.norm() / outputs[0].grad.norm())
    assert abs(float(decades)) < 1.2


@pytest.mark.parametrize("activation", ["sigmoid", "exp", "softplus", "unheard-of"])
def test_no_initialiser_is_claimed_to_fit_where_none_does(activation):
    """Xavier never saved a logistic network in our bench."""
    assert for_activation(activation) is None


@pytest.mark.parametrize("initialiser", ALL, ids=lambda i: i.name)
def test_the_line_to_paste_draws_the_same_moments(initialiser):
    """`code` is run on a layer and compared with `draw`."""
    torch.manual_seed(0)
    layer = nn.Linear(300, 200)
    with torch.no_grad():
        exec(initialiser.code, {"nn": nn, "layer": layer})
    pasted = layer.weight.detach().clone()
    with torch.no_grad():
        initialiser.draw(layer.weight, 300, 200)
    drawn = layer.weight.detach()
    assert float(pasted.std()) == pytest.approx(float(drawn.std()), rel=0.02)
    assert float(pasted.mean()) == pytest.approx(float(drawn.mean()), abs=5e-3)


def test_an_unknown_name_is_refused():
    """With the names that are known."""
    with pytest.raises(ValueError, match="must be one of he, xavier"):
        named_initialiser("best")
