"""The rules of other tools, re-stated from their papers and sources (facts B2 and B4).

Each rule takes what the naive observer saw at one step and returns the kind of sickness
that it names, or None. What needs a history of its own (loss curves, accuracies,
patience) is left out: the rules are judged at one step, as facts B2 judged them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from benchmarks.faults.observer import Seen, observe
from benchmarks.faults.setups import (
    DEAD,
    EXPLODING,
    NON_FINITE,
    SATURATED,
    STALLED,
    UNSTABLE,
    VANISHING,
    SetUp,
)
from benchmarks.faults.training import rescale

#: Steps at which the rules are judged.
STEPS = (0, 20)
SATURABLE = ("Tanh", "Sigmoid")
RECTIFIERS = ("ReLU", "LeakyReLU", "ReLU6")

Rule = Callable[[Seen], str | None]


def _broken(seen: Seen) -> bool:
    """Tell whether the loss or a gradient is not finite: no tool misses that."""
    norms = [weight.norm for weight in seen.weights]
    return not all(math.isfinite(value) for value in [seen.loss, *norms])


def mean_abs(low: float, high: float) -> Rule:
    """Mean absolute gradient of any weight outside a range."""

    def rule(seen: Seen) -> str | None:
        if _broken(seen):
            return NON_FINITE
        if any(weight.mean_abs > high for weight in seen.weights):
            return EXPLODING
        if any(weight.mean_abs < low for weight in seen.weights):
            return VANISHING
        return None

    return rule


def norm(low: float, high: float) -> Rule:
    """Gradient norm of any weight outside a range."""

    def rule(seen: Seen) -> str | None:
        if _broken(seen):
            return NON_FINITE
        if any(weight.norm > high for weight in seen.weights):
            return EXPLODING
        if any(weight.norm < low for weight in seen.weights):
            return VANISHING
        return None

    return rule


def deep_diagnosis(seen: Seen) -> str | None:
    """DeepDiagnosis (Wardat 2022): 1e-7, dead from .7, saturated from .5."""
    for layer in seen.layers:
        if layer.kind in SATURABLE and layer.input_beyond_5_share > 0.5:
            return SATURATED
        if layer.kind in RECTIFIERS and layer.output_not_positive_share >= 0.7:
            return DEAD
    return mean_abs(1e-7, math.inf)(seen)


def deep_checker_update(seen: Seen) -> str | None:
    """TheDeepChecker (Ben Braiek 2022): log10(update / weight) outside [-4, -1]."""
    if _broken(seen):
        return NON_FINITE
    ratios = [
        weight.lr * weight.norm / weight.weight_norm
        for weight in seen.weights
        if weight.weight_norm > 0
    ]
    if any(ratio > 1e-1 for ratio in ratios):
        return UNSTABLE
    if any(ratio < 1e-4 for ratio in ratios):
        return STALLED
    return None


def autotrainer(seen: Seen) -> str | None:
    """AUTOTRAINER (Zhang 2021): ratio of the first to the last kernel's gradient."""
    if _broken(seen) or seen.loss >= 1e3:
        return EXPLODING
    if not seen.weights:
        return None
    first, last = seen.weights[0], seen.weights[-1]
    if last.norm > 0 and first.norm / last.norm >= 70:
        return EXPLODING
    if last.norm > 0 and first.norm / last.norm <= 1e-3 and first.norm <= 1e-4:
        return VANISHING
    zeros = sum(weight.zero_share for weight in seen.weights) / len(seen.weights)
    return DEAD if zeros >= 0.7 else None


def umlaut(seen: Seen) -> str | None:
    """UMLAUT (Schoop 2021): learning rate outside [1e-7, 1e-2]."""
    if not math.isfinite(seen.loss):
        return NON_FINITE
    # The rate that the user chose: that `rescale` adapted it is no flip of the rule.
    rates = [weight.chosen_lr for weight in seen.weights if weight.lr > 0]
    if any(rate > 1e-2 for rate in rates):
        return UNSTABLE
    return STALLED if any(rate < 1e-7 for rate in rates) else None


def sagemaker(seen: Seen) -> str | None:
    """SageMaker Debugger's built-in rules that one step can answer."""
    found = mean_abs(1e-7, math.inf)(seen)
    if found is not None:
        return found
    for weight in seen.weights:
        if weight.weight_norm > 0:
            ratio = weight.lr * weight.norm / weight.weight_norm
            if ratio > 10:
                return UNSTABLE
            if ratio < 1e-8:
                return STALLED
    for layer in seen.layers:
        if layer.kind == "ReLU" and layer.dead_unit_share > 0.5:
            return DEAD
        if layer.kind in SATURABLE and layer.unsaturated_input_share < 0.5:
            return SATURATED
    variances = [w.weight_variance for w in seen.weights if w.weight_variance > 0]
    spread = max(variances, default=1.0) / min(variances, default=1.0)
    return UNSTABLE if spread > 10 else None


def torchmortem(seen: Seen) -> str | None:
    """Torchmortem 0.1: mean |dL/dout| of the last layer over the first's, and sizes."""
    if _broken(seen):
        return NON_FINITE
    grads = [g for g in (layer.grad_mean_abs for layer in seen.layers) if g is not None]
    if any(grad > 1000 for grad in grads):
        return EXPLODING
    if len(grads) > 1 and grads[-1] > 100 * grads[0]:
        return VANISHING
    if any(layer.output_tiny_share > 0.5 for layer in seen.layers):
        return DEAD
    if any(layer.output_beyond_95_share > 0.5 for layer in seen.layers):
        return SATURATED
    return None


RULES: dict[str, Rule] = {
    "mean abs gradient < 1e-7": mean_abs(1e-7, math.inf),
    "DeepDiagnosis": deep_diagnosis,
    "TheDeepChecker 1e-6 / 1e6": mean_abs(1e-6, 1e6),
    "TheDeepChecker update": deep_checker_update,
    "AUTOTRAINER ratio": autotrainer,
    "UMLAUT learning rate": umlaut,
    "norm < 1e-6 or > 10": norm(1e-6, 10),
    "norm < 1e-4 or > 10": norm(1e-4, 10),
    "SageMaker Debugger": sagemaker,
    "torchmortem": torchmortem,
}


def verdicts(
    setup: SetUp, seed: int, factor: float
) -> dict[str, dict[str, str | None]]:
    """Return each rule's kind at each step, under a loss multiplied by a factor."""
    run = setup.build(seed)
    if factor != 1.0:
        run = rescale(run, factor)
    seen = observe(run, STEPS)
    return {
        name: {str(step): rule(seen[step]) for step in STEPS}
        for name, rule in RULES.items()
    }
