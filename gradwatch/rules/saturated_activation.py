"""GW104: activations on their flat part."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.rules.base import Rule
from gradwatch.rules.layer_signals import saturated_shares
from gradwatch.rules.loss_curve import is_learning
from gradwatch.rules.wording import named, some
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


class SaturatedActivation(Rule):
    """Most outputs of a tanh or sigmoid lie on its flat part.

    What it does:
        Takes the share of saturated outputs of each hidden tanh and sigmoid, modules
        and function calls alike. Gates and output activations are left out: being
        open or shut is their work. On a branch it is a note, and once the loss is known
        to have halved: a tanh net that learns to be sure of itself saturates too.

    Why it matters:
        On the flat part the derivative is nearly zero, so the layer passes little
        gradient and reacts to little; it learns its way back slowly.

    Evidence:
        - Share of saturated outputs, unit share, limit `saturated_share`. A tanh output
          is saturated beyond `tanh_saturation`, a sigmoid output nearer than
          `sigmoid_saturation` to 0 or 1.
        - Newest loss over first loss, no unit, limit `learning_loss_ratio`.

    Remedies:
        Fix the scale of the input or of the initialisation; batch norm before the
        activation; ReLU with He initialisation.

    References:
        - Glorot & Bengio (2010). Understanding the difficulty of training deep
          feedforward neural networks.
        - Yilmaz & Poli (2022). Successfully and efficiently training deep multi-layer
          perceptrons with logistic activation function.
    """

    code: ClassVar[str] = "GW104"
    name: ClassVar[str] = "saturated-activation"
    summary: ClassVar[str] = "Most outputs of a tanh or sigmoid are on its flat part."
    health: ClassVar[Health] = Health.SATURATED
    remedies: ClassVar[tuple[str, ...]] = (
        "normalise-data",
        "initialise-weights",
        "add-normalisation",
        "swap-activation",
        "adjust-learning-rate",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "saturated_share",
        "tanh_saturation",
        "sigmoid_saturation",
        "learning_loss_ratio",
    )

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if not saturated_shares(history.latest):
            return "no hidden tanh or sigmoid was observed"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        shares = saturated_shares(record)
        sick = [name for name in shares if shares[name] >= settings.saturated_share]
        if not sick:
            return None
        on_trunk = [name for name in sick if structure.role(name) is not Role.BRANCH]
        origin = (on_trunk or sick)[0]
        sick.sort(key=shares.__getitem__, reverse=True)
        worst = sick[0]
        others = f", and of {some(sick[1:])}" if len(sick) > 1 else ""
        harmless = not on_trunk or is_learning(history, settings)
        return self.finding(
            severity=Severity.NOTE if harmless else Severity.WARNING,
            message=(
                f"{shares[worst]:.0%} of the outputs of the activation after "
                f"{named(worst)}{others} are saturated."
            ),
            help=(
                f"Look at the scale of what reaches {named(origin)}: its inputs and "
                "its weights."
            ),
            evidence=(
                Evidence(
                    "share of saturated outputs",
                    shares[worst],
                    settings.saturated_share,
                    "share",
                    (record.step, record.step),
                    worst,
                ),
            ),
            layers=tuple(sick),
            origin=origin,
        )
