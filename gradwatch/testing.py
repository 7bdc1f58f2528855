"""Hand-made histories, for tests of rules and detectors without a model.

Everything has a healthy default, so that a test states only what it is about:

    >>> from gradwatch.testing import make_chain, make_history, make_step
    >>> history = make_history(make_step(0, chains=[make_chain(decades=3.0)]))
    >>> round(history.latest.chains[0].decades(), 6)
    3.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gradwatch.history import History
from gradwatch.records import (
    ActivationRecord,
    ChainRecord,
    Coverage,
    LayerRecord,
    ParameterRecord,
    PointRecord,
    PulseRecord,
    StepRecord,
    TimeProfile,
)
from gradwatch.structure import LayerInfo, Role, Structure

__all__ = [
    "layer_names",
    "make_activation",
    "make_chain",
    "make_history",
    "make_layer",
    "make_parameter",
    "make_pulses",
    "make_step",
    "make_structure",
    "make_time_profile",
    "scaled",
]


def layer_names(count: int, prefix: str = "layers") -> list[str]:
    """Return ``layers.0``, ``layers.1``, ...

    Args:
        count: Number of names.
        prefix: Part before the dot.

    Returns:
        The names.
    """
    return [f"{prefix}.{i}" for i in range(count)]


def make_chain(
    *,
    decades: float = 0.0,
    points: int = 6,
    norms: Sequence[float | None] | None = None,
    width: int | None = 64,
    prefix: str = "layers",
    main: bool = True,
    structure_known: bool = True,
) -> ChainRecord:
    """Return a trunk whose gradient changes evenly from its top to its source.

    Args:
        decades: D; positive when the gradient shrinks towards the source.
        points: Number of points.
        norms: Gradient of each point, source first, instead of `decades`.
        width: Units of every point.
        prefix: Part of the layer names before the dot.
        main: Whether it carries the output.
        structure_known: Whether the graph could be read.

    Returns:
        The chain.
    """
    if norms is None:
        slope = decades / (points - 1)
        norms = [10 ** (-slope * (points - 1 - i)) for i in range(points)]
    names = layer_names(len(norms), prefix)
    return ChainRecord(
        source=names[0],
        points=tuple(
            PointRecord(name, name, norm, width)
            for name, norm in zip(names, norms, strict=True)
        ),
        main=main,
        structure_known=structure_known,
    )


def make_layer(layer: str, order: int = 0, **fields: Any) -> LayerRecord:
    """Return a healthy layer call; `fields` replace its values.

    Args:
        layer: Name.
        order: Place in forward order.
        fields: Fields of `LayerRecord`.

    Returns:
        The record.
    """
    healthy: dict[str, Any] = {
        "call": 0,
        "grad_norm": 1.0,
        "output_rms": 1.0,
        "input_finite": True,
        "output_finite": True,
        "grad_finite": True,
        "sample_signal": 0.7,
    }
    return LayerRecord(layer=layer, order=order, **(healthy | fields))


def make_activation(
    layer: str, activation: str = "relu", **fields: Any
) -> ActivationRecord:
    """Return a hidden activation after a layer, healthy unless `fields` say otherwise.

    Args:
        layer: Weight layer that it follows.
        activation: Its name.
        fields: Fields of `ActivationRecord`.

    Returns:
        The record.
    """
    healthy: dict[str, Any] = {"num_units": 64, "window_probes": 3}
    if activation == "relu":
        healthy |= {"dead_units": 0, "zero_share": 0.5}
    else:
        healthy |= {"saturated_share": 0.05}
    return ActivationRecord(layer=layer, activation=activation, **(healthy | fields))


def make_parameter(layer: str, **fields: Any) -> ParameterRecord:
    """Return the weight of a layer, healthy unless `fields` say otherwise.

    Args:
        layer: Module that owns it.
        fields: Fields of `ParameterRecord`.

    Returns:
        The record.
    """
    healthy: dict[str, Any] = {
        "name": f"{layer}.weight",
        "ndim": 2,
        "numel": 4096,
        "grad_norm": 0.1,
        "weight_rms": 0.1,
        "weight_finite": True,
        "update_ratio": 1e-3,
        "in_optimizer": True,
        "zero_share": 0.0,
        "zero_weight": False,
    }
    return ParameterRecord(layer=layer, **(healthy | fields))


def make_time_profile(
    norms: Sequence[float] | None = None,
    *,
    decades: float = 0.0,
    steps: int = 40,
    layer: str = "rnn",
    direction: str = "forward",
    how: str = "input",
) -> TimeProfile:
    """Return the gradient of a recurrent layer by time step.

    Args:
        norms: Norms, first time step processed first, instead of `decades`.
        decades: What is lost from the last step to the first; negative for a gain.
        steps: Time steps.
        layer: Recurrent layer.
        direction: `forward` or `reverse`.
        how: Where the numbers come from.

    Returns:
        The profile.
    """
    if norms is None:
        slope = decades / (steps - 1)
        norms = [10 ** (-slope * (steps - 1 - t)) for t in range(steps)]
    return TimeProfile(layer, direction, tuple(norms), how)


def make_step(
    step: int = 0,
    *,
    names: Sequence[str] | None = None,
    chains: Iterable[ChainRecord] | None = None,
    layers: Iterable[LayerRecord] | None = None,
    activations: Iterable[ActivationRecord] = (),
    parameters: Iterable[ParameterRecord] | None = None,
    time_profiles: Iterable[TimeProfile] = (),
    coverage: Mapping[str, Coverage] | None = None,
    **fields: Any,
) -> StepRecord:
    """Return a probe of a healthy network of 6 layers and a head.

    Args:
        step: Optimizer step.
        names: Weight layers in forward order, head last.
        chains: Trunks; one healthy trunk over all layers but the head by default.
        layers: Layer calls; healthy ones by default.
        activations: Activations.
        parameters: Parameters; a healthy weight for each layer by default.
        time_profiles: Recurrent layers.
        coverage: Coverage by layer; all observed by default.
        fields: Other fields of `StepRecord`.

    Returns:
        The probe.
    """
    names = [*layer_names(6), "head"] if names is None else list(names)
    if chains is None:
        chains = [make_chain(points=len(names) - 1)] if len(names) > 3 else []
    if layers is None:
        layers = [make_layer(name, order) for order, name in enumerate(names)]
    if parameters is None:
        parameters = [make_parameter(name) for name in names]
    if coverage is None:
        coverage = dict.fromkeys(names, Coverage.OBSERVED)
    return StepRecord(
        step=step,
        layers=tuple(layers),
        activations=tuple(activations),
        parameters=tuple(parameters),
        chains=tuple(chains),
        time_profiles=tuple(time_profiles),
        coverage=tuple(coverage.items()),
        **fields,
    )


def make_structure(
    names: Sequence[str] | None = None,
    *,
    roles: Mapping[str, Role] | None = None,
    known: bool = True,
    **fields: Any,
) -> Structure:
    """Return the structure that `make_step` is a probe of: a chain with a head.

    Args:
        names: Weight layers in forward order, head last.
        roles: Roles that differ from TRUNK (and HEAD for the last).
        known: Whether the graph could be read.
        fields: Other fields of `Structure`.

    Returns:
        The structure.
    """
    names = [*layer_names(6), "head"] if names is None else list(names)
    given = roles or {}
    infos: dict[str, LayerInfo] = {}
    for order, name in enumerate(names):
        usual = Role.HEAD if order == len(names) - 1 else Role.TRUNK
        role = given.get(name, usual)
        unused = role is Role.UNUSED
        infos[name] = LayerInfo(
            name,
            "Linear",
            role,
            order=-1 if unused else order,
            is_weight=role not in {Role.EMBEDDING, Role.NORM},
            num_parameters=4096,
            fan_in=64,
            fan_out=64,
        )
    defaults: dict[str, Any] = {
        "last_hidden": names[-2] if len(names) > 1 else None,
        "heads": (names[-1],),
        "batch_size": 32,
        "reason": "",
    }
    return Structure(layers=MappingProxyType(infos), known=known, **(defaults | fields))


def make_pulses(
    grad_norms: Iterable[float | None] | None = None,
    *,
    losses: Sequence[float | None] | None = None,
    start: int = 0,
    **fields: Any,
) -> list[PulseRecord]:
    """Return one pulse a step.

    Args:
        grad_norms: Global gradient norms; 1 for every loss by default.
        losses: Losses, as many; not known by default.
        start: First optimizer step.
        fields: Fields of `PulseRecord` that all of them share.

    Returns:
        The pulses.
    """
    if grad_norms is None:
        grad_norms = [1.0] * len(losses or ())
    norms = list(grad_norms)
    known = list(losses) if losses is not None else [None] * len(norms)
    return [
        PulseRecord(step=start + i, grad_norm=norm, loss=loss, **fields)
        for i, (norm, loss) in enumerate(zip(norms, known, strict=True))
    ]


def make_history(*probes: StepRecord, pulses: Iterable[PulseRecord] = ()) -> History:
    """Return a history of probes and pulses, put in by step.

    Args:
        probes: Probes.
        pulses: Pulses; at the same step a pulse comes before the probe.

    Returns:
        The history.
    """
    history = History()
    waiting = sorted(pulses, key=lambda pulse: pulse.step)
    for probe in sorted(probes, key=lambda record: record.step):
        while waiting and waiting[0].step <= probe.step:
            history.add_pulse(waiting.pop(0))
        history.add_probe(probe)
    for pulse in waiting:
        history.add_pulse(pulse)
    return history


def scaled(history: History, factor: float) -> History:
    """Return a history as if the loss had been multiplied by a constant.

    Gradients and losses are multiplied; weights, updates and the forward signal stay,
    as they would for an optimizer that does not mind the scale.

    Args:
        history: A history.
        factor: The constant, positive.

    Returns:
        A new history.
    """

    def times(value: float | None) -> float | None:
        return value if value is None or math.isnan(value) else value * factor

    probes = [
        replace(
            record,
            loss=times(record.loss),
            layers=tuple(
                replace(r, grad_norm=times(r.grad_norm)) for r in record.layers
            ),
            parameters=tuple(
                replace(p, grad_norm=times(p.grad_norm)) for p in record.parameters
            ),
            chains=tuple(
                replace(
                    chain,
                    points=tuple(
                        replace(point, grad_norm=times(point.grad_norm))
                        for point in chain.points
                    ),
                )
                for chain in record.chains
            ),
            time_profiles=tuple(
                replace(profile, norms=tuple(norm * factor for norm in profile.norms))
                for profile in record.time_profiles
            ),
        )
        for record in history.probes
    ]
    pulses = [
        replace(
            pulse,
            grad_norm=times(pulse.grad_norm),
            step_grad_norm=times(pulse.step_grad_norm),
            loss=times(pulse.loss),
        )
        for pulse in history.pulses
    ]
    return make_history(*probes, pulses=pulses)
