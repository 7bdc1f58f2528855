"""From a probe's tickets and the transferred numbers to a `StepRecord`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from torch import nn

from gradwatch.layers import ModuleFacts
from gradwatch.ledger import Pending
from gradwatch.probe import Probe
from gradwatch.probe_coverage import coverage_of, origin_of
from gradwatch.probe_depth import chain_records, fallback_chain
from gradwatch.probe_entries import (
    ActivationEntry,
    LayerEntry,
    ParameterEntry,
)
from gradwatch.probe_numbers import ProbeNumbers, mean_of, rms_of
from gradwatch.probe_time import loop_profiles, replay_profiles
from gradwatch.records import (
    ActivationRecord,
    LayerRecord,
    ParameterRecord,
    StepRecord,
)


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
        self.numbers = ProbeNumbers(probe, pending)
        self.scale = self.numbers.scale

    def build(self) -> StepRecord:
        entries = self._trained_entries()
        layers = self._layers(entries)
        parameters = [
            self._parameter(e) for e in self.probe.at_step.parameters.values()
        ]
        coverage, reasons = coverage_of(
            self.context.facts, self.probe.no_grad_layers, layers, parameters
        )
        loss = self.pending.get(self.probe.loss_ticket)
        if loss is None or (math.isnan(loss) and self.context.loss is not None):
            loss = self.context.loss
        elif math.isnan(loss) and not self.probe.loss_is_users:
            loss = None
        chains = chain_records(self.numbers) or fallback_chain(self.numbers, layers)
        return StepRecord(
            step=self.context.step,
            layers=tuple(layers),
            activations=tuple(self._activations()),
            parameters=tuple(parameters),
            chains=tuple(chains),
            time_profiles=(
                *replay_profiles(self.numbers, self.context.modules),
                *loop_profiles(self.numbers, self.context.modules, entries),
            ),
            loss=loss,
            loss_scale=self.scale,
            clip_factor=self.context.clip_factor,
            coverage=tuple(coverage.items()),
            coverage_reasons=tuple(reasons.items()),
            non_finite=origin_of(self.context.step, layers),
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
            norm = self.numbers.gradient(entry)
            if norm is not None:
                so_far = finite.get(entry.group, True)
                finite[entry.group] = so_far and math.isfinite(norm)
        groups = self.numbers.not_skipped(finite)
        return [e for e in entries if e.group in groups] if groups else entries

    def _layers(self, entries: Sequence[LayerEntry]) -> list[LayerRecord]:
        merged: dict[tuple[str, int], list[LayerEntry]] = {}
        for entry in entries:
            merged.setdefault((entry.facts.name, entry.call), []).append(entry)
        records = []
        for (layer, call), group in merged.items():
            grads = [self.numbers.gradient(entry) for entry in group]
            values = [self.pending.get(entry.rms) for entry in group]
            inputs = [self.pending.get(t) for entry in group for t in entry.input_rms]
            grad = rms_of(grads)
            value = rms_of(values)
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
                    sample_signal=mean_of(self.pending.get(e.signal) for e in group),
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
                    zero_share=mean_of(self.pending.get(e.zero) for e in group),
                    saturated_share=mean_of(
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
        return max(1, round(runs[names.index(name)]))

    def _zero_init(self, parameters: Iterable[ParameterRecord]) -> bool:
        weights = {entry.facts.name for entry in self.probe.layers if entry.weight}
        return any(
            p.zero_weight and p.ndim >= 1 and p.trainable and p.layer in weights
            for p in parameters
            if not p.name.endswith("bias")
        )


def _equal_rows(difference: float | None, norm: float | None) -> bool | None:
    if difference is None or norm is None:
        return None
    return difference == 0.0 and norm > 0.0
