"""What a set-up of the fault bench is: a network, its training, its sickness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

Batch = tuple[Tensor, ...]
LossFn = Callable[[nn.Module, Batch], Tensor]

# Kinds are names of `gradwatch.Health`, as strings: labels are made without gradwatch.
HEALTHY = "HEALTHY"
VANISHING = "VANISHING"
EXPLODING = "EXPLODING"
DEAD = "DEAD"
SATURATED = "SATURATED"
NON_FINITE = "NON_FINITE"
UNSTABLE = "UNSTABLE"
STALLED = "STALLED"
NO_GRADIENT = "NO_GRADIENT"
KINDS = frozenset(
    {
        HEALTHY,
        VANISHING,
        EXPLODING,
        DEAD,
        SATURATED,
        NON_FINITE,
        UNSTABLE,
        STALLED,
        NO_GRADIENT,
    }
)

# Which kinds count as the right one, fixed before gradwatch is run on any set-up.

#: A gradient that shrinks, through layers or through time, and nothing else.
VANISHES = frozenset({VANISHING})
#: chi < 1 shrinks the gradient and pulls all samples to one point: the ordered phase of
#: mean-field theory (Schoenholz 2017) is both, and either name is right.
COLLAPSES = frozenset({VANISHING, STALLED})
#: A gradient or a signal that grows, with what it grows into.
EXPLODES = frozenset({EXPLODING, NON_FINITE})
#: tanh with a gain of 4 and more: chi > 1, and most outputs beyond .99 as well.
CHAOS = frozenset({EXPLODING, SATURATED})
#: Units whose input is negative for every sample.
DIES = frozenset({DEAD})
#: Logistic or tanh outputs at their limits; the derivative there is about 0, so that
#: the gradient through several such layers vanishes too.
SATURATES = frozenset({SATURATED, VANISHING})
#: No gradient arrives, or what arrives changes no weight.
CUT = frozenset({NO_GRADIENT, STALLED})
#: NaN or Inf by construction.
BREAKS = frozenset({NON_FINITE})
#: Steps too large: the updates, the jumps of the loss, the weights that grow, and where
#: they end in overflow, the NaN.
TOO_FAST = frozenset({UNSTABLE, EXPLODING, NON_FINITE})
#: The same with ReLU, where the usual end is dead units (Maas 2013, Lu 2019).
TOO_FAST_RELU = TOO_FAST | {DEAD}
#: The same with tanh or logistic units, where the usual end is saturation.
TOO_FAST_TANH = TOO_FAST | {SATURATED}
#: Steps too small.
TOO_SLOW = frozenset({STALLED})
#: All weights equal: units never differ, the error is projected to 0 at the head. All
#: zero: ReLU units never active besides.
SYMMETRIC = frozenset({STALLED, NO_GRADIENT, VANISHING, DEAD})
#: Nothing to find.
NONE: frozenset[str] = frozenset()

#: Rows of facts B2's table "Where false positives arise".
HARD_NEGATIVES = (
    "zero-init head",
    "zero-init residual branch",
    "scaled loss",
    "frozen prefix",
    "unused head or untouched experts",
    "sparse embedding",
    "converged net",
    "funnel",
    "long RNN",
    "unnormalised BN stream",
    "biases and norm gains",
    "separate q/k/v or encoder-decoder",
    "LayerScale or ReZero",
    "mean pool before the head",
    "norm-free U-Net",
    "sequence ends and cells",
    "Adam rescue",
    "warm-up",
    "tied or reused modules",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run, ready to start.

    Attributes:
        model: The network.
        optimizers: All optimizers; each steps once a batch.
        batches: Batch of a step.
        loss_fn: Loss that is differentiated.
        unit: What the loss is multiplied with on purpose; progress leaves it out.
        clip: Largest norm for `clip_grad_norm_`, if gradients are clipped.
        after_step: Called with the step after it, such as a scheduler.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    batches: Callable[[int], Batch]
    loss_fn: LossFn
    unit: float = 1.0
    clip: float | None = None
    after_step: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True)
class SetUp:
    """A named way to train a network, and what theory says of it.

    Attributes:
        name: Unique name; starts with the family.
        family: Family of architectures.
        task: Name of the task in `tasks.CHANCE`; progress is relative to it.
        intended: What theory says: a name of `gradwatch.Health`.
        accepted: Kinds that count as the right one; empty for healthy set-ups.
        build: Seed to run.
        steps: Optimizer steps.
        hard_negative: Row of `HARD_NEGATIVES` that this set-up stands for.
    """

    name: str
    family: str
    task: str
    intended: str
    accepted: frozenset[str]
    build: Callable[[int], Run]
    steps: int = 160
    hard_negative: str | None = None

    def __post_init__(self) -> None:
        if not self.name.startswith(self.family):
            raise ValueError(f"`name` must start with the family, but {self.name=}.")
        if self.intended not in KINDS or not self.accepted <= KINDS:
            raise ValueError(f"`{self.name}` names an unknown kind.")
        if (self.intended == HEALTHY) != (not self.accepted):
            raise ValueError(f"`{self.name}`: healthy set-ups accept no kind.")
        if self.hard_negative not in (None, *HARD_NEGATIVES):
            raise ValueError(f"`{self.name}`: unknown row {self.hard_negative!r}.")
