"""The handful of numbers of a watch that go to loggers, under names that stay."""

from __future__ import annotations

import math
from statistics import median

from gradwatch.history import History
from gradwatch.session import Watch

#: Every name that may appear, with what it says. Stable: dashboards are built on them.
NAMES: dict[str, str] = {
    "gradwatch/D_decades": "D of the chain with the largest magnitude, decades",
    "gradwatch/grad_norm/total": "global gradient norm before clipping",
    "gradwatch/update_ratio/median": "median of applied update over weight",
    "gradwatch/dead_share": "largest share of dead units of a layer",
    "gradwatch/saturated_share": "largest share of saturated outputs of a layer",
    "gradwatch/findings": "confirmed warnings and critical findings that stand",
    "gradwatch/overhead": "share of training time that gradwatch took",
}


def scalars(watch: Watch) -> dict[str, float]:
    """Return the newest numbers of a watch; what was not measured is left out.

    Args:
        watch: A live or closed watch.

    Returns:
        Values by name, finite ones only: a logger that drops NaN would hide it, and
        what is not finite is a finding.
    """
    values = {**grad_norm(watch.history), **_measured(watch.history)}
    values["gradwatch/findings"] = float(sum(f.is_alarm for f in watch.findings))
    values["gradwatch/overhead"] = watch.overhead
    return {key: value for key, value in values.items() if math.isfinite(value)}


def grad_norm(history: History) -> dict[str, float]:
    """Return the norm of the newest pulse: the one number that most steps have."""
    norms = (p.grad_norm for p in reversed(history.pulses) if p.grad_norm is not None)
    newest = next(norms, None)
    return {} if newest is None else {"gradwatch/grad_norm/total": newest}


def _measured(history: History) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    record = history.latest
    if record is None:
        return {}
    decades = [d for d in (chain.decades() for chain in record.chains) if d is not None]
    found["gradwatch/D_decades"] = sorted(decades, key=abs)[-1:]
    ratios = [
        p.update_ratio
        for p in record.parameters
        if p.ndim > 1 and p.update_ratio is not None
    ]
    found["gradwatch/update_ratio/median"] = [median(ratios)] if ratios else []
    dead = [
        a.dead_units / a.num_units
        for a in record.activations
        if a.dead_units is not None and a.num_units
    ]
    found["gradwatch/dead_share"] = sorted(dead)[-1:]
    flat = [
        a.saturated_share
        for a in record.activations
        if a.saturated_share is not None and a.hidden and not a.gate
    ]
    found["gradwatch/saturated_share"] = sorted(flat)[-1:]
    return {name: values[0] for name, values in found.items() if values}
