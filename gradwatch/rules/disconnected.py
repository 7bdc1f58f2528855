"""GW106: weights that no gradient or no optimizer reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.rules.base import Rule
from gradwatch.rules.disconnection import (
    called_layers,
    cut_off,
    is_on_purpose,
    one_unit_head,
    outside_optimizer,
    silent_layers,
    uncalled_layers,
)
from gradwatch.rules.loss_curve import is_flat
from gradwatch.rules.wording import named, some
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure

_ZERO = "steps with an exactly zero gradient"


@dataclass(frozen=True, slots=True)
class _Case:
    """One way of being disconnected."""

    severity: Severity
    layers: tuple[str, ...]
    message: str
    help: str
    quantity: str
    value: float
    limit: float | None


class Disconnected(Rule):
    """Weights that take part in the forward pass do not learn.

    What it does:
        Looks for five ways of not being connected:

        - Called and trainable, but the gradient is exactly zero step after step while
          the loss is not zero. Dead units, a learning rate of zero, experts that were
          not called and a softmax over one unit are told apart. On a branch: a note.
        - The first layers never get a gradient while later ones do: a `detach`
          between them. If that is a whole top-level child: a note, unless the loss
          stays flat.
        - The gradient is there, but no optimizer owns the weights. If these are the
          whole input side or a whole top-level child, that is on purpose: a note,
          unless the loss stays flat.
        - The layer runs with gradients switched off, although an optimizer owns it:
          a note, and a warning when the loss stays flat.
        - Never called in a training forward: a note.

    Why it matters:
        Such weights keep their initial values. The loss may fall all the same, because
        the rest learns around them.

    Evidence:
        - Steps in a row with an exactly zero gradient, unit steps, limit
          `disconnected_steps`.
        - Steps without any gradient, unit steps, same limit.
        - Steps in which no optimizer owned the weights, unit steps, same limit.
        - Share of dead units (`dead_unit_share`) that explains zeros below.

    Remedies:
        Give the weights to the optimizer, remove the `detach`, re-initialise weights
        that are all zero, use a sigmoid instead of a softmax over one unit.

    References:
        - Zhang et al. (2021). AUTOTRAINER: an automatic DNN training problem detection
          and repair system. ICSE 2021.
        - huggingface/accelerate#2665: a flat loss because nothing is updated.
    """

    code: ClassVar[str] = "GW106"
    name: ClassVar[str] = "disconnected"
    summary: ClassVar[str] = "No gradient or no optimizer reaches these weights."
    health: ClassVar[Health] = Health.STALLED
    remedies: ClassVar[tuple[str, ...]] = ("reconnect", "initialise-weights")
    settings_used: ClassVar[tuple[str, ...]] = (
        "disconnected_steps",
        "dead_unit_share",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if history.latest.step + 1 < settings.disconnected_steps:
            return f"fewer than {settings.disconnected_steps} steps"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None or record.step + 1 < settings.disconnected_steps:
            return None
        found = (
            _silent(history, structure, settings),
            _cut(history, structure, settings),
            _outside(history, structure, settings),
            _without_gradients(history, structure, settings),
            _uncalled(history, structure, settings),
        )
        cases = [case for case in found if case is not None]
        if not cases:
            return None
        worst = max(cases, key=lambda case: case.severity)
        rest = [case for case in cases if case is not worst]
        first = max(0, record.step + 1 - int(worst.value))
        return self.finding(
            severity=worst.severity,
            message=" ".join(case.message for case in [worst, *rest]),
            help=worst.help,
            evidence=tuple(
                Evidence(
                    case.quantity,
                    case.value,
                    case.limit,
                    "steps",
                    (first, record.step),
                    case.layers[0],
                )
                for case in [worst, *rest]
            ),
            layers=worst.layers,
            origin=worst.layers[0],
        )


def _silent(history: History, structure: Structure, settings: Settings) -> _Case | None:
    record = history.latest
    assert record is not None
    layers, steps = silent_layers(history, structure, settings)
    if not layers:
        return None
    head = one_unit_head(record, structure)
    if head is not None:
        return _Case(
            Severity.WARNING,
            layers,
            f"Nothing has had a gradient for {steps} steps, and {named(head)} has one "
            "unit: a softmax over one unit is always 1.",
            "Use a sigmoid for one output, or two outputs for a softmax.",
            _ZERO,
            steps,
            float(settings.disconnected_steps),
        )
    trunk = [name for name in layers if structure.role(name) is not Role.BRANCH]
    why = (
        ", because a weight above them is still all zero"
        if record.zero_init_downstream
        else " although the loss is not zero"
    )
    return _Case(
        Severity.WARNING if trunk else Severity.NOTE,
        layers,
        f"{some(layers)} had an exactly zero gradient for {steps} steps{why}.",
        "Look for a product with zero, a mask, or a constant initialisation above.",
        _ZERO,
        steps,
        float(settings.disconnected_steps),
    )


def _cut(history: History, structure: Structure, settings: Settings) -> _Case | None:
    layers, span = cut_off(history, structure)
    if not layers or span < settings.disconnected_steps:
        return None
    children_only = is_on_purpose(layers, structure, prefix_counts=False)
    quiet = (children_only and not _hurts(history, settings)) or not structure.known
    return _Case(
        Severity.NOTE if quiet else Severity.WARNING,
        layers,
        f"{some(layers)} never had a gradient in {span} steps, although the "
        "layers above had one and the optimizer owns them.",
        f"Look for a detach, a no_grad or an argmax above {named(layers[-1])}.",
        "steps without any gradient",
        span,
        float(settings.disconnected_steps),
    )


def _outside(
    history: History, structure: Structure, settings: Settings
) -> _Case | None:
    record = history.latest
    assert record is not None
    layers = outside_optimizer(record, structure)
    if not layers:
        return None
    on_purpose = is_on_purpose(layers, structure, prefix_counts=True) and not _hurts(
        history, settings
    )
    manner = "as for fine-tuning" if on_purpose else "so they never change"
    return _Case(
        Severity.NOTE if on_purpose else Severity.WARNING,
        layers,
        f"{some(layers)} get a gradient, but no optimizer owns them, {manner}.",
        "Compare `model.parameters()` with the optimizer's groups: was the layer made "
        "or replaced after the optimizer?",
        "steps in which no optimizer owned the weights",
        record.step + 1,
        float(settings.disconnected_steps),
    )


def _hurts(history: History, settings: Settings) -> bool:
    """Whether the loss is known to stay flat: a decision would let the rest learn."""
    return is_flat(history, settings, settings.disconnected_steps) is True


def _without_gradients(
    history: History, structure: Structure, settings: Settings
) -> _Case | None:
    record = history.latest
    assert record is not None
    owned = {p.layer for p in record.parameters if p.trainable and p.in_optimizer}
    layers = tuple(name for name in record.no_grad_layers if name in owned)
    if not layers:
        return None
    return _Case(
        Severity.WARNING if _hurts(history, settings) else Severity.NOTE,
        layers,
        f"{some(layers)} ran with gradients switched off inside the training forward, "
        "although an optimizer owns their weights.",
        f"Look for a torch.no_grad() around {named(layers[0])} in the forward.",
        "steps without any gradient",
        record.step + 1,
        float(settings.disconnected_steps),
    )


def _uncalled(
    history: History, structure: Structure, settings: Settings
) -> _Case | None:
    record = history.latest
    assert record is not None
    muted = set(record.no_grad_layers)
    layers = tuple(n for n in uncalled_layers(history, structure) if n not in muted)
    if not layers or not called_layers(record):
        return None
    return _Case(
        Severity.NOTE,
        layers,
        f"{some(layers)} were never called in a training forward.",
        "If that is not on purpose, look at what the forward does with them.",
        "steps without a call",
        record.step + 1,
        None,
    )
