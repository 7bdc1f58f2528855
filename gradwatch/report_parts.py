"""The parts of a report: what it says of layers, coverage, cost and the run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
)

from gradwatch._version import __version__
from gradwatch.findings import Health
from gradwatch.recommendations import Recommendation
from gradwatch.records import Coverage
from gradwatch.structure import Role

#: How a float that JSON has no number for is written; an option of such a name is read
#: back as the float.
_NON_FINITE = {"NaN", "Infinity", "-Infinity"}


def _write_recommendation(
    recommendation: Recommendation, write: SerializerFunctionWrapHandler
) -> Any:
    """Make the options a dict: a read-only mapping has no JSON."""
    return write(replace(recommendation, options=dict(recommendation.options)))


def _read_recommendation(value: Any) -> Any:
    """Tell a float that was written as a word from a word."""
    if not isinstance(value, Mapping):
        return value
    options = value.get("options", {})
    if not isinstance(options, Mapping):
        return value
    read = {
        name: float(item) if isinstance(item, str) and item in _NON_FINITE else item
        for name, item in options.items()
    }
    return {**value, "options": read}


#: A recommendation as a report holds it.
RecommendationField = Annotated[
    Recommendation,
    BeforeValidator(_read_recommendation),
    WrapSerializer(_write_recommendation),
]


class ReportPart(BaseModel):
    """What all parts of a report share: frozen, and NaN survives the JSON."""

    # The validator is built at the first use, not when gradwatch is imported.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings", defer_build=True)


class LayerSummary(ReportPart):
    """One layer at the probe that the report shows. None means "not measured".

    Attributes:
        name: Name from `named_modules()`.
        kind: Class name.
        role: Part that it plays.
        health: Its verdict.
        coverage: What could be seen of it.
        reason: Why it is not observed; empty if it is.
        order: Position in forward execution order; None if it was not called.
        calls: Calls in one forward that were measured.
        grad_norm: Frobenius norm of the activation gradient, root mean square over
            calls, loss scale divided out.
        grad_ratio: Decades of `grad_norm` above the top of the trunk; negative where
            the gradient is smaller, -inf where it is exactly zero.
        output_rms: Root mean square of the output.
        update_ratio: Applied update over weight, of its largest parameter.
        dead_share: Share of units never active over the window.
        saturated_share: Share of outputs on the flat part of the activation.
        activation: Activation that follows.
        num_parameters: Entries of its own parameters.
    """

    name: str
    kind: str = ""
    role: Role = Role.OTHER
    health: Health = Health.UNKNOWN
    coverage: Coverage = Coverage.NOT_SEEN
    reason: str = ""
    order: int | None = None
    calls: int = 0
    grad_norm: float | None = None
    grad_ratio: float | None = None
    output_rms: float | None = None
    update_ratio: float | None = None
    dead_share: float | None = None
    saturated_share: float | None = None
    activation: str | None = None
    num_parameters: int = 0


class ChainPoint(ReportPart):
    """One point of a trunk."""

    label: str
    layer: str
    grad_norm: float | None
    width: int | None = None


class ChainSummary(ReportPart):
    """The trunk of one stream, source first.

    Attributes:
        source: Layer at the input end.
        points: Points in forward order.
        decades: D, decades lost from top to source; None if it cannot be said.
        main: Whether it carries the network's output.
        structure_known: False if module order stands in for an opaque graph.
    """

    source: str
    points: tuple[ChainPoint, ...]
    decades: float | None
    main: bool = True
    structure_known: bool = True


class TimeSummary(ReportPart):
    """The gradient of one recurrent layer by time step.

    Attributes:
        layer: Recurrent layer, or the cell called in a loop.
        direction: `forward` or `reverse`.
        norms: Norm at each time step, in the order in which the recurrence runs.
        how: Where the numbers come from: `input`, `replay` or `cell-loop`.
        decades_lost: Decades from the peak to the far end of its reach.
        decades_gained: Decades gained from the last time step that was read.
        horizon: Time steps until `horizon_share` is left, read from the profile where
            it falls that far, else its mean slope carried on; None if it does not fade.
        horizon_share: Share left at the horizon.
        spectral_radius: Largest absolute eigenvalue of the recurrent weight.
        singular_value: Largest singular value of the recurrent weight.
    """

    layer: str
    direction: str
    norms: tuple[float, ...]
    how: str
    decades_lost: float | None = None
    decades_gained: float | None = None
    horizon: float | None = None
    horizon_share: float = 0.01
    spectral_radius: float | None = None
    singular_value: float | None = None


class CoverageReason(ReportPart):
    """Layers that were not observed for one reason."""

    coverage: Coverage
    reason: str
    layers: tuple[str, ...]


class CoverageSummary(ReportPart):
    """What could be seen.

    Attributes:
        observed: Layers observed.
        no_gradient: Layers without a gradient.
        not_seen: Layers whose hook never fired.
        num_weight_layers: Trainable weight layers.
        weight_layers_observed: How many of those were observed.
        reasons: Layers not observed, by reason.
    """

    observed: int = 0
    no_gradient: int = 0
    not_seen: int = 0
    num_weight_layers: int = 0
    weight_layers_observed: int = 0
    reasons: tuple[CoverageReason, ...] = ()

    @property
    def share(self) -> float | None:
        """Share of the trainable weight layers observed; None without any."""
        if not self.num_weight_layers:
            return None
        return self.weight_layers_observed / self.num_weight_layers


class Overhead(ReportPart):
    """What gradwatch cost.

    Attributes:
        share: gradwatch's own time over training time; None if too short to say.
        budget: Share that it may take.
        seconds: gradwatch's own time.
        probes: Probes taken.
        pulses: Pulses taken.
        rhythm: When it looks, in words.
        transfers_per_probe: Device-to-host transfers of one probe.
    """

    share: float | None = None
    budget: float = 0.01
    seconds: float = 0.0
    probes: int = 0
    pulses: int = 0
    rhythm: str = ""
    transfers_per_probe: int = 1


class CheckedRule(ReportPart):
    """A rule that was judged, and the steps of the probes that it was judged on."""

    code: str
    name: str
    steps: tuple[int, int]


class UncheckedRule(ReportPart):
    """A rule that could not be judged, and why."""

    code: str
    name: str
    reason: str


class RunFacts(ReportPart):
    """What was watched. Fields that the history knows are filled by `build_report`.

    Attributes:
        gradwatch: Version of gradwatch.
        python: Version of Python.
        torch: Version of PyTorch.
        name: What the user calls the model; its class name unless one was given.
        model: Class name of the model.
        num_parameters: Entries of all parameters.
        optimizers: Class names of the optimizers that stepped.
        device: Device of the parameters.
        rank: Rank whose statistics these are; None if global or a single process.
        ranks: Number of ranks that global statistics stand for; 1 in a single process.
        steps: Optimizer steps watched (from the history).
        skipped_steps: Steps that the gradient scaler skipped (from the history).
        probe_steps: Steps of the probes in memory (from the history).
        loss_known: Whether the loss was known at any step (from the history).
        first_loss: First known loss (from the history).
        last_loss: Newest known loss, NaN where it is known to be none since (from the
            history).
        lr: Newest learning rate (from the history).
        loss_scale: Newest loss scale; None if unknown (from the history).
        clipped_share: Share of the pulses in memory that were clipped; None if clipping
            was not measured (from the history).
        failure: The error of gradwatch's own that ended the watch; empty without one.
        notes: Anything else that a reader must know, one sentence each.
    """

    gradwatch: str = __version__
    python: str = Field(default_factory=platform.python_version)
    torch: str = Field(default_factory=partial(metadata.version, "torch"))
    name: str = ""
    model: str = ""
    num_parameters: int = 0
    optimizers: tuple[str, ...] = ()
    device: str = ""
    rank: int | None = None
    ranks: int = 1
    steps: int = 0
    skipped_steps: int = 0
    probe_steps: tuple[int, ...] = ()
    loss_known: bool = False
    first_loss: float | None = None
    last_loss: float | None = None
    lr: float | None = None
    loss_scale: float | None = 1.0
    clipped_share: float | None = None
    failure: str = ""
    notes: tuple[str, ...] = ()
