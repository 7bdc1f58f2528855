"""Which remedy comes first in which situation, before a trial says more (facts C).

The order is that of the "ranked recommendation table" of `shared/facts.md`, part C,
with the counts of the table above it: networks repaired, of networks tried on (169
small networks, 3 seeds). Where practice (the repair bench, `docs/benchmarks.md`)
proved a place wrong, the line says so. What has no line comes after what has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gradwatch.recommendations import Option, Recommendation, Risk
from gradwatch.situations import Situation

#: Place of a treatment that the table does not name.
UNRANKED = 99
#: What breaks ties: the less is lost, the better.
_RISK_ORDER = (Risk.SAFE, Risk.REINITIALISES, Risk.RESHAPES, Risk.ADVICE)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        remedy: Name of the remedy.
        options: Options that a recommendation must have for the line to be its own.
    """

    remedy: str
    options: Mapping[str, Option] = field(default_factory=dict)


def _line(remedy: str, **options: Option) -> Line:
    return Line(remedy, options)


_RELU_HE = _line("swap-activation", to="relu", init="he")
_SELU = _line("swap-activation", to="selu")
_TANH = _line("swap-activation", to="tanh")
_LEAKY = _line("swap-activation", to="leaky_relu")
_MATCHING = _line("initialise-weights", init="matching")
_ORTHOGONAL = _line("initialise-weights", init="orthogonal")
_SCALED = _line("initialise-weights", init="scale-branches")
_ZERO = _line("initialise-weights", init="zero-branches")
_BATCH_NORM = _line("add-normalisation", norm="batch")
_LAYER_NORM = _line("add-normalisation", norm="layer")
_PRE_NORM = _line("add-normalisation", norm="pre-norm")
_PRE_NORM_RESIDUAL = _line("add-residual", pre_norm=True)
_RESIDUAL = _line("add-residual")
_DATA = _line("normalise-data")
_RATE = _line("adjust-learning-rate")
_ADAM = _line("change-optimizer", to="Adam")
_CLIP = _line("clip-gradients")
_CHRONO = _line("gated-cell", to="LSTM", bias="chrono")
_SLOW_GRU = _line("gated-cell", to="GRU", bias="4")
_GATED = _line("gated-cell")
_ORTHOGONAL_TIME = _line("orthogonal-recurrence")

_TABLE: Mapping[Situation, tuple[Line, ...]] = MappingProxyType(
    {
        # ReLU + He 29/30, SELU + LeCun 30/30, batch norm 28/30, pre-norm residual
        # 30/30, tanh + Xavier 30/30, residual 26/30, Adam instead of SGD 4/8.
        Situation.VANISHING_SIGMOID: (
            *(_RELU_HE, _SELU, _BATCH_NORM, _PRE_NORM_RESIDUAL, _TANH),
            *(_RESIDUAL, _ADAM),
        ),
        # The activation's own initialisation 12/13, then as above.
        Situation.VANISHING_RELU: (
            *(_MATCHING, _SELU, _PRE_NORM_RESIDUAL, _BATCH_NORM),
            *(_RESIDUAL, _LAYER_NORM, _ADAM),
        ),
        # The activation's own initialisation 5/5.
        Situation.VANISHING_TANH: (
            *(_MATCHING, _ORTHOGONAL, _RELU_HE, _SELU, _PRE_NORM_RESIDUAL),
            *(_RESIDUAL, _LAYER_NORM, _BATCH_NORM, _ADAM),
        ),
        # LSTM chrono 5/6, GRU update bias 4 5/6, orthogonal 4/6; default cells 0/6. Of
        # the two equals the GRU first: it returns what nn.RNN returns.
        Situation.VANISHING_TIME: (_SLOW_GRU, _CHRONO, _ORTHOGONAL_TIME, _GATED),
        # Of 24: the activation's own 14, SELU 20, tanh + Xavier 19, pre-norm residual
        # 19, ReLU + He 17, layer norm 16.
        Situation.EXPLODING_PLAIN: (
            *(_MATCHING, _SELU, _PRE_NORM_RESIDUAL, _TANH, _RELU_HE, _LAYER_NORM),
        ),
        Situation.EXPLODING_BATCH_NORM: (_PRE_NORM_RESIDUAL, _RESIDUAL, _SELU),
        Situation.EXPLODING_RESIDUAL: (_SCALED, _ZERO, _PRE_NORM, _MATCHING),
        Situation.EXPLODING_EXP: (_TANH, _SELU, _RELU_HE),
        # Normalised inputs 1/1, normalised targets 1/1.
        Situation.RAW_DATA: (_DATA, _BATCH_NORM, _LAYER_NORM),
        # LSTM with forget bias 4 2/3, orthogonal with clipping 1/3, clipping 0/3. The
        # GRU first, as above.
        Situation.EXPLODING_TIME: (_SLOW_GRU, _GATED, _ORTHOGONAL_TIME, _CLIP),
        Situation.DEAD_AT_START: (
            *(_line("revive-units"), _LEAKY, _MATCHING, _BATCH_NORM, _LAYER_NORM),
        ),
        Situation.DEAD_BY_RATE: (_RATE, _line("revive-units"), _LEAKY),
        Situation.SATURATED: (_DATA, _MATCHING, _BATCH_NORM, _RELU_HE),
        Situation.SYMMETRIC: (_MATCHING, _line("initialise-weights")),
        Situation.DISCONNECTED: (_line("reconnect"),),
        Situation.UNDERFLOW: (_line("loss-scaling"),),
        # Clipping 12/12 where it belongs; then lr/2 and warm-up.
        Situation.SPIKES: (_CLIP, _RATE, _line("change-optimizer", eps=1e-6)),
        Situation.NON_FINITE: (_MATCHING, _DATA, _LAYER_NORM, _RATE, _CLIP),
        # lr * 1e-3 / median update 9/9, Adam 2/2 and 2/2.
        Situation.RATE_TOO_HIGH: (_RATE, _ADAM, _CLIP),
        Situation.RATE_TOO_LOW: (_RATE, _ADAM),
        Situation.CLIPPING: (_CLIP, _MATCHING),
    }
)


def place(where: Situation, offer: Recommendation) -> tuple[int, int]:
    """Return where a treatment stands in a situation, the smallest first.

    Args:
        where: The situation.
        offer: The treatment.

    Returns:
        Its place in the table (`UNRANKED` without one), and that of its risk.
    """
    lines = _TABLE.get(where, ())
    fitting = [number for number, line in enumerate(lines) if _fits(line, offer)]
    return min(fitting, default=UNRANKED), _RISK_ORDER.index(offer.risk)


def _fits(line: Line, offer: Recommendation) -> bool:
    return line.remedy == offer.remedy and all(
        offer.options.get(key) == value for key, value in line.options.items()
    )
