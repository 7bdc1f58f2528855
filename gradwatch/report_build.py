"""Compose a report from what was measured and judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from gradwatch.findings import HEALTH_ORDER, Finding, Health
from gradwatch.history import History
from gradwatch.recommendations import Recommendation, Rejection
from gradwatch.records import (
    ActivationRecord,
    ChainRecord,
    Coverage,
    LayerRecord,
    ParameterRecord,
    StepRecord,
    TimeProfile,
)
from gradwatch.report import (
    ChainPoint,
    ChainSummary,
    CheckedRule,
    CoverageReason,
    CoverageSummary,
    LayerSummary,
    Overhead,
    Report,
    RunFacts,
    TimeSummary,
    UncheckedRule,
)
from gradwatch.report_words import next_step, sentence
from gradwatch.rules.loss_curve import last_loss
from gradwatch.rules.time_profiles import fading, growing, horizon
from gradwatch.settings import Settings
from gradwatch.structure import LayerInfo, Structure

_Record = TypeVar("_Record", LayerRecord, ActivationRecord, ParameterRecord)


def build_report(
    *,
    history: History,
    structure: Structure,
    settings: Settings,
    findings: Sequence[Finding],
    cleared: Sequence[Finding],
    ignored: int,
    health: Health,
    layer_health: Mapping[str, Health],
    overhead: Overhead,
    run: RunFacts,
    checked: Sequence[CheckedRule],
    not_checked: Sequence[UncheckedRule],
    recommendations: Sequence[Recommendation] = (),
    rejections: Sequence[Rejection] = (),
) -> Report:
    """Compose a report. Reads its arguments and changes none.

    Args:
        history: What was measured.
        structure: The network.
        settings: The limits in use.
        findings: Findings that stand, in any order.
        cleared: Findings that came and went.
        ignored: Number of findings that the user ignores.
        health: Verdict on the network.
        layer_health: Verdict on each layer, by name.
        overhead: What gradwatch cost.
        run: What was watched; fields that the history knows are filled in here unless
            they were set.
        checked: Rules that were judged.
        not_checked: Rules that could not be judged.
        recommendations: What may help, best first.
        rejections: Remedies that were left out, and why.

    Returns:
        The report.
    """
    record = shown_probe(history)
    coverage = _coverage(history, structure)
    facts = _facts(run, history)
    ordered = tuple(sorted(findings, key=lambda finding: _badness(finding, health)))
    parts = {
        "health": health,
        "findings": ordered,
        "cleared": tuple(sorted(cleared, key=lambda f: f.since_step)),
        "ignored_count": ignored,
        "recommendations": tuple(recommendations),
        "rejections": tuple(rejections),
        "layers": _layers(record, structure, layer_health),
        "layers_step": record.step if record is not None else None,
        "chains": _chains(record),
        "time_profiles": _time_profiles(record, settings),
        "coverage": coverage,
        "overhead": overhead,
        "checked": tuple(checked),
        "not_checked": tuple(not_checked),
        "run": facts,
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
    }
    draft = Report.model_validate({**parts, "sentence": "", "next_step": ""})
    report = draft.model_copy(
        update={
            "sentence": sentence(draft, settings),
            "next_step": next_step(draft, settings),
        }
    )
    report._series = history.series()
    return report


def shown_probe(history: History) -> StepRecord | None:
    """Return the newest probe that shows something.

    After a NaN every later gradient is one: the last probe with a finite gradient says
    more about the layers than a column of NaN.
    """
    probes = history.probes
    for record in reversed(probes):
        norms = [r.grad_norm for r in record.layers if r.grad_norm is not None]
        if not norms or any(map(math.isfinite, norms)):
            return record
    return probes[-1] if probes else None


def _badness(finding: Finding, health: Health) -> tuple[object, ...]:
    """Sort key: alarms first, what the report's health says first among them."""
    order = {state: place for place, state in enumerate(HEALTH_ORDER)}
    return (
        not finding.is_alarm,
        (finding.ends_in or finding.health) is not health,
        -finding.severity,
        order.get(finding.health, len(order)),
        -finding.confidence,
        finding.since_step,
        finding.code,
    )


