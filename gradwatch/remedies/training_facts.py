"""What the remedies on optimizer and loop read of a run: norms, updates, growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from gradwatch.anatomy import Anatomy, OptimizerFacts
from gradwatch.history import History
from gradwatch.rules.weight_updates import median_update, weights
from gradwatch.rules.wording import amount
from gradwatch.structure import Structure

#: Optimizers of `torch.optim` whose step does not grow with the gradient.
ADAPTIVE = frozenset(
    {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"}
    | {"Adafactor", "Rprop", "SparseAdam", "Muon"}
)
#: Those with an epsilon below their second moment.
WITH_EPS = ADAPTIVE - {"Rprop", "Muon"}
#: Others of `torch.optim` whose constructor we can write down.
_PLAIN = frozenset({"SGD", "ASGD", "LBFGS"})
#: Newest probes whose median update ratio counts (chosen: those that confirm).
_PROBES = 3
#: Fewest steps before a percentile of gradient norms says something (chosen).
MIN_NORMS = 10


def gradient_norms(history: History) -> list[float]:
    """Return the global gradient norms of the run, before clipping, oldest first.

    Args:
        history: What was measured.

    Returns:
        Positive finite L2 norms with the loss scale divided out; steps that the scaler
        skipped are left out.
    """
    return [
        pulse.grad_norm
        for pulse in history.pulses
        if pulse.grad_norm is not None and not pulse.skipped and pulse.finite
        if pulse.loss_scale is not None
        if math.isfinite(pulse.grad_norm) and pulse.grad_norm > 0.0
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, interpolated between neighbours.

    Args:
        values: Numbers in any order; at least one.
        share: Share of the values below it, from 0 to 1.

    Returns:
        The percentile.
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def typical_update(history: History, structure: Structure) -> float | None:
    """Return the update ratio of the newest probes: medians over layers and probes."""
    found = [
        ratio
        for probe in history.recent(_PROBES)
        if (ratio := median_update(probe, structure)) is not None and ratio > 0.0
    ]
    return median(found) if found else None


def largest_update(history: History, structure: Structure) -> float | None:
    """Return the largest median update ratio of any probe kept."""
    found = [median_update(probe, structure) for probe in history.probes]
    return max((ratio for ratio in found if ratio is not None), default=None)


def weight_growth(history: History, structure: Structure) -> float | None:
    """Return how many times larger the median weight is than at the first probe.

    Args:
        history: What was measured.
        structure: Tells embeddings from weights.

    Returns:
        Median over weights of RMS now over RMS then; infinite where a weight is no
        longer finite; None with fewer than two probes.
    """
    first, latest = history.first_probe, history.latest
    if first is None or latest is None or latest.step <= first.step:
        return None
    before = {p.name: p.weight_rms for p in weights(first, structure)}
    factors = []
    for parameter in weights(latest, structure):
        old, new = before.get(parameter.name), parameter.weight_rms
        if not old or new is None or not math.isfinite(old):
            continue
        factors.append(new / old if math.isfinite(new) else math.inf)
    return median(factors) if factors else None


def is_adaptive(optimizer: OptimizerFacts) -> bool:
    """Whether the optimizer's step does not grow with the gradient."""
    return optimizer.kind in ADAPTIVE


def rate_in_use(anatomy: Anatomy, history: History) -> float | None:
    """Return the learning rate in use; None if it is not known or zero."""
    latest = history.latest
    if latest is not None and latest.lr:
        return latest.lr
    return anatomy.optimizer.lr or None if anatomy.optimizer is not None else None


def optimizer_line(optimizer: OptimizerFacts, **changes: float) -> str | None:
    """Return the line that makes the user's optimizer, with some arguments changed.

    Args:
        optimizer: The optimizer in use.
        changes: Keyword arguments of its constructor that change.

    Returns:
        Such as `optimizer = torch.optim.SGD(model.parameters(), lr=0.01,
        momentum=0.9)`; None where it has several groups or is not of `torch.optim`,
        so that one line cannot say it.
    """
    if optimizer.num_groups > 1 or optimizer.kind not in ADAPTIVE | _PLAIN:
        return None
    arguments: dict[str, float] = {"lr": optimizer.lr}
    if optimizer.momentum:
        arguments["momentum"] = optimizer.momentum
    if optimizer.weight_decay != (0.01 if optimizer.kind == "AdamW" else 0.0):
        arguments["weight_decay"] = optimizer.weight_decay
    arguments |= changes
    given = ", ".join(f"{name}={code(value)}" for name, value in arguments.items())
    return f"optimizer = torch.optim.{optimizer.kind}(model.parameters(), {given})"


def code(value: float) -> str:
    """Return a number as code, to three digits: `0.00213`, `1e-06`."""
    return f"{value:.3g}"


def growth_in_words(growth: float | None) -> str:
    """Return how the weights grew, as a sentence; empty below twice."""
    if growth is None or growth < 2.0:
        return ""
    times = "without bound" if math.isinf(growth) else f"{amount(growth)} times"
    return (
        f"The median weight has grown {times} since the first probe, and a smaller "
        "step does not undo that: train again from the beginning."
    )
