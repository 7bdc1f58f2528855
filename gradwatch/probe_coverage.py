"""What a probe saw of each layer, and where a non-finite value began."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gradwatch.layers import ModuleFacts
from gradwatch.records import Coverage, LayerRecord, NonFiniteOrigin, ParameterRecord


def coverage_of(
    facts_by_name: Mapping[str, ModuleFacts],
    without_gradient: Collection[str],
    layers: Sequence[LayerRecord],
    parameters: Sequence[ParameterRecord],
) -> tuple[dict[str, Coverage], dict[str, str]]:
    """Return what of each layer with parameters was seen, and why not.

    Args:
        facts_by_name: Facts of all watched modules by name.
        without_gradient: Layers that ran with gradients off.
        layers: Records of the calls that were seen.
        parameters: Records of the parameters.

    Returns:
        Coverage by layer, and the reasons where it is not OBSERVED.
    """
    seen = {r.layer: r for r in reversed(layers)}
    with_gradient = {r.layer for r in layers if r.grad_norm is not None}
    parameter_gradient = {p.layer for p in parameters if p.grad_norm is not None}
    coverage: dict[str, Coverage] = {}
    reasons: dict[str, str] = {}
    for name, facts in facts_by_name.items():
        if not facts.owns or not (facts.leaf or facts.weight or name in seen):
            continue
        if name in with_gradient:
            coverage[name] = Coverage.OBSERVED
        elif name in seen:
            coverage[name] = Coverage.NO_GRADIENT
            reasons[name] = "called, but no gradient came back to its output"
            if not facts.trainable:
                reasons[name] = "frozen, and nothing below it needs a gradient"
        elif name in without_gradient:
            coverage[name] = Coverage.NO_GRADIENT
            reasons[name] = "ran with gradients off inside the training forward"
        else:
            coverage[name] = Coverage.NOT_SEEN
            reasons[name] = _why_not_seen(facts, name in parameter_gradient)
    return coverage, reasons


def origin_of(step: int, layers: Sequence[LayerRecord]) -> NonFiniteOrigin | None:
    """Name where the first non-finite value of this probe appeared."""
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
