r"""From the records of all ranks to one: what is summed, and what the sums mean.

Data-parallel training averages the ranks' gradients, so it follows the loss
:math:`L = \frac{1}{W} \sum_r L_r` of W ranks. A rank sees the gradient of its own
:math:`L_r` at its own samples; that of L there is 1/W of it, and the norm over all
samples is :math:`\sqrt{\sum_r \lVert\delta_r\rVert^2} / W`: what one process with the
whole batch would see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gradwatch.probe_coverage import origin_of
from gradwatch.records import (
    ActivationRecord,
    LayerRecord,
    ParameterRecord,
    StepRecord,
)

Unit = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class OwnPart:
    """What a rank knows beside its record.

    Attributes:
        samples: Its share of the batch; weighs its means.
        shards: Entries of its shard of each sharded parameter, by name.
        idle: For each unit of an activation, whether it was never active, by layer,
            activation and call.
        moved: Last step at which all ranks saw a sharded parameter's gradient differ
            from zero, by name.
    """

    samples: float = 1.0
    shards: Mapping[str, int] = field(default_factory=dict)
    idle: Mapping[Unit, Sequence[bool]] = field(default_factory=dict)
    moved: Mapping[str, int] = field(default_factory=dict)


class Terms:
    """Numbers to be summed over ranks: collected in one pass, read in a second one.

    Args:
        totals: The sums, in the order in which the numbers were collected; None for
            the pass that collects.
    """

    def __init__(self, totals: Sequence[float] | None = None) -> None:
        self.own: list[float] = []
        self._totals: Iterator[float] | None = None if totals is None else iter(totals)

    def total(self, value: float) -> float:
        """Return the sum over ranks; the number itself while they are collected."""
        if self._totals is not None:
            return next(self._totals)
        self.own.append(float(value))
        return float(value)

    def norm(self, value: float | None) -> float | None:
        """Return the root of the sum of squares, where any rank knows one."""
        known = self.total(value is not None)
        squares = self.total(0.0 if value is None else value * value)
        return _root(squares) if known else None

    def mean(self, value: float | None, weight: float = 1.0) -> float | None:
        """Return the weighted mean over the ranks that know one."""
        weights = self.total(0.0 if value is None else weight)
        total = self.total(0.0 if value is None else value * weight)
        return total / weights if weights else None

    def rms(self, value: float | None, weight: float = 1.0) -> float | None:
        """Return the weighted root mean square over the ranks that know one."""
        square = self.mean(None if value is None else value * value, weight)
        return None if square is None else _root(square)

    def all_true(self, value: bool | None) -> bool | None:
        """Whether no rank says no; None where none knows."""
        known = self.total(value is not None)
        against = self.total(value is False)
        return not against if known else None


def merge(record: StepRecord, own: OwnPart, terms: Terms, ranks: int) -> StepRecord:
    """Return the record of all ranks.

    Gradients that the ranks have reduced already, and whatever follows from them and
    from the weights, are each rank's own: they are equal.

    Args:
        record: The rank's own record.
        own: What else it knows.
        terms: Collects the numbers, or has their sums.
        ranks: Number of ranks.

    Returns:
        The record; of no meaning in the pass that collects.
    """
    layers = tuple(_layer(one, own, terms, ranks) for one in record.layers)
    chains = tuple(
        replace(
            chain,
            points=tuple(
                replace(point, grad_norm=_share(terms, point.grad_norm, ranks))
                for point in chain.points
            ),
        )
        for chain in record.chains
    )
    profiles = tuple(
        replace(
            one, norms=tuple(_share(terms, norm, ranks) or 0.0 for norm in one.norms)
        )
        for one in record.time_profiles
    )
    return replace(
        record,
        layers=layers,
        chains=chains,
        time_profiles=profiles,
        activations=tuple(
            _activation(a, own, terms, ranks) for a in record.activations
        ),
        parameters=tuple(
            _shard(p, record.step, own, terms, ranks) if p.name in own.shards else p
            for p in record.parameters
        ),
        loss=terms.mean(record.loss),
        non_finite=origin_of(record.step, layers),
        local_rank=None,
        ranks=ranks,
    )


def layout_of(record: StepRecord, own: OwnPart) -> str:
    """Return what must be equal on all ranks for their numbers to mean the same."""
    return repr(
        (
            [(r.layer, r.call) for r in record.layers],
            [
                (a.layer, a.activation, a.call, len(own.idle.get(_unit(a), ())))
                for a in record.activations
            ],
            [(p.name, p.name in own.shards) for p in record.parameters],
            [(c.source, [p.label for p in c.points]) for c in record.chains],
            [(t.layer, t.direction, len(t.norms)) for t in record.time_profiles],
        )
    )


def reduced_norm(record: StepRecord, own: OwnPart) -> float | None:
    """Return the norm of the gradients that are equal on all ranks; None without any.

    Args:
        record: The rank's own record.
        own: What else it knows.

    Returns:
        L2 norm of the gradients of all parameters that are not sharded.
    """
    norms = [
        p.grad_norm
        for p in record.parameters
        if p.grad_norm is not None and p.name not in own.shards
    ]
    return math.hypot(*norms) if norms else None


def _layer(one: LayerRecord, own: OwnPart, terms: Terms, ranks: int) -> LayerRecord:
    return replace(
        one,
        grad_norm=_share(terms, one.grad_norm, ranks),
        output_rms=terms.rms(one.output_rms, own.samples),
        input_finite=terms.all_true(one.input_finite),
        output_finite=terms.all_true(one.output_finite),
        grad_finite=terms.all_true(one.grad_finite),
        sample_signal=terms.mean(one.sample_signal, own.samples),
    )


def _activation(
    one: ActivationRecord, own: OwnPart, terms: Terms, ranks: int
) -> ActivationRecord:
    idle = own.idle.get(_unit(one))
    dead = None
    if idle is not None:
        dead = sum(terms.total(unit) == ranks for unit in idle)
    return replace(
        one,
        zero_share=terms.mean(one.zero_share, own.samples),
        saturated_share=terms.mean(one.saturated_share, own.samples),
        dead_units=dead,
    )


def _shard(
    one: ParameterRecord, step: int, own: OwnPart, terms: Terms, ranks: int
) -> ParameterRecord:
    """Join the shards of a parameter; a rank may have none of it."""
    entries = own.shards[one.name]
    grad = terms.norm(one.grad_norm)
    weight = terms.rms(one.weight_rms, entries)
    ratio, before = one.update_ratio, one.weight_rms
    known = ratio is not None and before is not None
    change = terms.rms(ratio * before if known else None, entries)  # type: ignore[operator]
    changed = terms.rms(before if known else None, entries)
    equal = _equal_rows(one, terms)
    zero_steps = int(terms.total(one.zero_steps) / ranks)
    return replace(
        one,
        grad_norm=grad,
        weight_rms=weight,
        weight_finite=terms.all_true(one.weight_finite),
        update_ratio=change / changed if change is not None and changed else None,
        zero_share=terms.mean(one.zero_share, entries),
        zero_weight=terms.all_true(one.zero_weight),
        equal_rows=equal,
        zero_steps=min(max(1, zero_steps), step - own.moved.get(one.name, -1))
        if grad == 0.0
        else 0,
    )


def _equal_rows(one: ParameterRecord, terms: Terms) -> bool | None:
    """Rows that are equal within each shard may differ between them: not known then."""
    differ = terms.total(one.equal_rows is False)
    unknown = terms.total(one.equal_rows is None)
    apart = not alike(terms, one.weight_rms or 0.0)
    if differ:
        return False
    return None if unknown or apart else True


def alike(terms: Terms, value: float, tolerance: float = 1e-6) -> bool:
    """Whether a number is the same on all ranks; every rank gets the same answer.

    Args:
        terms: Collects the numbers, or has their sums.
        value: The rank's own.
        tolerance: Spread over the mean that counts as none.

    Returns:
        True also where it is not finite anywhere: that tells nothing.
    """
    count, total = terms.total(1.0), terms.total(value)
    squares = terms.total(value * value)
    if not math.isfinite(squares):
        return True
    return count * squares - total * total <= tolerance**2 * total * total + 1e-300


def _share(terms: Terms, value: float | None, ranks: int) -> float | None:
    """Return the norm of the gradient of the mean loss over the samples of all."""
    norm = terms.norm(value)
    return None if norm is None else norm / ranks


def _unit(one: ActivationRecord) -> Unit:
    return one.layer, one.activation, one.call


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan
