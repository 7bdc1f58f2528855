"""Initialisers of weights: what each draws, its source, and its activation.

An initialiser is named by what it draws from; `for_activation` chooses the one whose
derivation assumes the activation that follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

#: Slopes below zero that PyTorch's modules start with; of rrelu, the mean of its range.
SLOPES: dict[str, float] = {"leaky_relu": 0.01, "prelu": 0.25, "rrelu": 11 / 48}
#: 1 / sqrt(E[phi(z)^2]) for standard normal z: He's derivation (He et al. 2015, section
#: 2.2) with the activation's own second moment. A test integrates them again. SELU was
#: made such that it is 1 (Klambauer et al. 2017).
MOMENT_GAINS: dict[str, float] = {
    "gelu": 1.5335,
    "silu": 1.6765,
    "mish": 1.4868,
    "hardswish": 1.7367,
    "elu": 1.2452,
    "celu": 1.2452,
}
_HE = "He et al. (2015), Delving deep into rectifiers, arXiv:1502.01852, section 2.2"
_XAVIER = (
    "Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward "
    "neural networks, equation 16"
)
_FAN_IN = "layer.weight[0].numel()"


@dataclass(frozen=True, slots=True)
class Initialiser:
    """One way to draw a weight.

    Attributes:
        name: Plain name, such as `he`; the value of the option `init`.
        title: Name for a reader, such as `He`.
        gain: Factor of the standard deviation.
        formula: Standard deviation in words, such as `sqrt(2 / fan_in)`.
        code: The line that draws `layer.weight`, PyTorch's own names.
        source: Paper, with the section.
        fan: `in`, `mean` (of in and out) or `none` (the deviation is `gain` itself).
        orthogonal: Whether rows or columns are orthogonal, not independent draws.
        mean: Mean, from fan-in.
    """

    name: str
    title: str
    gain: float
    formula: str
    code: str
    source: str
    fan: str = "in"
    orthogonal: bool = False
    mean: Callable[[int], float] | None = None

    def std(self, fan_in: int, fan_out: int) -> float:
        """Return the standard deviation that it draws with.

        Args:
            fan_in: Inputs per unit.
            fan_out: Outputs per unit.

        Returns:
            The standard deviation of an entry.
        """
        if self.fan == "none":
            return self.gain
        if self.orthogonal:
            return self.gain / math.sqrt(max(fan_in, fan_out))
        if self.fan == "mean":
            return self.gain * math.sqrt(2.0 / (fan_in + fan_out))
        return self.gain / math.sqrt(fan_in)

    def draw(self, weight: Tensor, fan_in: int, fan_out: int) -> None:
        """Draw a weight in place.

        Args:
            weight: The weight, without gradient; any shape of two or more dimensions.
            fan_in: Inputs per unit.
            fan_out: Outputs per unit.
        """
        if self.orthogonal:
            nn.init.orthogonal_(weight, gain=self.gain)
            return
        mean = 0.0 if self.mean is None else self.mean(fan_in)
        nn.init.normal_(weight, mean, self.std(fan_in, fan_out))


def _he(slope: float = 0.0) -> Initialiser:
    leaky = f"'leaky_relu', a={slope:.3g}" if slope else "'relu'"
    return Initialiser(
        "he",
        "He",
        math.sqrt(2.0 / (1.0 + slope * slope)),
        f"sqrt(2 / ((1 + {slope:.3g}^2) fan_in))" if slope else "sqrt(2 / fan_in)",
        (
            f"nn.init.kaiming_normal_(layer.weight, a={slope:.3g})"
            if slope
            else f"nn.init.kaiming_normal_(layer.weight, nonlinearity={leaky})"
        ),
        _HE,
    )


def _by_moment(activation: str) -> Initialiser:
    gain = MOMENT_GAINS[activation]
    return Initialiser(
        "he",
        "He-like",
        gain,
        f"{gain:.3f} / sqrt(fan_in)",
        f"nn.init.normal_(layer.weight, std={gain} * {_FAN_IN} ** -0.5)",
        f"{_HE}, with the second moment of {activation} in place of ReLU's",
    )


HE = _he()
XAVIER = Initialiser(
    "xavier",
    "Xavier",
    1.0,
    "sqrt(2 / (fan_in + fan_out))",
    "nn.init.xavier_normal_(layer.weight)",
    _XAVIER,
    fan="mean",
)
LECUN = Initialiser(
    "lecun",
    "LeCun",
    1.0,
    "sqrt(1 / fan_in)",
    "nn.init.kaiming_normal_(layer.weight, nonlinearity='linear')",
    "Klambauer et al. (2017), Self-normalizing neural networks, arXiv:1706.02515",
)
#: 1.05: on the critical line of tanh with small biases, where a gradient keeps its size
#: (Schoenholz et al. 2017; facts B1 and C).
ORTHOGONAL = Initialiser(
    "orthogonal",
    "orthogonal",
    1.05,
    "orthogonal, gain 1.05",
    "nn.init.orthogonal_(layer.weight, gain=1.05)",
    "Saxe et al. (2014), Exact solutions to the nonlinear dynamics of learning in deep "
    "linear neural networks, arXiv:1312.6120",
    orthogonal=True,
)
KUMAR = Initialiser(
    "kumar",
    "Kumar",
    3.6,
    "3.6 / sqrt(fan_in)",
    f"nn.init.normal_(layer.weight, std=3.6 * {_FAN_IN} ** -0.5)",
    "Kumar (2017), On weight initialization in deep neural networks, arXiv:1704.08863",
)
YILMAZ_POLI = Initialiser(
    "yilmaz-poli",
    "Yilmaz-Poli",
    0.1,
    "mean max(-1, -8 / fan_in), std 0.1",
    f"nn.init.normal_(layer.weight, mean=max(-1.0, -8.0 / {_FAN_IN}), std=0.1)",
    "Yilmaz & Poli (2022), Successfully and efficiently training deep multi-layer "
    "perceptrons with logistic activation function simply requires initializing the "
    "weights with an appropriate negative mean, Neural Networks 153",
    fan="none",
    mean=lambda fan_in: max(-1.0, -8.0 / fan_in),
)
_BY_NAME = {
    initialiser.name: initialiser
    for initialiser in (HE, XAVIER, LECUN, ORTHOGONAL, KUMAR, YILMAZ_POLI)
}

#: Names that `named_initialiser` knows.
NAMES = frozenset(_BY_NAME)


def named_initialiser(name: str) -> Initialiser:
    """Return an initialiser by its name.

    Args:
        name: `he`, `xavier`, `lecun`, `orthogonal`, `kumar` or `yilmaz-poli`.

    Returns:
        The initialiser; `he` is that of ReLU.

    Raises:
        ValueError: If there is no initialiser of that name.
    """
    if name not in _BY_NAME:
        expected = ", ".join(_BY_NAME)
        raise ValueError(f"`name` (={name!r}) must be one of {expected}.")
    return _BY_NAME[name]


def for_activation(
    activation: str | None, slope: float | None = None
) -> Initialiser | None:
    """Return the initialiser that keeps a signal's size through an activation.

    Args:
        activation: Lower-case name; None for a linear layer.
        slope: Slope below zero of a leaky ReLU, if it is known.

    Returns:
        The initialiser; None for activations that no initialiser makes safe: logistic
        ones (the gradient shrinks at any scale that does not saturate them), the
        exponential, and unknown ones.
    """
    if activation is None or activation in {"tanh", "hardtanh", "softsign"}:
        return XAVIER
    if activation in {"relu", "relu6"}:
        return HE
    if activation in SLOPES:
        return _he(SLOPES[activation] if slope is None else slope)
    if activation == "selu":
        return LECUN
    return _by_moment(activation) if activation in MOMENT_GAINS else None
