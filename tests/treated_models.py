"""Small models of every shape that a treatment must cope with, each with its sites."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gradwatch.anatomy import ActivationSite

WIDTH = 6


@dataclass
class Zoo:
    """A model, a batch for it, and the activations that may be treated."""

    model: nn.Module
    batch: torch.Tensor
    sites: tuple[ActivationSite, ...]
    #: Makes a norm for the layers' outputs.
    norm: Any = nn.LayerNorm


class Functions(nn.Module):
    """Layers in a list; the activation is a function of the user's forward."""

    def __init__(self, function=torch.sigmoid, depth=3):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, signal):
        """Return the logits."""
        for layer in self.layers:
            signal = self.function(layer(signal))
        return self.head(signal)


class SharedModule(nn.Module):
    """One activation module behind every layer, the head included."""

    def __init__(self, activation=nn.Sigmoid):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)
        self.act = activation()

    def forward(self, signal):
        """Return the activated output."""
        signal = self.act(self.first(signal))
        signal = self.act(self.second(signal))
        return self.act(self.head(signal))


class Recurrent(nn.Module):
    """One layer called twice on its own output."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, signal):
        """Return the logits."""
        for _ in range(2):
            signal = torch.tanh(self.cell(signal))
        return self.head(signal)


class Images(nn.Module):
    """Convolution, batch norm and an in-place ReLU, nested in blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(3, 3, 3, padding=1),
                    nn.BatchNorm2d(3),
                    nn.ReLU(inplace=True),
                )
                for name in "ab"
            }
        )
        self.head = nn.Linear(3, 2)

    def forward(self, image):
        """Return the logits."""
        for block in self.blocks.values():
            image = block(image)
        return self.head(image.mean((2, 3)))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.act = nn.Tanh()

    def forward(self, signal):
        """Return the output."""
        return self.second(self.act(self.first(signal)))


class Inplace(nn.Module):
    """In-place calls as statements, whose results nobody takes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, signal):
        """Return the logits."""
        signal = self.first(signal)
        signal.sigmoid_()
        signal = self.second(signal)
        functional.relu(signal, True)
        return self.head(signal)


def _chain():
    layers = []
    for _ in range(3):
        layers += [nn.Linear(WIDTH, WIDTH), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 2))


def _weight_norm(model, make):
    for module in list(model.modules()):
        if isinstance(module, nn.Linear) and module.out_features == WIDTH:
            make(module)
    return model


def _functions_sites(activation="sigmoid"):
    return tuple(ActivationSite(f"layers.{i}", activation) for i in range(3))


def _chain_sites():
    return tuple(
        ActivationSite(f"{2 * i}", "sigmoid", f"{2 * i + 1}") for i in range(3)
    )


def _encoder(activation):
    layer = nn.TransformerEncoderLayer(
        WIDTH, 2, 8, dropout=0.0, activation=activation, batch_first=True
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _freeze(model):
    model.layers.requires_grad_(False)
    return model


def _rows(*shape):
    return torch.randn(*(shape or (5, WIDTH)))


def _shared():
    sites = (
        ActivationSite("first", "sigmoid", "act", ("second", "head")),
        ActivationSite("second", "sigmoid", "act", ("first", "head")),
    )
    return Zoo(SharedModule(), _rows(), sites)


def _images():
    sites = tuple(
        ActivationSite(f"blocks.{name}.0", "relu", f"blocks.{name}.2") for name in "ab"
    )
    return Zoo(Images(), _rows(5, 3, 4, 4), sites, nn.BatchNorm2d)


def _encoders(activation, name, module):
    sites = tuple(
        ActivationSite(
            f"layers.{i}.linear1", name, f"layers.{i}.activation" if module else None
        )
        for i in range(2)
    )
    batch = _rows(5, 4, WIDTH)
    return Zoo(_encoder(activation), batch, sites, lambda size: nn.LayerNorm(8))


def _inplace():
    sites = (ActivationSite("first", "sigmoid"), ActivationSite("second", "relu"))
    return Zoo(Inplace(), _rows(), sites)


def _functions(change=None):
    model = Functions()
    return Zoo(change(model) if change else model, _rows(), _functions_sites())


def _cast(dtype):
    item = _functions()
    item.model, item.batch = item.model.to(dtype), item.batch.to(dtype)
    return item


_MAKERS = {
    "sequential": lambda: Zoo(_chain(), _rows(), _chain_sites()),
    "functions": _functions,
    "methods": lambda: Zoo(
        Functions(torch.Tensor.tanh), _rows(), _functions_sites("tanh")
    ),
    "shared module": _shared,
    "called twice": lambda: Zoo(
        Recurrent(), _rows(), (ActivationSite("cell", "tanh"),)
    ),
    "images": _images,
    "encoder, function": lambda: _encoders(functional.relu, "relu", False),
    "encoder, module": lambda: _encoders(nn.GELU(), "gelu", True),
    "tied": lambda: Zoo(Tied(), _rows(), (ActivationSite("first", "tanh", "act"),)),
    "in-place": _inplace,
    "weight norm": lambda: _functions(
        lambda model: _weight_norm(model, nn.utils.parametrizations.weight_norm)
    ),
    "old weight norm": lambda: _functions(
        lambda model: _weight_norm(model, nn.utils.weight_norm)
    ),
    "bfloat16": lambda: _cast(torch.bfloat16),
    "float64": lambda: _cast(torch.float64),
    "evaluating": lambda: _functions(nn.Module.eval),
    "frozen": lambda: _functions(_freeze),
}
NAMES = tuple(_MAKERS)


def zoo(name):
    """Return a fresh item; equal ones at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _MAKERS[name]()
