"""GW101: the gradient fades on its way down the trunk."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.depth_profile import DepthProfile, depth_profiles, depth_unmet
from gradwatch.rules.layer_signals import weakest_signal
from gradwatch.rules.loss_curve import is_flat, is_learning
from gradwatch.rules.weight_updates import outside_workable_range, starvation
from gradwatch.rules.wording import amount, because, named, relative, unique
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


class VanishingGradient(Rule):
    """The gradient fades between the top of the trunk and its source.

    What it does:
        Compares the activation gradient below the head with the one at the input end
        of the trunk: the points through which every gradient path passes. Each stream
        (an encoder behind cross-attention, a second tower) is a chain of its own; the
        largest loss is reported.

        Alone, a fading gradient is a note: Adam evens out small gradients. Together
        with a consequence it is a warning: the lower layers are updated far less than
        the upper ones, the forward signal is lost too, or the loss stays flat. Once
        the loss is known to have halved it is a note again. With the graph
        unreadable, module order stands in and the finding stays a note.

    Why it matters:
        Layers near the input get too little gradient to learn from, so the network
        learns with its last layers only, or not at all. Clipping, more steps or
        another learning rate do not bring the gradient back.

    Evidence:
        - `D` = log10(gradient at the top / gradient at the source), unit decades,
          limit `vanishing_decades`. Widths below `narrow_width` widen the limit by two
          standard deviations of what chance does to narrow layers. Critical from
          `severe_decades`.
        - Update ratio of the lower third of the layers over that of the upper third,
          no unit, limit `starved_update_ratio`.
        - Smallest sample signal of a hidden layer, no unit, limit `weak_signal`.
        - Newest loss over first loss, no unit, limit `flat_loss_ratio`, where the loss
          is known over `flat_loss_steps`; it does not count where the update ratios
          (`min_update_ratio`, `max_update_ratio`) blame the learning rate. Halved at
          `learning_loss_ratio`.
        - Layers whose gradient is below `layer_ratio` of the top's are listed; that
          limit never fires by itself.

        Exact zeros, frozen and unused layers, branches, embeddings and the head are
        left out. The size of the loss does not matter.

    Remedies:
        Sigmoid-like activations: swap them for ReLU with He initialisation. ReLU-like
        ones: He initialisation. Tanh-like ones: Xavier or orthogonal initialisation.
        Then residual connections with scaled branches, or normalisation.

    References:
        - Glorot & Bengio (2010). Understanding the difficulty of training deep
          feedforward neural networks.
        - Schoenholz et al. (2017). Deep information propagation. arXiv:1611.01232.
        - Hanin (2018). Which neural net architectures give rise to exploding and
          vanishing gradients? arXiv:1801.03744.
        - Hanin & Nica (2018). Products of many large random matrices and gradients in
          deep neural networks. arXiv:1812.05994.
    """

    code: ClassVar[str] = "GW101"
    name: ClassVar[str] = "vanishing-gradient"
    summary: ClassVar[str] = "The gradient fades on its way down the trunk."
    health: ClassVar[Health] = Health.VANISHING
    remedies: ClassVar[tuple[str, ...]] = (
        "swap-activation",
        "initialise-weights",
        "add-residual",
        "add-normalisation",
        "change-optimizer",
        "gradient-amplification",
        "pretrain-layers",
        "weight-search",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "vanishing_decades",
        "severe_decades",
        "narrow_width",
        "layer_ratio",
        "starved_update_ratio",
        "weak_signal",
        "flat_loss_ratio",
        "flat_loss_steps",
        "learning_loss_ratio",
        "min_update_ratio",
        "max_update_ratio",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        return depth_unmet(history.latest, settings)

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        profiles = [
            p
            for p in depth_profiles(record, settings)
            if p.decades >= settings.vanishing_decades + p.allowance
        ]
        if not profiles:
            return None
        worst = max(profiles, key=lambda p: p.decades)
        reasons, context = consequence(history, structure, settings, worst)
        known = worst.chain.structure_known
        severity = Severity.NOTE
        if reasons and known and not is_learning(history, settings):
            severe = worst.decades >= settings.severe_decades
            severity = Severity.CRITICAL if severe else Severity.WARNING
        sick = worst.beyond(settings.layer_ratio, above=False)
        text = (
            f"The gradient loses {worst.decades:.1f} decades{worst.where()} between "
            f"{named(worst.top)} and {named(worst.source)} "
            f"({worst.per_layer:.2f} a layer): "
            f"{worst.shape()}{because(reasons)}."
        )
        if not known:
            text += " The graph could not be read, so module order stands in for it."
        steps = (record.step, record.step)
        note = f"widened by {worst.allowance:.2f} for narrow layers"
        decides = Evidence(
            "D",
            worst.decades,
            settings.vanishing_decades + worst.allowance,
            "decades",
            steps,
            layer=worst.points[0].layer,
            note=note if worst.allowance else "",
        )
        return self.finding(
            severity=severity,
            message=text,
            help=_help(reasons, sick[-1].label),
            evidence=(decides, *context),
            layers=unique([point.layer for point in sick]),
            origin=sick[-1].layer,
        )


def _help(reasons: list[str], origin: str) -> str:
    if reasons:
        return (
            f"Look at the activation and the initialisation from {named(origin)} down: "
            "each layer multiplies the gradient by their product."
        )
    return (
        "Nothing follows from it yet. Adam evens small gradients out and plain SGD "
        "would not; watch whether the layers listed are updated."
    )


def consequence(
    history: History,
    structure: Structure,
    settings: Settings,
    profile: DepthProfile,
) -> tuple[list[str], list[Evidence]]:
    """Return what follows from the faded gradient, in words and as evidence.

    Facts B2b, step 5: starved updates or a weak signal show in 30 of 30 sick networks
    and in none of 71 healthy ones with D of 2 or more. A flat loss is the outcome.

    Args:
        history: What was measured.
        structure: The network.
        settings: The limits.
        profile: The chain that fades.

    Returns:
        Clauses for the message, and the evidence measured, decisive or not.
    """
    record = history.latest
    assert record is not None
    steps = (record.step, record.step)
    reasons: list[str] = []
    evidence: list[Evidence] = []
    starved = starvation(record, structure, profile.chain_layers)
    if starved is not None:
        limit = settings.starved_update_ratio
        evidence.append(
            Evidence("update ratio, lower over upper third", starved, limit, "", steps)
        )
        if starved <= limit:
            reasons.append(
                f"the lower layers move {amount(starved, 1)} times as far as the upper "
                "ones"
                if starved > 0
                else "the lower layers do not move at all"
            )
    weakest = weakest_signal(record, _hidden(record, structure, profile))
    if weakest is not None:
        signal, layer = weakest
        limit = settings.weak_signal
        evidence.append(
            Evidence("smallest sample signal", signal, limit, "", steps, layer)
        )
        if signal <= limit:
            reasons.append(f"the outputs of {named(layer)} hardly depend on the input")
    flat = is_flat(history, settings, settings.flat_loss_steps)
    if flat is not None:
        ratio = history.loss_ratio() or 0.0
        limit = settings.flat_loss_ratio
        evidence.append(Evidence("newest loss over first", ratio, limit, "", steps))
        if flat and not outside_workable_range(record, structure, settings):
            reasons.append(f"the loss is still at {relative(ratio, 'its first value')}")
    return reasons, evidence


def _hidden(
    record: StepRecord, structure: Structure, profile: DepthProfile
) -> list[str]:
    """Return the layers of the chain, head left out."""
    return [
        layer
        for layer in profile.chain_layers
        if structure.role(layer) is not Role.HEAD
    ]
