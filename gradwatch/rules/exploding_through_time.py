"""GW202: the gradient of a recurrent layer grows over time."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import TimeProfile
from gradwatch.rules.base import Rule
from gradwatch.rules.exploding_gradient import consequence
from gradwatch.rules.loss_curve import is_learning
from gradwatch.rules.time_profiles import TimeChange, growing, time_unmet
from gradwatch.rules.vanishing_through_time import recurrent_context
from gradwatch.rules.wording import because, named, unique
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Multiple of the limit from which the finding is critical (chosen, not measured).
_SEVERE = 2.0


class ExplodingThroughTime(Rule):
    """The gradient of a recurrent layer grows on its way back through time.

    What it does:
        Compares the largest gradient over time with the one at the last step that the
        loss reads, for each direction of each recurrent layer. Steps after the last
        non-zero one are padding.

        It is a warning by itself, and a note once the loss is known to have halved:
        what the loss reads last may have nothing left to say. It is critical from twice
        the limit, or when the updates are huge, something is not finite or the loss has
        risen.

    Why it matters:
        The loss surface has walls: one step over them throws the weights far away.
        The sudden jumps of the loss of recurrent networks come from there.

    Evidence:
        - Gradient gained over time, unit decades, limit `exploding_time_decades`.
        - Median update ratio, no unit, limit `max_update_ratio`; forward growth, unit
          decades, limit `exploding_activation_decades`; newest loss over first, no
          unit, limits 2 and `learning_loss_ratio`.
        - Spectral radius and largest singular value of the recurrent weight, as
          context: they do not decide.

    Remedies:
        Clip the global norm near its running median, together with an orthogonal
        recurrent initialisation or a gated cell; clipping alone cured none of three.

    References:
        - Doya (1992). Bifurcations in the learning of recurrent neural networks.
        - Pascanu et al. (2012). On the difficulty of training recurrent neural
          networks. arXiv:1211.5063.
    """

    code: ClassVar[str] = "GW202"
    name: ClassVar[str] = "exploding-through-time"
    summary: ClassVar[str] = "The gradient of a recurrent layer grows over time."
    health: ClassVar[Health] = Health.EXPLODING
    remedies: ClassVar[tuple[str, ...]] = (
        "gated-cell",
        "orthogonal-recurrence",
        "clip-gradients",
        "weight-decay",
        "attention-or-truncation",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "exploding_time_decades",
        "max_update_ratio",
        "exploding_activation_decades",
        "learning_loss_ratio",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        return time_unmet(history.latest)

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        grown: list[tuple[TimeProfile, TimeChange]] = []
        for profile in record.time_profiles:
            change = growing(profile.norms)
            if change and change.decades >= settings.exploding_time_decades:
                grown.append((profile, change))
        if not grown:
            return None
        worst, change = max(grown, key=lambda pair: pair[1].decades)
        reasons, context = consequence(history, structure, settings)
        severe = change.decades >= _SEVERE * settings.exploding_time_decades
        steps = (record.step, record.step)
        way = " in the reverse direction" if worst.direction == "reverse" else ""
        decides = Evidence(
            "gradient gained through time",
            change.decades,
            settings.exploding_time_decades,
            "decades",
            steps,
            worst.layer,
        )
        severity = Severity.CRITICAL if severe or reasons else Severity.WARNING
        if not reasons and is_learning(history, settings):
            severity = Severity.NOTE
        return self.finding(
            severity=severity,
            message=(
                f"The gradient of {named(worst.layer)} gains {change.decades:.1f} "
                f"decades over {change.start - change.end} time steps{way} "
                f"({change.per_step:.2f} a step){because(reasons)}."
            ),
            help=(
                "Look at the scale of the recurrent weight and at clipping: is the "
                "global norm clipped near its usual size?"
            ),
            evidence=(decides, *context, *recurrent_context(worst, steps)),
            layers=unique([p.layer for p, _ in grown]),
            origin=worst.layer,
        )
