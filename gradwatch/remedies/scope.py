"""Which layers and activations of a model the remedies on depth may touch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gradwatch.anatomy import ActivationSite, Anatomy, WeightFacts
from gradwatch.remedies.initialisers import Initialiser
from gradwatch.rules.wording import amount, named
from gradwatch.structure import ResidualSpan, Structure

#: Codes of sicknesses along the depth that activation, weights, norms or shortcuts set.
DEPTH_CODES = frozenset({"GW101", "GW105", "GW201", "GW203"})
#: Mean bias beyond which an activation of unit inputs works on one side only: half a
#: deviation. Chosen, not measured.
MAX_BIAS = 0.5


def swappable_sites(anatomy: Anatomy) -> tuple[ActivationSite, ...]:
    """Return the activations that may be exchanged.

    A module that also serves where nothing may be exchanged stays, everywhere.

    Args:
        anatomy: What code can change.

    Returns:
        The sites, in execution order.
    """
    fixed = {site.layer for site in anatomy.sites if not site.swappable}
    return tuple(
        site
        for site in anatomy.sites
        if site.swappable and not fixed & set(site.shared_with)
    )


def why_none(anatomy: Anatomy) -> str:
    """Say why no activation may be exchanged, in a clause."""
    if not anatomy.sites:
        return "no activation was found after a weight layer"
    reasons = list(dict.fromkeys(s.reason for s in anatomy.sites if s.reason))
    shared = "one module serves as a hidden and as another activation"
    return f"its activations must stay ({', '.join(reasons) or shared})"


def hidden_weights(anatomy: Anatomy) -> tuple[WeightFacts, ...]:
    """Return the weight layers off the head, in execution order."""
    return tuple(
        facts for facts in anatomy.weights if facts.hidden and _drawable(facts)
    )


def head_weights(anatomy: Anatomy) -> tuple[WeightFacts, ...]:
    """Return the weight layers of the head, in execution order."""
    return tuple(
        facts for facts in anatomy.weights if not facts.hidden and _drawable(facts)
    )


def _drawable(facts: WeightFacts) -> bool:
    """Whether it owns a `weight`: attention and modules of the user's own need not."""
    return facts.std > 0.0 or max(facts.fan_in, facts.fan_out) > 1


def sums(structure: Structure) -> tuple[ResidualSpan, ...]:
    """Return the residual sums, concatenations left out."""
    return tuple(span for span in structure.spans if span.kind == "add")


def is_plain(structure: Structure, anatomy: Anatomy) -> bool:
    """Whether the network is a chain of layers without norms and shortcuts."""
    return not anatomy.norms and not sums(structure)


def target_std(facts: WeightFacts, initialiser: Initialiser) -> float:
    """Return the standard deviation that an initialiser gives a layer."""
    # The rows of an orthogonal matrix are the outputs, whatever the kernel is.
    fan_out = facts.out_size if initialiser.orthogonal else facts.fan_out
    return initialiser.std(facts.fan_in, fan_out)


def against_target(
    layers: Sequence[WeightFacts], initialiser: Initialiser, activation: str
) -> str:
    """Return measured and asked-for deviation of some layers in words.

    Args:
        layers: Layers that one initialiser serves; at least one.
        initialiser: It.
        activation: What follows them, for a reader.

    Returns:
        Such as `fc1 has std 0.058 against 0.25 = sqrt(2 / fan_in) for ReLU`.
    """
    # The layer that is farthest off says most.
    worst = max(layers, key=lambda facts: _off(facts, initialiser))
    target = target_std(worst, initialiser)
    return (
        f"{named(worst.layer)} has std {amount(worst.std, 2)} against "
        f"{amount(target, 2)} = {initialiser.formula} for {activation}"
    )


def _off(facts: WeightFacts, initialiser: Initialiser) -> float:
    target = target_std(facts, initialiser)
    low, high = sorted((facts.std, target))
    return high / low if low > 0 else float("inf")


def log10_too_small(
    pairs: Iterable[tuple[WeightFacts, Initialiser]],
) -> list[float]:
    """Return how many decades each layer's weights are below their target.

    Each layer multiplies the gradient by a factor that is proportional to its weights,
    so that the sum over layers is what the weights do to D where the activation is
    homogeneous (ReLU, linear).

    Args:
        pairs: Layers with their initialiser.

    Returns:
        Positive for weights that are too small; 8 for all zero ones, -8 for infinite.
    """
    return [_log10_too_small(facts.std, target_std(facts, i)) for facts, i in pairs]


def _log10_too_small(std: float, target: float) -> float:
    if std == math.inf:
        return -8.0
    return math.log10(target / std) if std > 0 else 8.0
