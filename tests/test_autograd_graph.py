"""What is read from the autograd graph: activations, gates, functional weights."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.harmless import probe_once as probe

ACTIVATIONS = {
    "relu": (nn.ReLU(), F.relu),
    "tanh": (nn.Tanh(), torch.tanh),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "gelu": (nn.GELU(), F.gelu),
    "silu": (nn.SiLU(), F.silu),
    "leaky_relu": (nn.LeakyReLU(), F.leaky_relu),
    "softplus": (nn.Softplus(), F.softplus),
    "mish": (nn.Mish(), F.mish),
    "hardtanh": (nn.Hardtanh(), F.hardtanh),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_that_follows_is_named(name):
    """As a module and as a function, behind a norm and a view."""
    module, function = ACTIVATIONS[name]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.norm, self.act = nn.LayerNorm(8), module

        def forward(self, x):
            x = self.act(self.a(x))
            x = function(self.norm(self.b(x)).reshape(-1, 2, 4)).flatten(1)
            return self.c(x)

    _, structure = probe(Model(), torch.randn(5, 6))
    first, second, head = (structure.layers[key] for key in "abc")
    assert (first.activation, first.functional_activation) == (name, False)
    assert (second.activation, second.functional_activation) == (name, True)
    assert second.norm == "LayerNorm"
    assert first.norm is None
    assert head.activation is None
    assert (first.fan_in, first.fan_out) == (6, 8)
    assert first.weight_std is not None


class Gated(nn.Module):
    """A gate, a hidden and an output sigmoid."""

    def __init__(self):
        super().__init__()
        self.a, self.gate, self.b = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.tanh(self.a(x)) * torch.sigmoid(self.gate(x))
        return torch.sigmoid(self.b(hidden))


def test_gates_and_output_activations_are_told_apart():
    """Only the hidden one that carries the signal is to be judged."""
    record, _ = probe(Gated(), torch.randn(5, 6))
    by_layer = {r.layer: r for r in record.activations}
    assert by_layer["gate"].gate
    assert by_layer["gate"].hidden
    assert not by_layer["b"].hidden


def test_a_functional_weight_is_a_layer():
    """`F.linear(x, self.layer.weight)` never calls the layer, and is found."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))

        def forward(self, x):
            for layer in self.layers:
                x = F.linear(x, layer.weight, layer.bias).tanh()
            return x

    record, _ = probe(Model(), torch.randn(5, 6))
    (chain,) = record.chains
    assert [p.label for p in chain.points] == [f"layers.{n}" for n in range(4)]
