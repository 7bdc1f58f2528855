"""What a remedy may say, what a treatment changed, what a trial measured. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import MappingProxyType

from gradwatch.anatomy import ActivationSite

#: Value of an option of a recommendation: plain, so that it can be saved and printed.
Option = str | float | int | bool


class Risk(str, Enum):
    """What a treatment may cost."""

    SAFE = "safe"
    """Nothing learned or shaped is lost."""
    REINITIALISES = "reinitialises"
    """Weights are drawn anew: what they had learned is lost."""
    RESHAPES = "reshapes"
    """Layers are added or exchanged: the network computes something else."""
    ADVICE = "advice"
    """The user must do it: no code of ours can."""


class Verdict(str, Enum):
    """What a trial says of a remedy."""

    HELPED = "helped"
    NO_CHANGE = "no change"
    HURT = "hurt"
    FAILED = "failed"
    """The treatment or the treated copy could not run; `reason` says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a treatment changed.

    Attributes:
        layer: Qualified name of the module; empty for the optimizer and the loop.
        what: What was changed, such as `activation`, `weight`, `lr`.
        before: As it was, for a reader: `Sigmoid`, `std 0.018`.
        after: As it is.
    """

    layer: str
    what: str
    before: str
    after: str

    def line(self) -> str:
        """Return one readable line."""
        place = f"{self.layer}: " if self.layer else ""
        return f"{place}{self.what} {self.before} -> {self.after}"


def _some(layers: Sequence[str]) -> str:
    """Return the first and last of several layers, and how many they are."""
    if len(layers) < 3:
        return ", ".join(layers)
    return f"{layers[0]} ... {layers[-1]} ({len(layers)})"


@dataclass(frozen=True, slots=True)
class Treatment:
    """All that a treatment changed.

    Attributes:
        remedies: Names of the remedies that were applied, in order.
        changes: The changes, in order.
    """

    remedies: tuple[str, ...]
    changes: tuple[Change, ...]

    def diff(self) -> str:
        """Return a readable diff, one line a change; layers changed alike share one."""
        alike: dict[tuple[str, str, str], list[str]] = {}
        for change in self.changes:
            key = (change.what, change.before, change.after)
            alike.setdefault(key, []).append(change.layer)
        return "\n".join(
            Change(_some(layers), what, before, after).line()
            for (what, before, after), layers in alike.items()
        )


@dataclass(frozen=True, slots=True)
class ProfileSeen:
    """What one replayed batch shows of a network.

    Attributes:
        decades: D of the chain with the largest |D|; None if it cannot be said.
        time_decades: Decades the gradient loses through time (negative: gains), of the
            worst recurrent layer; None without one.
        output_growth: Decades the forward signal grows along the trunk; None if not
            measured.
        finite: Whether loss, activations and gradients are finite.
        dead_share: Share of dead units of the worst layer; None if not measured.
        saturated_share: Share of saturated outputs of the worst layer; None likewise.
        sample_signal: Sample signal of the last hidden layer; None likewise.
        loss: Loss of the batch; None if not known.
        layers: (name, gradient norm over the top's, in decades), in forward order.
    """

    decades: float | None = None
    time_decades: float | None = None
    output_growth: float | None = None
    finite: bool = True
    dead_share: float | None = None
    saturated_share: float | None = None
    sample_signal: float | None = None
    loss: float | None = None
    layers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial measured.

    Attributes:
        verdict: HELPED, NO_CHANGE, HURT or FAILED.
        reason: One sentence with the numbers that decided.
        how: `replay` (one batch, before and after) or `training` (two copies trained).
        backpropagated: What was back-propagated: `loss_fn`, `cross-entropy recognised`,
            `captured cotangent`, `random cotangent`, ...
        before: Profile of the untreated copy.
        after: Profile of the treated copy.
        losses_before: Loss of each step of the untreated copy; empty for a replay.
        losses_after: The same of the treated copy, in the user's unit.
        steps: Training steps of each copy.
        seconds: Wall time.
        changes: What the treatment changed.
    """

    verdict: Verdict
    reason: str
    how: str = "replay"
    backpropagated: str = ""
    before: ProfileSeen | None = None
    after: ProfileSeen | None = None
    losses_before: tuple[float, ...] = ()
    losses_after: tuple[float, ...] = ()
    steps: int = 0
    seconds: float = 0.0
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One remedy, bound to this model and evidence. A value: it changes nothing.

    Attributes:
        remedy: Name of the remedy, such as `swap-activation`.
        title: What to do, for a reader: `Swap 10 Sigmoids for ReLU, with He weights`.
        answers: Codes of the findings that it answers, the cause first.
        layers: Layers it changes, in execution order; names of `named_modules()`.
        why: Why it should help here, with this model's numbers.
        code: The lines the user would write, with their layer names.
        risk: What it may cost.
        sites: Activations of those layers, where `apply` must find them again.
        options: What `apply` needs beside the layers, such as `{"to": "relu"}`.
        caution: What it may harm; empty if nothing is known.
        source: Paper or article behind it.
        record: How it fared in our measurements.
        can_apply: Whether `gradwatch.treat` can do it; else `where` says where the user
            must.
        where: `file:line` of the code to change; empty if not needed or not known.
        trial: What a trial measured; None before one.
    """

    remedy: str
    title: str
    answers: tuple[str, ...]
    layers: tuple[str, ...]
    why: str
    code: str
    risk: Risk
    sites: tuple[ActivationSite, ...] = ()
    options: Mapping[str, Option] = field(default_factory=partial(MappingProxyType, {}))
    caution: str = ""
    source: str = ""
    record: str = ""
    can_apply: bool = True
    where: str = ""
    trial: TrialResult | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A remedy that was considered and left out, and why.

    Attributes:
        remedy: Name of the remedy.
        reason: One sentence, such as `clipping cannot enlarge a gradient`.
        answers: Codes of the findings it was considered for.
    """

    remedy: str
    reason: str
    answers: tuple[str, ...] = ()
