"""Every threshold and option that a user may set, with quantity, unit and source.

"facts B2" and the like name sections of the measurements behind the defaults; they are
summarised in `docs/how-it-works.md`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gradwatch.settings_file import Loadable

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Decades = Annotated[float, Field(gt=0.0, le=100.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Settings(Loadable):
    """Options of a watch. Frozen; unknown names are refused."""

    # The validator is built at the first use, not when gradwatch is imported.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, defer_build=True
    )

    # --- rhythm and cost (design section 3)
    budget: Share = Field(
        default=0.01,
        description="Share of training time it may take after `budget_after` steps.",
    )
    budget_after: Count = Field(
        default=50,
        description="Optimizer steps after which the budget rules the rhythm.",
    )
    every: Count | None = Field(
        default=None,
        description=(
            "Probe every so many steps, whatever the budget says; None lets the "
            "budget decide."
        ),
    )
    probe_steps: tuple[int, ...] = Field(
        default=(0, 1, 2, 5, 10, 20, 50),
        description="First optimizer steps that are probed.",
    )
    probe_every: Count = Field(
        default=100,
        description="Steps between later probes, stretched to keep the budget.",
    )
    burst_probes: int = Field(
        default=2,
        ge=0,
        description=(
            "Extra probes on the next steps after a rule fires for the first time "
            "or a pulse shows a spike or a non-finite value."
        ),
    )
    burst_gap: Count = Field(
        default=50,
        description="Fewest steps between two such bursts.",
    )
    pulse: bool = Field(
        default=True,
        description="Whether to read the global gradient norm at every step.",
    )

    # --- memory
    max_probes: Count = Field(
        default=64,
        description="Probes kept in memory.",
    )
    max_pulses: Count = Field(
        default=512,
        description="Pulses kept in memory.",
    )
    max_records: Count = Field(
        default=24_000,
        description=(
            "Records of layers, activations and parameters kept in memory, about 6 MB: "
            "beyond it fewer probes are kept, but eight."
        ),
    )
    max_calls: Count = Field(
        default=256,
        description="Calls of one module kept a probe, evenly spread.",
    )
    capture_limit: int = Field(
        default=10 * 2**20,
        ge=0,
        description=(
            "Bytes captured for trials: the first weights, inputs and cotangents. A "
            "trial from the first weights of a larger network needs more."
        ),
    )
    compiled_replay: Literal["auto", "on", "off"] = Field(
        default="auto",
        description=(
            "Read the inside of compiled regions at probes by an eager replay on a "
            "copy; `auto` where the copy takes less than 5 % of the free memory."
        ),
    )
    update_entries: Count = Field(
        default=4096,
        description="Entries of a tensor read to measure its applied update.",
    )

    # --- confirmation (facts B3: 2 of 3 probes gave no false alarm on 213 healthy runs)
    confirm_probes: Count = Field(
        default=2,
        description="Probes that must agree before a finding is confirmed.",
    )
    confirm_window: Count = Field(
        default=3,
        description="Consecutive probes among which they must agree.",
    )
    healthy_probes: Count = Field(
        default=2,
        description="Fewest probes before a network is called healthy.",
    )
    healthy_coverage: Share = Field(
        default=0.8,
        description=(
            "Share of trainable weight layers that must be observed before a "
            "network is called healthy."
        ),
    )

    # --- depth (facts B2, B2b, B3)
    vanishing_decades: Decades = Field(
        default=2.0,
        description="GW101: decades of activation gradient lost along the trunk.",
    )
    severe_decades: Decades = Field(
        default=4.0,
        description="GW101 and GW201: decades from which the finding is critical.",
    )
    exploding_decades: Decades = Field(
        default=2.5,
        description=(
            "GW201: decades of activation gradient gained towards the input (batch "
            "norm in a healthy ResNet gives up to 2.4, facts B2)."
        ),
    )
    exploding_note_decades: Decades = Field(
        default=2.0,
        description="GW201: decades gained from which a note is made.",
    )
    exploding_alone_decades: Decades = Field(
        default=4.0,
        description=(
            "GW201: decades gained that need no further consequence to be a warning "
            "(facts B2b)."
        ),
    )
    layer_ratio: Share = Field(
        default=0.01,
        description=(
            "GW101 and GW201 list a layer whose gradient is below this share of the "
            "top's (or above its inverse); it never fires by itself."
        ),
    )
    narrow_width: Count = Field(
        default=16,
        description=(
            "Widths below this widen the limit by the spread of finite width (Hanin "
            "& Nica 2018)."
        ),
    )
    starved_update_ratio: Share = Field(
        default=0.1,
        description=(
            "Consequence of vanishing: update ratio of the source part over that of "
            "the top part (facts B2b: 30 of 30 sick nets, 0 of 71 healthy with D >= "
            "2)."
        ),
    )
    weak_signal: Share = Field(
        default=0.05,
        description="Consequence of vanishing: smallest hidden sample signal (B2b).",
    )
    flat_loss_ratio: Share = Field(
        default=0.9,
        description=(
            "Consequence: newest loss over first loss above which the loss counts "
            "as flat."
        ),
    )

    flat_loss_steps: Count = Field(
        default=20,
        description=(
            "Consequence: steps the loss must be known over to count as flat (chosen: "
            "many networks that learn well have not begun to after ten steps)."
        ),
    )
    learning_loss_ratio: Share = Field(
        default=0.5,
        description=(
            "Newest loss over first loss at or below which the network is learning "
            "whatever its update ratios (facts B3, item 6)."
        ),
    )

    # --- time (facts B2, B3)
    vanishing_time_decades: Decades = Field(
        default=3.0,
        description="GW102: decades lost through time.",
    )
    exploding_time_decades: Decades = Field(
        default=3.0,
        description="GW202: decades gained through time.",
    )
    horizon_share: Share = Field(
        default=0.01,
        description="Share of the gradient left at the horizon that GW102 states.",
    )
    time_flat_loss_steps: Count = Field(
        default=50,
        description=(
            "GW102: steps the loss must be known over to count as flat (chosen: "
            "recurrent networks learn slowly at first)."
        ),
    )
    cell_loop_calls: int = Field(
        default=4,
        ge=2,
        description="Calls of a module on its own output that make a time profile.",
    )

    # --- units and activations (facts B3)
    dead_unit_share: Share = Field(
        default=0.9,
        description="GW103: share of a layer's units never active.",
    )
    dead_note_share: Share = Field(
        default=0.5,
        description="GW103: the same, for a note.",
    )
    dead_zero_grad_share: Share = Field(
        default=0.5,
        description=(
            "GW103: share of weight tensors with exactly zero gradients that makes "
            "it a warning."
        ),
    )
    dead_window: Count = Field(
        default=3,
        description="Probes over which a unit must stay inactive to count as dead.",
    )
    saturated_share: Share = Field(
        default=0.6,
        description="GW104: share of saturated outputs.",
    )
    tanh_saturation: Share = Field(
        default=0.99,
        description="|tanh| beyond which an output is saturated.",
    )
    sigmoid_saturation: Share = Field(
        default=0.01,
        description="Distance from 0 or 1 below which a sigmoid is saturated.",
    )
    min_sample_signal: Share = Field(
        default=0.02,
        description=(
            "GW105: standard deviation over samples divided by RMS at the last "
            "hidden layer."
        ),
    )

    # --- other gradient defects
    disconnected_steps: Count = Field(
        default=20,
        description="GW106: steps in a row with an exactly zero gradient.",
    )
    underflow_share: Share = Field(
        default=0.5,
        description="GW107: share of exactly zero gradient entries in 16-bit training.",
    )
    exploding_activation_decades: Decades = Field(
        default=2.0,
        description="GW203: growth of the forward RMS over depth.",
    )
    spike_ratio: Positive = Field(
        default=10.0,
        description=(
            "GW204: value over its running median (facts B3: 0 events in 15 of 16 "
            "healthy nets)."
        ),
    )
    spike_window: int = Field(
        default=50,
        ge=5,
        description="Pulses of the running median.",
    )
    spike_warning_events: Count = Field(
        default=3,
        description="GW204: spikes within `spike_warning_steps` that make a warning.",
    )
    spike_warning_steps: Count = Field(
        default=200,
        description="GW204: steps within which the spikes are counted.",
    )
    spike_floor: Share = Field(
        default=0.1,
        description=(
            "GW204: share of the early loss and gradient norm that a spike must reach "
            "(chosen: what is less is noise of a converged network)."
        ),
    )
    spike_loss_rise: float = Field(
        default=1.5,
        gt=1.0,
        description=(
            "GW204: median loss after a spike over the median before it that makes "
            "one spike a warning."
        ),
    )
    max_update_ratio: Positive = Field(
        default=0.1,
        description=(
            "GW301: median over layers of applied update over weight (facts B3: "
            "healthy 1e-4 to 3e-2)."
        ),
    )
    min_update_ratio: Positive = Field(
        default=1e-5,
        description="GW302: largest update ratio of a stalled network.",
    )
    clip_share: Share = Field(
        default=0.5,
        description="GW303: share of clipped steps.",
    )
    clip_ratio: float = Field(
        default=10.0,
        gt=1.0,
        description="GW303: norm before clipping over norm after.",
    )
    nan_origin: Literal["auto", "sync", "off"] = Field(
        default="auto",
        description=(
            "GW205: replay the step that turned non-finite to name the module. "
            "`auto` where the flag is on the host before the update (CPU); `sync` "
            "waits for it on every device; `off` never."
        ),
    )
