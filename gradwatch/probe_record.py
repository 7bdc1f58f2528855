"""From a probe's tickets and the transferred numbers to a `StepRecord`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gradwatch.layers import ModuleFacts
from gradwatch.probe import Probe
from gradwatch.probe_entries import (
    ActivationEntry,
    ChainEntry,
    LayerEntry,
    ParameterEntry,
)
from gradwatch.records import (
    ActivationRecord,
    ChainRecord,
    Coverage,
    LayerRecord,
    NonFiniteOrigin,
    ParameterRecord,
    PointRecord,
    StepRecord,
    TimeProfile,
)
from gradwatch.recurrent import recurrent_spectrum
from gradwatch.statistics import Pending


@dataclass(slots=True)
class ProbeContext:
    """What the observer knows beside the probe itself.

    Attributes:
        step: Optimizer step of the probe.
        facts: Facts of all watched modules by name.
        modules: The modules by name.
        in_optimizer: Ids of parameters that some optimizer seen so far owns; None
            while no optimizer was seen.
        zero_at_attach: Names of parameters that were all zero at attach.
        zero_run: Ticket of the zero-run vector, and names in its order.
        found_inf: Ticket of the flag that tells a fused optimizer to skip its step.
        pulse_every: Steps a count of the zero run stands for.
        grad_scale: Factor that parameter gradients still carry at the step.
        clip_factor: Norm at the step over norm at the end of backward.
        loss: Loss known from elsewhere than the probe.
        lr: Largest learning rate.
        local_rank: Rank whose statistics these are, if not global.
    """

    step: int
    facts: Mapping[str, ModuleFacts]
    modules: MutableMapping[str, nn.Module]
    in_optimizer: frozenset[int] | None = None
    zero_at_attach: frozenset[str] = frozenset()
    zero_run: int | None = None
    found_inf: int | None = None
    zero_names: Sequence[str] = ()
    pulse_every: int = 1
    scaled_parameters: bool = False
    clip_factor: float | None = None
    loss: float | None = None
    lr: float | None = None
    local_rank: int | None = None


def build_record(probe: Probe, pending: Pending, context: ProbeContext) -> StepRecord:
    """Return the record of a probe.

    Args:
        probe: The probe, sealed.
        pending: Its transferred numbers.
        context: What else is known of the step.

    Returns:
        The record; quantities that were not measured are None.
    """
    return _Builder(probe, pending, context).build()


class _Builder:
    def __init__(self, probe: Probe, pending: Pending, context: ProbeContext) -> None:
        self.probe = probe
        self.pending = pending
        self.context = context
        scale = pending.get(probe.scale_ticket)
        self.scale = scale if scale else 1.0

    def build(self) -> StepRecord:
        entries = self._trained_entries()
        layers = self._layers(entries)
        parameters = [
            self._parameter(e) for e in self.probe.at_step.parameters.values()
        ]
        coverage, reasons = self._coverage(layers, parameters)
        loss = self.pending.get(self.probe.loss_ticket)
        if loss is None or (math.isnan(loss) and self.context.loss is not None):
            loss = self.context.loss
        elif math.isnan(loss) and not self.probe.loss_is_users:
            loss = None
        chains = self._chains() or self._fallback_chain(layers)
        return StepRecord(
            step=self.context.step,
            layers=tuple(layers),
            activations=tuple(self._activations()),
            parameters=tuple(parameters),
            chains=tuple(chains),
            time_profiles=(*self._replays(), *self._cell_loops(entries)),
            loss=loss,
            loss_scale=self.scale,
            clip_factor=self.context.clip_factor,
            coverage=tuple(coverage.items()),
            coverage_reasons=tuple(reasons.items()),
            non_finite=self._origin(layers),
            float16=self.probe.float16,
            zero_init_downstream=self._zero_init(parameters),
            no_grad_layers=tuple(
                # Reentrant checkpointing runs layers so first, then with gradients.
                name
                for name in self.probe.no_grad_layers
                if all(record.layer != name for record in layers)
            ),
            local_rank=self.context.local_rank,
            lr=self.context.lr,
        )

    # -- layers -------------------------------------------------------------------

    def _trained_entries(self) -> list[LayerEntry]:
        """Drop the forwards no gradient came back to, if another one has gradients."""
        entries = self.probe.layers
        finite: dict[int, bool] = {}
        for entry in entries:
            norm = self._gradient(entry)
            if norm is not None:
                so_far = finite.get(entry.group, True)
                finite[entry.group] = so_far and math.isfinite(norm)
        groups = self._not_skipped(finite)
        return [e for e in entries if e.group in groups] if groups else entries

    def _not_skipped(self, finite: Mapping[int, bool]) -> set[int]:
        """Drop the passes that overflowed under a loss scale: no step came of them."""
        good = {number for number, is_finite in finite.items() if is_finite}
        return good if self.scale != 1.0 and good else set(finite)

    def _gradient(self, entry: LayerEntry) -> float | None:
        """Return the norm over all outputs, the RMS over repeated backward passes."""
        squares = []
        for tickets in entry.grads.values():
            norm = _rms_of(self.pending.get(ticket) for ticket in tickets)
            if norm is not None:
                squares.append(norm)
        return math.hypot(*squares) / self.scale if squares else None

    def _layers(self, entries: Sequence[LayerEntry]) -> list[LayerRecord]:
        merged: dict[tuple[str, int], list[LayerEntry]] = {}
        for entry in entries:
            merged.setdefault((entry.facts.name, entry.call), []).append(entry)
        records = []
        for (layer, call), group in merged.items():
            grads = [self._gradient(entry) for entry in group]
            values = [self.pending.get(entry.rms) for entry in group]
            inputs = [self.pending.get(t) for entry in group for t in entry.input_rms]
            grad = _rms_of(grads)
            value = _rms_of(values)
            known_inputs = [v for v in inputs if v is not None]
            output_finite = None if value is None else math.isfinite(value)
            input_finite = all(map(math.isfinite, known_inputs))
            if not known_inputs and not output_finite:
                input_finite = True  # no floating input at all
            records.append(
                LayerRecord(
                    layer=layer,
                    call=call,
                    order=group[0].order,
                    grad_norm=grad,
                    output_rms=value,
                    input_finite=None if value is None else input_finite,
                    output_finite=output_finite,
                    grad_finite=None if grad is None else math.isfinite(grad),
                    sample_signal=_mean_of(self.pending.get(e.signal) for e in group),
                )
            )
        return sorted(records, key=lambda record: record.order)

    def _activations(self) -> list[ActivationRecord]:
        merged: dict[tuple[str, str, int], list[ActivationEntry]] = {}
        for entry in self.probe.activations:
            key = (entry.layer, entry.activation, entry.call)
            merged.setdefault(key, []).append(entry)
        records = []
        for (layer, activation, call), group in merged.items():
            counts = [e for e in group if e.dead is not None]
            last = counts[-1] if counts else group[-1]
            dead = self.pending.get(last.dead)
            records.append(
                ActivationRecord(
                    layer=layer,
                    activation=activation,
                    call=call,
                    functional=group[0].functional,
                    hidden=group[0].hidden,
                    gate=group[0].gate,
                    zero_share=_mean_of(self.pending.get(e.zero) for e in group),
                    saturated_share=_mean_of(
                        self.pending.get(e.saturated) for e in group
                    ),
                    num_units=last.num_units,
                    dead_units=None if dead is None else round(dead),
                    window_probes=last.window,
                )
            )
        return records

    # -- parameters ---------------------------------------------------------------

    def _parameter(self, entry: ParameterEntry) -> ParameterRecord:
        get = self.pending.get
        parameter = entry.parameter
        grad = get(entry.grad)
        if grad is not None and self.context.scaled_parameters:
            grad /= self.scale
        before, update = get(entry.before_norm), get(entry.update)
        ratio = None
        if before and update is not None and entry.name not in self._left_out():
            ratio = update / before
        owners = self.context.in_optimizer
        return ParameterRecord(
            name=entry.name,
            layer=entry.layer,
            ndim=sum(size > 1 for size in parameter.shape),
            numel=parameter.numel(),
            trainable=parameter.requires_grad,
            grad_norm=grad,
            zero_steps=self._zero_steps(entry.name) if grad == 0.0 else 0,
            weight_rms=(
                before / math.sqrt(entry.entries)
                if before is not None and entry.entries
                else None
            ),
            weight_finite=None if before is None else math.isfinite(before),
            update_ratio=ratio,
            in_optimizer=None if owners is None else id(parameter) in owners,
            zero_share=get(entry.zeros),
            equal_rows=_equal_rows(get(entry.equal_rows), before),
            zero_weight=None if before is None else before == 0.0,
        )

    def _left_out(self) -> frozenset[str]:
        """Tensors that began at zero grow from nothing: no ratio for 50 steps."""
        return self.context.zero_at_attach if self.context.step < 50 else frozenset()

    def _zero_steps(self, name: str) -> int:
        names = self.context.zero_names
        if self.context.zero_run is None or name not in names:
            return 1
        runs = self.pending.get_all(self.context.zero_run)
        return max(1, round(runs[names.index(name)] * self.context.pulse_every))

    def _zero_init(self, parameters: Iterable[ParameterRecord]) -> bool:
        weights = {entry.facts.name for entry in self.probe.layers if entry.weight}
        return any(
            p.zero_weight and p.ndim >= 1 and p.trainable and p.layer in weights
            for p in parameters
            if not p.name.endswith("bias")
        )

    # -- depth and time -----------------------------------------------------------

    def _chains(self) -> list[ChainRecord]:
        merged: dict[tuple[str, ...], list[int]] = {}
        for number, chain in enumerate(self.probe.chains):
            key = (chain.source, *(point.label for point in chain.points))
            merged.setdefault(key, []).append(number)
        records = []
        for numbers in merged.values():
            first = self.probe.chains[numbers[0]]
            passes = {n: self._norms_along(self.probe.chains[n]) for n in numbers}
            kept = self._not_skipped(
                {
                    n: all(norm is None or math.isfinite(norm) for norm in norms)
                    for n, norms in passes.items()
                }
            )
            points = [
                PointRecord(
                    point.label,
                    point.layer,
                    _rms_of(passes[n][position] for n in numbers if n in kept),
                    point.width,
                )
                for position, point in enumerate(first.points)
            ]
            known = not self.probe.opaque
            records.append(ChainRecord(first.source, tuple(points), first.main, known))
        return records

    def _norms_along(self, chain: ChainEntry) -> list[float | None]:
        norms: list[float | None] = []
        for point in chain.points:
            if point.entry is not None:
                norms.append(self._gradient(point.entry))
            else:
                value = _rms_of(self.pending.get(t) for t in point.tickets)
                norms.append(None if value is None else value / self.scale)
        return norms

    def _fallback_chain(self, layers: Sequence[LayerRecord]) -> list[ChainRecord]:
        """Module order stands in where no graph could be read."""
        if self.probe.backwards and not self.probe.opaque:
            return []
        weights = {e.facts.name: e for e in self.probe.layers if e.weight}
        points = [
            PointRecord(r.layer, r.layer, r.grad_norm, weights[r.layer].width)
            for r in layers
            if r.layer in weights and r.call == 0
        ][:-1]
        if len(points) < 3:
            return []
        return [ChainRecord(points[0].layer, tuple(points), True, False)]

    def _replays(self) -> list[TimeProfile]:
        profiles = []
        for replayed, ticket in self.probe.at_step.profiles:
            module = self.context.modules.get(replayed.layer)
            norms = [value / self.scale for value in self.pending.get_all(ticket)]
            radius, singular = None, None
            if module is not None and _spans_decades(norms):
                radius, singular = recurrent_spectrum(module)
            profiles.append(
                TimeProfile(
                    replayed.layer,
                    replayed.direction,
                    tuple(norms),
                    "replay",
                    radius,
                    singular,
                )
            )
        return profiles

    def _cell_loops(self, entries: Sequence[LayerEntry]) -> list[TimeProfile]:
        """Modules that ran on their own output: their calls are time steps."""
        calls: dict[str, dict[int, list[float | None]]] = {}
        for entry in entries:
            if entry.facts.name in self.probe.loop_layers:
                by_call = calls.setdefault(entry.facts.name, {})
                by_call.setdefault(entry.call, []).append(self._gradient(entry))
        profiles = []
        for layer, by_call in calls.items():
            norms = tuple(_rms_of(by_call[call]) or 0.0 for call in sorted(by_call))
            module = self.context.modules.get(layer)
            radius, singular = None, None
            if module is not None and _spans_decades(norms):
                radius, singular = recurrent_spectrum(module)
            profiles.append(
                TimeProfile(layer, "forward", norms, "cell-loop", radius, singular)
            )
        return profiles

    # -- coverage and origin ------------------------------------------------------

    def _coverage(
        self, layers: Sequence[LayerRecord], parameters: Sequence[ParameterRecord]
    ) -> tuple[dict[str, Coverage], dict[str, str]]:
        seen = {r.layer: r for r in reversed(layers)}
        with_gradient = {r.layer for r in layers if r.grad_norm is not None}
        parameter_gradient = {p.layer for p in parameters if p.grad_norm is not None}
        coverage: dict[str, Coverage] = {}
        reasons: dict[str, str] = {}
        for name, facts in self.context.facts.items():
            if not facts.owns or not (facts.leaf or facts.weight or name in seen):
                continue
            if name in with_gradient:
                coverage[name] = Coverage.OBSERVED
            elif name in seen:
                coverage[name] = Coverage.NO_GRADIENT
                reasons[name] = "called, but no gradient came back to its output"
                if not facts.trainable:
                    reasons[name] = "frozen, and nothing below it needs a gradient"
            elif name in self.probe.no_grad_layers:
                coverage[name] = Coverage.NO_GRADIENT
                reasons[name] = "ran with gradients off inside the training forward"
            else:
                coverage[name] = Coverage.NOT_SEEN
                reasons[name] = _why_not_seen(facts, name in parameter_gradient)
        return coverage, reasons

    def _origin(self, layers: Sequence[LayerRecord]) -> NonFiniteOrigin | None:
        """Name where the first non-finite value of this probe appeared."""
        step = self.context.step
        for record in layers:
            if record.output_finite is False:
                if record.input_finite:
                    return NonFiniteOrigin(
                        step,
                        record.layer,
                        "forward",
                        "its inputs were finite, its output was not",
                    )
                return NonFiniteOrigin(
                    step,
                    record.layer,
                    "input",
                    "its input was already not finite: the model's input, or an "
                    "operation between modules just before this layer",
                )
        for record in sorted(layers, key=lambda r: -r.order):
            if record.grad_finite is False:
                return NonFiniteOrigin(
                    step,
                    record.layer,
                    "backward",
                    "the forward pass was finite; the gradient of its output was the "
                    "first that was not",
                )
        return None


def _why_not_seen(facts: ModuleFacts, has_parameter_gradient: bool) -> str:
    if facts.compiled:
        return "inside a compiled region; its parameters are read at the step"
    if facts.internal:
        return "internal to the module around it, which is observed"
    if has_parameter_gradient:
        return "its parameters have gradients, but the module itself was not called"
    return "never called in a training forward"


def _rms_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) == 1:
        return known[0]
    largest = max(abs(value) for value in known)
    if largest == 0.0 or not math.isfinite(largest):
        return largest if largest == 0.0 else math.nan
    return largest * math.sqrt(sum((v / largest) ** 2 for v in known) / len(known))


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _equal_rows(difference: float | None, norm: float | None) -> bool | None:
    if difference is None or norm is None:
        return None
    return difference == 0.0 and norm > 0.0


def _spans_decades(norms: Sequence[float], decades: float = 2.0) -> bool:
    positive = [n for n in norms if n > 0 and math.isfinite(n)]
    return bool(positive) and math.log10(max(positive) / min(positive)) >= decades


def parameter_names(parameters: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the trainable parameters, in order."""
    return [name for name, value in parameters.items() if value.requires_grad]
