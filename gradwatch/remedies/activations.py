"""Activations that a remedy can put in: the module, its code and its initialiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gradwatch.remedies.initialisers import Initialiser, for_activation


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation.

    Attributes:
        name: Lower-case name, as in `ActivationSite`.
        title: Name for a reader.
        make: Makes the module.
        module_code: Expression of the module.
        function: Expression of the function.
    """

    name: str
    title: str
    make: Callable[[], nn.Module]
    module_code: str
    function: str

    @property
    def initialiser(self) -> Initialiser:
        """The initialiser that fits it."""
        found = for_activation(self.name)
        assert found is not None
        return found


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("relu", "ReLU", nn.ReLU, "nn.ReLU()", "torch.relu"),
        Activation(
            "leaky_relu", "LeakyReLU", nn.LeakyReLU, "nn.LeakyReLU()", "F.leaky_relu"
        ),
        Activation("elu", "ELU", nn.ELU, "nn.ELU()", "F.elu"),
        Activation("selu", "SELU", nn.SELU, "nn.SELU()", "F.selu"),
        Activation("gelu", "GELU", nn.GELU, "nn.GELU()", "F.gelu"),
        Activation("tanh", "Tanh", nn.Tanh, "nn.Tanh()", "torch.tanh"),
    )
}
#: Titles of activations that are only ever taken out.
_TITLES = {
    "sigmoid": "Sigmoid",
    "hardsigmoid": "Hardsigmoid",
    "logsigmoid": "LogSigmoid",
    "softplus": "Softplus",
    "hardtanh": "Hardtanh",
    "softsign": "Softsign",
    "silu": "SiLU",
    "mish": "Mish",
    "prelu": "PReLU",
}


def title_of(activation: str) -> str:
    """Return the name of an activation for a reader, such as `Sigmoid`."""
    known = ACTIVATIONS.get(activation)
    return known.title if known is not None else _TITLES.get(activation, activation)
