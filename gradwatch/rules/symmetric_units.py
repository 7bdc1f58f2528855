"""GW108: all units of a layer compute the same."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.rules.base import Rule
from gradwatch.rules.weight_updates import weights
from gradwatch.rules.wording import named, some, unique
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


class SymmetricUnits(Rule):
    """All units of a hidden layer have equal weights and keep them.

    What it does:
        Compares the first, a middle and the last row of each weight. Equal, non-zero
        rows of a hidden layer that are still equal after steps that moved them mean
        that the layer is one unit, many times over. The head, embeddings, and layers
        whose weights did not move are left out.

    Why it matters:
        Units with equal weights and equal readers get equal gradients, so no step tells
        them apart: the layer has the capacity of a single unit for ever. It comes from
        a constant initialisation.

    Evidence:
        - Probes in a row, after a step, at which the rows were equal, unit probes,
          limit `confirm_probes`.

    Remedies:
        Initialise the weights at random, for the activation that follows. Nothing else
        helps.

    References:
        - Goodfellow, Bengio, Courville (2016). Deep Learning, section 8.4: the initial
          parameters need to break symmetry between different units.
    """

    code: ClassVar[str] = "GW108"
    name: ClassVar[str] = "symmetric-units"
    summary: ClassVar[str] = "All units of a layer have equal weights and keep them."
    health: ClassVar[Health] = Health.STALLED
    remedies: ClassVar[tuple[str, ...]] = ("initialise-weights",)
    settings_used: ClassVar[tuple[str, ...]] = ("confirm_probes",)

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if history.num_probes < 2:
            return "fewer than 2 probes"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None or history.num_probes < 2:
            return None
        moved = {
            parameter.name
            for probe in history.probes[:-1]
            for parameter in probe.parameters
            if parameter.update_ratio
        }
        layers = unique(
            [
                parameter.layer
                for parameter in weights(record, structure)
                if parameter.equal_rows
                and parameter.name in moved
                and structure.role(parameter.layer) is not Role.HEAD
            ]
        )
        if not layers:
            return None
        probes = len(history.probes) - 1
        return self.finding(
            severity=Severity.WARNING,
            message=(
                f"All units of {some(layers)} have equal weights, and training keeps "
                "them equal: each of these layers is one unit, many times over."
            ),
            help=(
                f"Look at how {named(layers[0])} is initialised: a constant, not at "
                "random?"
            ),
            evidence=(
                Evidence(
                    "probes with equal rows after a step",
                    probes,
                    float(settings.confirm_probes),
                    "probes",
                    history.window(settings.max_probes),
                    layers[0],
                ),
            ),
            layers=layers,
            origin=layers[0],
        )
