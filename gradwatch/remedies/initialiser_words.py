"""What `initialise-weights` says: how far weights are off, and with what record."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.anatomy import WeightFacts
from gradwatch.remedies.activations import title_of
from gradwatch.remedies.initialisers import MOMENT_GAINS, Initialiser
from gradwatch.remedies.measured import record
from gradwatch.remedies.scope import against_target
from gradwatch.rules.wording import named, plural
from gradwatch.situations import SIGMOID_LIKE, TANH_LIKE

REASONS = {
    "orthogonal": (
        "Orthogonal weights turn a signal and do not stretch it; 1.05 makes up for "
        "what tanh takes."
    ),
    "kumar": (
        "Kumar's scale keeps the variance of a logistic signal; in theory each layer "
        "still passes on 0.60 of the gradient only."
    ),
    "yilmaz-poli": (
        "A negative mean keeps the outputs of logistic units from adding up, so that "
        "the gradient does not fade."
    ),
}
CAUTIONS = {
    "orthogonal": "Inputs of deviation 1 and more still push tanh into its flat parts.",
    "kumar": "Helps shallow networks at best: another activation helps more.",
    "yilmaz-poli": "Trains very slowly: its authors trained long with plain SGD.",
}


def how_far_off(
    pairs: Sequence[tuple[WeightFacts, Initialiser]], off: Sequence[float]
) -> str:
    """Say how far the weights are off, and what that makes over all layers."""
    at = max(range(len(pairs)), key=lambda i: abs(off[i]))
    facts, initialiser = pairs[at]
    follows = title_of(facts.activation) if facts.activation else "a linear layer"
    text = f"{against_target([facts], initialiser, follows)}."
    if len(pairs) > 1:
        total = sum(off)
        text += (
            f" Over all {plural(len(pairs), 'layer')} the weights are too "
            f"{'small' if total > 0 else 'large'} by {abs(total):.1f} decades together."
        )
    return text


def bias_clause(biased: Sequence[WeightFacts]) -> str:
    """Say how large the largest bias is; empty for none."""
    if not biased:
        return ""
    worst = max(biased, key=lambda facts: abs(facts.bias_mean or 0.0))
    return f" The bias of {named(worst.layer)} has mean {worst.bias_mean:.2g}."


def measured(code: str, layers: Sequence[WeightFacts]) -> str:
    """Return how the initialiser of the present activation fared."""
    kinds = {facts.activation for facts in layers}
    if kinds <= TANH_LIKE:
        return record("init tanh", code)
    if kinds & SIGMOID_LIKE:
        return record("init", code)
    return record("init relu-like", code)


def caution_of(layers: Sequence[WeightFacts]) -> str:
    """Return what to look out for with these activations."""
    kinds = {facts.activation for facts in layers}
    if "tanh" in kinds:
        return (
            "Keep gain 1: PyTorch's gain of 5/3 for tanh grows by 1.1 a layer and "
            "explodes beyond about 30 layers."
        )
    if kinds & (MOMENT_GAINS.keys() - {"elu", "celu"}):
        return "From about 20 plain layers on the signal drifts from its size."
    return "What these layers had learned is lost."