def _facts(run: RunFacts, history: History) -> RunFacts:
    pulses = history.pulses
    latest = history.latest
    rates = [r.lr for r in history.probes if r.lr is not None]
    rates += [r.lr for r in pulses if r.lr is not None]
    scales = [r.loss_scale for r in pulses] or [r.loss_scale for r in history.probes]
    factors = [p.clip_factor for p in pulses if p.clip_factor is not None]
    known = {
        "steps": history.last_step + 1,
        "skipped_steps": history.num_skipped,
        "probe_steps": tuple(probe.step for probe in history.probes),
        "loss_known": history.first_loss is not None,
        "first_loss": history.first_loss,
        "last_loss": last_loss(history),
        "lr": rates[-1] if rates else None,
        "loss_scale": scales[-1] if scales else 1.0,
        "clipped_share": (
            sum(factor < 1.0 for factor in factors) / len(factors) if factors else None
        ),
        "rank": latest.local_rank if latest is not None else None,
        "ranks": latest.ranks if latest is not None else 1,
    }
    given = run.model_fields_set
    return run.model_copy(
        update={name: value for name, value in known.items() if name not in given}
    )


def _layers(
    record: StepRecord | None,
    structure: Structure,
    layer_health: Mapping[str, Health],
) -> tuple[LayerSummary, ...]:
    if record is None:
        return ()
    calls = _by_layer(record.layers)
    activations = _by_layer(record.activations)
    parameters = _by_layer(record.parameters)
    coverage, reasons = dict(record.coverage), dict(record.coverage_reasons)
    names = dict.fromkeys([*structure.layers, *coverage, *calls, *parameters])
    top = _top(record, structure)
    rows = []
    for name in names:
        info = structure.layers.get(name) or LayerInfo(name, "")
        seen = calls.get(name, [])
        observed = Coverage.OBSERVED if seen else Coverage.NOT_SEEN
        covered = coverage.get(name, observed)
        grad_norm = _rms(r.grad_norm for r in seen)
        follow = activations.get(name, [])
        rows.append(
            LayerSummary(
                name=name,
                kind=info.kind,
                role=info.role,
                health=layer_health.get(name, _default_health(covered)),
                coverage=covered,
                reason=reasons.get(name, ""),
                order=_order(seen, info),
                calls=len(seen),
                grad_norm=grad_norm,
                grad_ratio=_decades_above(grad_norm, top),
                output_rms=_rms(r.output_rms for r in seen),
                update_ratio=_update_ratio(parameters.get(name, [])),
                dead_share=_worst(
                    r.dead_units / r.num_units
                    for r in follow
                    if r.dead_units is not None and r.num_units
                ),
                saturated_share=_worst(
                    r.saturated_share for r in follow if r.saturated_share is not None
                ),
                activation=info.activation
                or (follow[0].activation if follow else None),
                num_parameters=info.num_parameters
                or sum(p.numel for p in parameters.get(name, [])),
            )
        )
    last = len(rows)
    return tuple(sorted(rows, key=lambda r: r.order if r.order is not None else last))


def _by_layer(records: Iterable[_Record]) -> dict[str, list[_Record]]:
    found: dict[str, list[_Record]] = {}
    for record in records:
        found.setdefault(record.layer, []).append(record)
    return found


def _default_health(coverage: Coverage) -> Health:
    if coverage is Coverage.NO_GRADIENT:
        return Health.NO_GRADIENT
    return Health.UNKNOWN


def _order(calls: Sequence[LayerRecord], info: LayerInfo) -> int | None:
    if calls:
        return min(call.order for call in calls)
    return info.order if info.order >= 0 else None


