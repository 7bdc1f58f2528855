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
        merit: What it does for a gradient, as the end of a sentence.
        caution: What it may harm.
        source: Paper behind it, and behind its weights.
    """

    name: str
    title: str
    make: Callable[[], nn.Module]
    module_code: str
    function: str
    merit: str
    caution: str
    source: str

    @property
    def initialiser(self) -> Initialiser:
        """The initialiser that fits it."""
        found = for_activation(self.name)
        assert found is not None
        return found


_HE = "; He et al. (2015), Delving deep into rectifiers, arXiv:1502.01852"
ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation(
            "relu",
            "ReLU",
            nn.ReLU,
            "nn.ReLU()",
            "torch.relu",
            merit="a ReLU the whole of it where it is active",
            caution="Outputs are no longer bounded.",
            source=f"Glorot et al. (2011), Deep sparse rectifier neural networks{_HE}",
        ),
        Activation(
            "leaky_relu",
            "LeakyReLU",
            nn.LeakyReLU,
            "nn.LeakyReLU()",
            "F.leaky_relu",
            merit="a LeakyReLU passes some on at every value",
            caution="Outputs are no longer bounded.",
            source="Maas et al. (2013), Rectifier nonlinearities improve neural "
            f"network acoustic models{_HE}",
        ),
        Activation(
            "elu",
            "ELU",
            nn.ELU,
            "nn.ELU()",
            "F.elu",
            merit="an ELU passes some on below zero too",
            caution="Outputs are no longer bounded above.",
            source=f"Clevert et al. (2016), ELUs, arXiv:1511.07289{_HE}",
        ),
        Activation(
            "selu",
            "SELU",
            nn.SELU,
            "nn.SELU()",
            "F.selu",
            merit="a SELU draws mean and deviation of its outputs towards 0 and 1",
            caution="Made for plain networks and standardised inputs; dropout must "
            "become nn.AlphaDropout.",
            source="Klambauer et al. (2017), Self-normalizing networks, "
            "arXiv:1706.02515",
        ),
        Activation(
            "gelu",
            "GELU",
            nn.GELU,
            "nn.GELU()",
            "F.gelu",
            merit="a GELU passes some on below zero too",
            caution="From about 20 plain layers on the signal drifts from its size.",
            source=f"Hendrycks & Gimpel (2016), GELUs, arXiv:1606.08415{_HE}",
        ),
        Activation(
            "tanh",
            "Tanh",
            nn.Tanh,
            "nn.Tanh()",
            "torch.tanh",
            merit="a Tanh is bounded and passes small signals on whole",
            caution="Saturates where its inputs are large.",
            source="Glorot & Bengio (2010), Difficulty of training deep networks",
        ),
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
