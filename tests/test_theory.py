"""Measured growth per layer against mean-field theory, computed here by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradwatch

WIDTH, DEPTH, BATCH = 512, 30, 64
TOLERANCE = 0.005  # decades a layer, from the issue

#: Activations with the weight scales at which the theory is not degenerate.
CELLS = [
    ("tanh", torch.tanh, (0.7, 1.0, 1.5, 3.0)),
    ("relu", torch.relu, (1.0, math.sqrt(2.0), 2.0)),
    ("sigmoid", torch.sigmoid, (1.0, 3.6, 8.0)),
    ("gelu", nn.functional.gelu, (1.0, 1.8, 2.5)),
    ("selu", nn.functional.selu, (0.7, 1.0, 1.3)),
]


def expectation(function: Callable[[Tensor], Tensor], variance: float) -> float:
    """Return E[function(z)] for z from N(0, variance), by the trapezoidal rule."""
    z = torch.linspace(-12.0, 12.0, 48001, dtype=torch.float64)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    values = function(math.sqrt(variance) * z)
    return float(torch.trapezoid(values * density, z))


def predicted_decades(phi: Callable[[Tensor], Tensor], sigma_w: float) -> float:
    """Return the decades lost from the last to the first layer (Poole 2016, eq. 3)."""

    def derivative(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(phi(x).sum(), x)
        return grad

    q, total = sigma_w**2, 0.0
    for _ in range(DEPTH - 1):
        chi = sigma_w**2 * expectation(lambda x: derivative(x) ** 2, q)
        total -= 0.5 * math.log10(chi)
        q = sigma_w**2 * expectation(lambda x: phi(x) ** 2, q)
    return total


class Chain(nn.Module):
    """`DEPTH` equal layers with an activation called as a function, and a head."""

    def __init__(self, phi: Callable[[Tensor], Tensor], sigma_w: float) -> None:
        super().__init__()
        self.phi = phi
        self.layers = nn.ModuleList(
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)
        )
        self.head = nn.Linear(WIDTH, 16, bias=False)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=sigma_w / math.sqrt(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        for layer in self.layers:
            x = self.phi(layer(x))
        return self.head(x)


@pytest.mark.parametrize(
    ("phi", "sigma_w"),
    [
        pytest.param(phi, sigma, id=f"{name}-{sigma:.2f}")
        for name, phi, sigmas in CELLS
        for sigma in sigmas
    ],
)
def test_growth_per_layer_follows_mean_field_theory(
    phi: Callable[[Tensor], Tensor], sigma_w: float
) -> None:
    """The mean over 3 seeds lies within 0.005 decades a layer of the prediction."""
    measured = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = Chain(phi, sigma_w)
        x = torch.randn(BATCH, WIDTH)
        report = gradwatch.check(model, x)
        (chain,) = report.chains
        assert len(chain.points) == DEPTH
        assert chain.decades is not None
        measured.append(chain.decades)
    slope = sum(measured) / len(measured) / (DEPTH - 1)
    expected = predicted_decades(phi, sigma_w) / (DEPTH - 1)
    assert slope == pytest.approx(expected, abs=TOLERANCE)


class LinearRecurrence(nn.Module):
    """h_t = U h_{t-1} + W x_t without an activation."""

    def __init__(self, recurrent: Tensor) -> None:
        super().__init__()
        size = len(recurrent)
        self.step = nn.Linear(size, size, bias=False)
        self.read_in = nn.Linear(3, size, bias=False)
        self.head = nn.Linear(size, 2)
        with torch.no_grad():
            self.step.weight.copy_(recurrent)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `[batch, time, 3]` and read the last state."""
        h = torch.zeros(len(x), len(self.step.weight), dtype=x.dtype)
        for t in range(x.shape[1]):
            h = self.step(h) + self.read_in(x[:, t])
        return self.head(h)


@pytest.mark.parametrize("rho", [0.8, 0.95, 1.0, 1.1])
def test_an_orthogonal_linear_rnn_grows_by_its_gain(rho: float) -> None:
    """The gradient through time changes by exactly rho a step (facts B1)."""
    torch.manual_seed(0)
    orthogonal, _ = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64))
    model = LinearRecurrence(rho * orthogonal).double()
    with torch.no_grad():
        model.step.weight.copy_(rho * orthogonal)
    report = gradwatch.check(model, torch.randn(8, 30, 3, dtype=torch.float64))
    (profile,) = report.time_profiles
    ratios = [a / b for a, b in zip(profile.norms, profile.norms[1:], strict=False)]
    assert len(ratios) >= 28
    for ratio in ratios:
        assert ratio == pytest.approx(rho, rel=1e-6)
