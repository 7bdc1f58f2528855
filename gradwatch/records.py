"""What was measured, as plain numbers: no tensor, module or callable in here.

A *pulse* is one cheap look at the global gradient norm of an optimizer step; a *probe*
is a full look at every layer. Both are frozen so that a history can be saved, replayed
and written by hand in a test. `None` always means "not measured", never zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Coverage(str, Enum):
    """What could be seen of a layer."""

    OBSERVED = "observed"
    NO_GRADIENT = "no-gradient"
    """Frozen, unused in the loss, or run without gradients."""
    NOT_SEEN = "not-seen"
    """Its hook never fired: compiled, scripted, internal to a module, uncalled."""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One call of one leaf (or parameter-owning) module during a probe.

    Attributes:
        layer: Qualified name from `named_modules()`.
        call: Index of the call within one root forward, from 0.
        order: Position in forward execution order, from 0.
        grad_norm: Frobenius norm of the whole `grad_output`, loss scale divided out.
        output_rms: Root mean square of the output.
        input_finite: Whether every floating input was finite.
        output_finite: Whether the output was finite.
        grad_finite: Whether `grad_output` was finite.
        sample_signal: Standard deviation over samples divided by the RMS; 0 when the
            output does not depend on the sample.
    """

    layer: str
    call: int
    order: int
    grad_norm: float | None = None
    output_rms: float | None = None
    input_finite: bool | None = None
    output_finite: bool | None = None
    grad_finite: bool | None = None
    sample_signal: float | None = None