def _top(record: StepRecord, structure: Structure) -> float | None:
    """Return the gradient that all others are compared with."""
    for chain in sorted(record.chains, key=lambda c: not c.main):
        points = chain.positive_points()
        if points:
            return points[-1].grad_norm
    usable = [
        call
        for call in record.layers
        if call.grad_norm is not None and 0 < call.grad_norm < math.inf
    ]
    hidden = [call for call in usable if call.layer == structure.last_hidden]
    newest = max(hidden or usable, key=lambda call: call.order, default=None)
    return newest.grad_norm if newest is not None else None


def _decades_above(norm: float | None, top: float | None) -> float | None:
    if norm is None or top is None or not math.isfinite(norm):
        return None
    return math.log10(norm) - math.log10(top) if norm > 0 else -math.inf


def _rms(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    # hypot neither overflows nor underflows where a sum of squares would.
    return math.hypot(*known) / math.sqrt(len(known))


def _worst(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def _update_ratio(parameters: Sequence[ParameterRecord]) -> float | None:
    """Return the update ratio of the largest parameter that has one."""
    measured = [p for p in parameters if p.update_ratio is not None]
    largest = max(measured, key=lambda p: (p.ndim >= 2, p.numel), default=None)
    return largest.update_ratio if largest is not None else None


def _chains(record: StepRecord | None) -> tuple[ChainSummary, ...]:
    if record is None:
        return ()
    return tuple(map(_chain, sorted(record.chains, key=lambda chain: not chain.main)))


def _chain(chain: ChainRecord) -> ChainSummary:
    return ChainSummary(
        source=chain.source,
        points=tuple(
            ChainPoint(
                label=p.label, layer=p.layer, grad_norm=p.grad_norm, width=p.width
            )
            for p in chain.points
        ),
        decades=chain.decades(),
        main=chain.main,
        structure_known=chain.structure_known,
    )


def _time_profiles(
    record: StepRecord | None, settings: Settings
) -> tuple[TimeSummary, ...]:
    if record is None:
        return ()
    return tuple(_time_summary(p, settings) for p in record.time_profiles)


def _time_summary(profile: TimeProfile, settings: Settings) -> TimeSummary:
    lost, gained = fading(profile.norms), growing(profile.norms)
    # A peak on the way has a far side too, but no horizon where the gradient grows.
    fades = lost is not None and (gained is None or lost.decades > gained.decades)
    return TimeSummary(
        layer=profile.layer,
        direction=profile.direction,
        norms=profile.norms,
        how=profile.how,
        decades_lost=lost.decades if lost is not None else None,
        decades_gained=gained.decades if gained is not None else None,
        horizon=horizon(profile.norms, settings.horizon_share) if fades else None,
        horizon_share=settings.horizon_share,
        spectral_radius=profile.spectral_radius,
        singular_value=profile.singular_value,
    )


def _coverage(history: History, structure: Structure) -> CoverageSummary:
    if history.latest is None:
        return CoverageSummary()
    covered, reasons = history.best_coverage()
    groups: dict[tuple[Coverage, str], list[str]] = {}
    for name, state in covered.items():
        if state is not Coverage.OBSERVED:
            groups.setdefault((state, reasons.get(name, "")), []).append(name)
    weights = [info.name for info in structure.weight_layers()]
    states = list(covered.values())
    return CoverageSummary(
        observed=states.count(Coverage.OBSERVED),
        no_gradient=states.count(Coverage.NO_GRADIENT),
        not_seen=states.count(Coverage.NOT_SEEN),
        num_weight_layers=len(weights),
        weight_layers_observed=sum(
            covered.get(name) is Coverage.OBSERVED for name in weights
        ),
        reasons=tuple(
            CoverageReason(coverage=state, reason=reason, layers=tuple(layers))
            for (state, reason), layers in groups.items()
        ),
    )
