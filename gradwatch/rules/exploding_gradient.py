"""GW201: the gradient grows on its way down the trunk."""

from __future__ import annotations

import math
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.rules.base import Rule
from gradwatch.rules.depth_profile import DepthProfile, depth_profiles, depth_unmet
from gradwatch.rules.layer_signals import forward_growth
from gradwatch.rules.loss_curve import RISEN, has_risen
from gradwatch.rules.weight_updates import median_update
from gradwatch.rules.wording import amount, because, named, relative_step, unique
from gradwatch.settings import Settings
from gradwatch.structure import Structure


class ExplodingGradient(Rule):
    """The gradient grows between the top of the trunk and its source.

    What it does:
        Compares the activation gradient below the head with the one at the input end
        of the trunk, stream by stream, and reports the largest growth.

        From `exploding_note_decades` it is a note. From `exploding_decades` it is a
        warning if something follows from it: the forward signal grows as well, the
        updates are huge, something is not finite, or the loss has risen. Beyond
        `exploding_alone_decades` it is a warning by itself: such networks are chaotic
        at initialisation, and nothing else needs to show.

    Why it matters:
        A small change of the input end changes the output by orders of magnitude: the
        steps of the lower layers overshoot, the loss jumps, and numbers overflow.
        Clipping scales all layers alike, so it does not mend the profile.

    Evidence:
        - `D` = log10(gradient at the top / gradient at the source), unit decades,
          negative here. Limits `exploding_note_decades`, `exploding_decades` and
          `exploding_alone_decades`, each widened for widths below `narrow_width`.
          Batch norm in healthy residual nets gives down to -2.4. Critical from
          `severe_decades` with a consequence.
        - Growth of the forward RMS over depth, unit decades, limit
          `exploding_activation_decades`.
        - Median update ratio, no unit, limit `max_update_ratio`.
        - Newest loss over first loss, no unit, limit 2.
        - Layers whose gradient is above the inverse of `layer_ratio` times the top's
          are listed.

        The size of the loss does not matter.

    Remedies:
        The initialisation that fits the activation. In residual nets: scale the
        branches by 1/sqrt(depth) or start them at zero. Layer norm. Not batch norm in
        a plain deep net, which multiplies gradients by 1.2 a layer; not clipping.

    References:
        - Poole et al. (2016). Exponential expressivity in deep neural networks through
          transient chaos. arXiv:1606.05340.
        - Yang et al. (2019). A mean field theory of batch normalization.
          arXiv:1902.08129.
        - Yang & Schoenholz (2017). Mean field residual networks. arXiv:1712.08969.
        - Zhang et al. (2019). Fixup initialization. arXiv:1901.09321.
    """

    code: ClassVar[str] = "GW201"
    name: ClassVar[str] = "exploding-gradient"
    summary: ClassVar[str] = "The gradient grows on its way down the trunk."
    health: ClassVar[Health] = Health.EXPLODING
    remedies: ClassVar[tuple[str, ...]] = (
        "initialise-weights",
        "add-residual",
        "add-normalisation",
        "swap-activation",
        "normalise-data",
        "weight-decay",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "exploding_note_decades",
        "exploding_decades",
        "exploding_alone_decades",
        "severe_decades",
        "narrow_width",
        "layer_ratio",
        "exploding_activation_decades",
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
            if -p.decades >= settings.exploding_note_decades + p.allowance
        ]
        if not profiles:
            return None
        worst = min(profiles, key=lambda p: p.decades)
        gained = -worst.decades
        reasons, context = consequence(history, structure, settings)
        severity = _severity(worst, bool(reasons), settings)
        sick = worst.beyond(settings.layer_ratio, above=True)
        text = (
            f"The gradient gains {gained:.1f} decades{worst.where()} between "
            f"{named(worst.top)} and {named(worst.source)} "
            f"({-worst.per_layer:.2f} a layer): "
            f"{worst.shape()}{because(reasons)}."
        )
        if not worst.chain.structure_known:
            text += " The graph could not be read, so module order stands in for it."
        note = f"widened by {worst.allowance:.2f} for narrow layers"
        decides = Evidence(
            "D",
            worst.decades,
            -(settings.exploding_decades + worst.allowance),
            "decades",
            (record.step, record.step),
            layer=worst.points[0].layer,
            note=note if worst.allowance else "",
        )
        return self.finding(
            severity=severity,
            message=text,
            help=(
                f"Look at the weight scale from {named(sick[-1].label)} down, and at "
                "residual sums without a norm or a scale: each layer multiplies the "
                "gradient."
            ),
            evidence=(decides, *context),
            layers=unique([point.layer for point in sick]),
            origin=sick[-1].layer,
        )


def _severity(profile: DepthProfile, follows: bool, settings: Settings) -> Severity:
    if not profile.chain.structure_known:
        return Severity.NOTE
    gained = -profile.decades - profile.allowance
    if follows and gained >= settings.severe_decades:
        return Severity.CRITICAL
    if follows and gained >= settings.exploding_decades:
        return Severity.WARNING
    if gained >= settings.exploding_alone_decades:
        return Severity.WARNING
    return Severity.NOTE


def consequence(
    history: History, structure: Structure, settings: Settings
) -> tuple[list[str], list[Evidence]]:
    """Return what follows from the grown gradient, in words and as evidence.

    Facts B2b: one of these shows in 18 of 24 sick networks; the other six are beyond
    `exploding_alone_decades` or close to it.

    Args:
        history: What was measured.
        structure: The network.
        settings: The limits.

    Returns:
        Clauses for the message, and the evidence measured, decisive or not.
    """
    record = history.latest
    assert record is not None
    steps = (record.step, record.step)
    reasons: list[str] = []
    evidence: list[Evidence] = []
    growth = forward_growth(record, structure)
    if growth is not None:
        decades, first, largest = growth
        limit = settings.exploding_activation_decades
        evidence.append(
            Evidence("forward growth", decades, limit, "decades", steps, largest)
        )
        if decades >= limit:
            reasons.append(
                f"the forward signal grows {decades:.1f} decades from "
                f"{named(first)} to {named(largest)}"
            )
    update = median_update(record, structure)
    if update is not None:
        limit = settings.max_update_ratio
        evidence.append(Evidence("median update ratio", update, limit, "", steps))
        if update >= limit:
            reasons.append(
                f"one step moves the median weight by {relative_step(update)}"
            )
    finite = all(
        flag is not False
        for layer in record.layers
        for flag in (layer.output_finite, layer.grad_finite)
    )
    if not finite or (record.loss is not None and not math.isfinite(record.loss)):
        reasons.append("something is not finite")
    if has_risen(history):
        ratio = history.loss_ratio() or 0.0
        evidence.append(Evidence("newest loss over first", ratio, RISEN, "", steps))
        reasons.append(f"the loss has risen to {amount(ratio)} times its first value")
    return reasons, evidence