@dataclass(frozen=True, slots=True)
class ActivationRecord:
    """One activation function, a module or a functional call, during a probe.

    Attributes:
        layer: The weight layer that it follows, or its own name if there is none.
        activation: Lower-case name: `relu`, `tanh`, `sigmoid`, ...
        call: Index of the call within one root forward.
        functional: Whether it was a function, not a module.
        hidden: Whether a weight layer reads it; False for output activations.
        gate: Whether its output only scales another tensor (SE, GLU, gates).
        zero_share: Share of outputs that are exactly zero.
        saturated_share: Share of outputs on the flat part of tanh or sigmoid.
        num_units: Number of units (channels or features).
        dead_units: Units never active at this probe nor at the ones before it, over
            the window of `Settings.dead_window` probes.
        window_probes: Number of probes `dead_units` stands for.
    """

    layer: str
    activation: str
    call: int = 0
    functional: bool = False
    hidden: bool = True
    gate: bool = False
    zero_share: float | None = None
    saturated_share: float | None = None
    num_units: int | None = None
    dead_units: int | None = None
    window_probes: int = 1


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One parameter at a probe.

    Attributes:
        name: Name from `named_parameters()`.
        layer: Qualified name of the module that owns it.
        ndim: Number of dimensions (biases and gains have 1).
        numel: Number of entries.
        trainable: `requires_grad`.
        grad_norm: L2 norm of the gradient as the optimizer got it (after clipping),
            loss scale divided out; None without a gradient.
        zero_steps: Optimizer steps in a row with an exactly zero gradient.
        weight_rms: Root mean square of the entries.
        weight_finite: Whether every sampled entry is finite.
        update_ratio: Norm of the applied update over norm of the weight; None if the
            weight was all zero at attach or not measured.
        in_optimizer: Whether an optimizer seen so far owns it; None while unknown.
        zero_share: Share of exact zeros in the gradient; None if not measured.
        equal_rows: Whether the first, a middle and the last row of a weight with two
            or more dimensions are equal and not zero; None if it has fewer rows.
        zero_weight: Whether all sampled entries are exactly zero before the step.
    """

    name: str
    layer: str
    ndim: int
    numel: int
    trainable: bool = True
    grad_norm: float | None = None
    zero_steps: int = 0
    weight_rms: float | None = None
    weight_finite: bool | None = None
    update_ratio: float | None = None
    in_optimizer: bool | None = None
    zero_share: float | None = None
    zero_weight: bool | None = None
    equal_rows: bool | None = None


@dataclass(frozen=True, slots=True)
class PointRecord:
    """One point of a trunk: every gradient path to the source passes through it.

    Attributes:
        label: What a reader calls it: a layer name, `block.3 (sum)` for a join, or
            `fc1 (elementwise)` for a function of one tensor, such as softsign.
        layer: Name of the layer, or of the last weight layer of the joined branch.
        grad_norm: Frobenius norm of the gradient at the point, scale divided out.
        width: Number of units there, for the finite-width allowance.
    """

    label: str
    layer: str
    grad_norm: float | None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """The trunk of one stream, from its source (input side) to its top (output side).

    Attributes:
        source: Layer at the input end.
        points: Points in forward order, source first, top (below the head) last.
        main: Whether this is the stream that carries the network's output.
        structure_known: False if module order stands in for an opaque graph.
    """

    source: str
    points: tuple[PointRecord, ...]
    main: bool = True
    structure_known: bool = True

    def positive_points(self) -> tuple[PointRecord, ...]:
        """Return the points with a finite, non-zero gradient."""
        return tuple(
            point
            for point in self.points
            if point.grad_norm is not None
            and point.grad_norm > 0.0
            and math.isfinite(point.grad_norm)
        )

    def decades(self) -> float | None:
        """Return D = log10(top / source): positive when the gradient shrinks.

        Exact zeros and missing values are dropped. None with fewer than 3 points.
        """
        points = self.positive_points()
        if len(points) < 3:
            return None
        top, source = points[-1].grad_norm, points[0].grad_norm
        assert top is not None
        assert source is not None
        return math.log10(top) - math.log10(source)


@dataclass(frozen=True, slots=True)
class TimeProfile:
    """Gradient norm by time step of one recurrent layer.

    Attributes:
        layer: Recurrent layer, or the cell module called in a loop.
        direction: `forward` or `reverse`.
        norms: Norm of the gradient at each time step, in the order in which the
            recurrence runs (for `reverse`: the last time step first).
        how: `input`, `replay` or `cell-loop`: where the numbers come from.
        spectral_radius: Largest absolute eigenvalue of the recurrent weight.
        singular_value: Largest singular value of the recurrent weight.
    """

    layer: str
    direction: str
    norms: tuple[float, ...]
    how: str
    spectral_radius: float | None = None
    singular_value: float | None = None


@dataclass(frozen=True, slots=True)
class PulseRecord:
    """The global gradient of one optimizer step.

    Attributes:
        step: Optimizer step from 0.
        grad_norm: Global L2 norm at the end of backward, before clipping, loss scale
            divided out; None if not read.
        step_grad_norm: The same as the optimizer got it, after clipping.
        clip_factor: `step_grad_norm / grad_norm`, 1 when nothing was clipped.
        finite: Whether every gradient entry was finite.
        loss: Loss of the step where it is known.
        skipped: Whether the gradient scaler skipped the step.
        loss_scale: Loss scale in use; 1 without a scaler, None if unknown.
        lr: Largest learning rate of the optimizer's groups.
    """

    step: int
    grad_norm: float | None = None
    step_grad_norm: float | None = None
    clip_factor: float | None = None
    finite: bool = True
    loss: float | None = None
    skipped: bool = False
    loss_scale: float | None = 1.0
    lr: float | None = None


@dataclass(frozen=True, slots=True)
class NonFiniteOrigin:
    """Where a NaN or Inf first appeared.

    Attributes:
        step: Optimizer step of the probe or replay that located it.
        layer: Module, or None if it was only seen in the loss or a parameter.
        where: `forward`, `backward`, `input`, `parameter`, `loss` or `unknown`.
        detail: The range of the inputs, or why the origin was not observed.
    """

    step: int
    layer: str | None
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Everything measured at one probe.

    Attributes:
        step: Optimizer step from 0.
        layers: Weight and other leaf layers in execution order.
        activations: Activation functions, modules and functional ones.
        parameters: All parameters of the watched model.
        chains: Trunks, the main one first.
        time_profiles: Recurrent layers.
        loss: Loss of the step where it is known.
        loss_scale: Loss scale in use; None if unknown.
        clip_factor: Norm after clipping over norm before; None if not read.
        coverage: Coverage of each leaf layer, by name.
        coverage_reasons: Why a layer that is not OBSERVED is not, by name.
        non_finite: Origin of the first non-finite value of this step.
        zero_init_downstream: Whether a weight above the hidden layers is all zero, so
            that exact zeros below say nothing yet.
        no_grad_layers: Layers that ran with gradients off inside a training forward.
        local_rank: Rank whose statistics these are; None if global or single process.
        ranks: Number of ranks that global statistics stand for; 1 in a single process.
        lr: Largest learning rate of the optimizer's groups.
        float16: Whether a float16 tensor was seen among the layers' outputs and
            gradients; None if not looked at.
    """

    step: int
    layers: tuple[LayerRecord, ...] = ()
    activations: tuple[ActivationRecord, ...] = ()
    parameters: tuple[ParameterRecord, ...] = ()
    chains: tuple[ChainRecord, ...] = ()
    time_profiles: tuple[TimeProfile, ...] = ()
    loss: float | None = None
    loss_scale: float | None = 1.0
    clip_factor: float | None = None
    coverage: tuple[tuple[str, Coverage], ...] = ()
    coverage_reasons: tuple[tuple[str, str], ...] = ()
    non_finite: NonFiniteOrigin | None = None
    zero_init_downstream: bool = False
    no_grad_layers: tuple[str, ...] = ()
    local_rank: int | None = None
    lr: float | None = None
    float16: bool | None = None
    ranks: int = 1
