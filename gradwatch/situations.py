"""Which situation a finding describes: the key of the table of remedies (facts C).

The same symptom has other cures in other networks: a gradient that fades through
sigmoids needs another activation, one that fades through ReLUs another initialisation.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from gradwatch.anatomy import Anatomy
from gradwatch.findings import Finding
from gradwatch.structure import Structure

#: Activations whose derivative is at most 1/4, or that are flat on both sides of a
#: value that is not 0.
SIGMOID_LIKE = frozenset({"sigmoid", "hardsigmoid", "logsigmoid", "softplus"})
TANH_LIKE = frozenset({"tanh", "hardtanh", "softsign", "tanhshrink"})
#: Unbounded growth faster than linear: no initialisation makes them safe.
EXP_LIKE = frozenset({"exp"})
#: Data whose mean or standard deviation is this many times 1: a network initialised
#: for unit inputs sees gradients that many times larger. Chosen; grey values of 0 to
#: 255 have a standard deviation of about 80, standardised data of 1.
RAW_SCALE = 10.0
#: Residual joins from which a network counts as residual.
_MIN_SPANS = 3
#: Weight layers beyond which batch norm in a plain network explodes by itself: 1.2 a
#: layer for ReLU (Yang et al. 2019, arXiv:1902.08129; facts C).
DEEP_BATCH_NORM = 25
#: Last step at which a defect counts as there from the start: the third probe.
_AT_START = 2


class Situation(str, Enum):
    """What is wrong, in which kind of network."""

    VANISHING_SIGMOID = "vanishing, sigmoid-like"
    VANISHING_TANH = "vanishing, tanh-like"
    VANISHING_RELU = "vanishing, ReLU-like"
    VANISHING_TIME = "vanishing through time"
    EXPLODING_PLAIN = "exploding, plain"
    EXPLODING_BATCH_NORM = "exploding, deep batch norm"
    EXPLODING_RESIDUAL = "exploding, residual"
    EXPLODING_EXP = "exploding, exponential activation"
    RAW_DATA = "raw data"
    EXPLODING_TIME = "exploding through time"
    DEAD_AT_START = "dead from the start"
    DEAD_BY_RATE = "dead in training"
    SATURATED = "saturated"
    SYMMETRIC = "symmetric"
    DISCONNECTED = "disconnected"
    UNDERFLOW = "underflow"
    SPIKES = "spikes"
    NON_FINITE = "non-finite"
    RATE_TOO_HIGH = "rate too high"
    RATE_TOO_LOW = "rate too low"
    CLIPPING = "clipping"
    OTHER = "other"


#: What data far from unit scale brings about; the data come first then, because every
#: other cure only absorbs their scale (facts C).
_BY_DATA = frozenset({"GW103", "GW104", "GW201", "GW203", "GW204", "GW205", "GW301"})
_BY_CODE = {
    "GW102": Situation.VANISHING_TIME,
    "GW106": Situation.DISCONNECTED,
    "GW107": Situation.UNDERFLOW,
    "GW108": Situation.SYMMETRIC,
    "GW202": Situation.EXPLODING_TIME,
    "GW204": Situation.SPIKES,
    "GW205": Situation.NON_FINITE,
    "GW301": Situation.RATE_TOO_HIGH,
    "GW302": Situation.RATE_TOO_LOW,
    "GW303": Situation.CLIPPING,
}


def situation(finding: Finding, structure: Structure, anatomy: Anatomy) -> Situation:
    """Return the situation that a finding describes.

    Args:
        finding: The finding.
        structure: How the gradient flows.
        anatomy: What code can change.

    Returns:
        The situation; OTHER if the table has none for it.
    """
    if finding.code in _BY_DATA and has_raw_data(anatomy):
        return Situation.RAW_DATA
    if finding.code in _BY_CODE:
        return _BY_CODE[finding.code]
    if finding.code in {"GW101", "GW105"}:
        return _vanishing(anatomy)
    if finding.code in {"GW201", "GW203"}:
        return _exploding(structure, anatomy)
    if finding.code == "GW104":
        # No initialisation saves logistic units (facts C: 0 of 12).
        logistic = main_activation(anatomy) in SIGMOID_LIKE
        return Situation.VANISHING_SIGMOID if logistic else Situation.SATURATED
    if finding.code == "GW103":
        at_start = finding.since_step <= _AT_START
        return Situation.DEAD_AT_START if at_start else Situation.DEAD_BY_RATE
    return Situation.OTHER


def main_activation(anatomy: Anatomy) -> str:
    """Return the commonest hidden activation; empty without one."""
    counts = Counter(site.activation for site in anatomy.sites if site.swappable)
    return counts.most_common(1)[0][0] if counts else ""


def has_raw_data(anatomy: Anatomy) -> bool:
    """Whether inputs or targets are far from mean 0 and standard deviation 1."""
    target = anatomy.target_scale
    return any(max(abs(x.mean), x.std) > RAW_SCALE for x in anatomy.inputs) or (
        target is not None and target > RAW_SCALE
    )


def _vanishing(anatomy: Anatomy) -> Situation:
    activation = main_activation(anatomy)
    if activation in SIGMOID_LIKE:
        return Situation.VANISHING_SIGMOID
    if activation in TANH_LIKE:
        return Situation.VANISHING_TANH
    return Situation.VANISHING_RELU


def _exploding(structure: Structure, anatomy: Anatomy) -> Situation:
    if main_activation(anatomy) in EXP_LIKE:
        return Situation.EXPLODING_EXP
    adds = [span for span in structure.spans if span.kind == "add"]
    if len(adds) >= _MIN_SPANS:
        return Situation.EXPLODING_RESIDUAL
    if anatomy.norms and len(anatomy.weights) > DEEP_BATCH_NORM:
        return Situation.EXPLODING_BATCH_NORM
    return Situation.EXPLODING_PLAIN
