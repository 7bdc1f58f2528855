"""A plug-in: a rule that finds weights far too large, and a remedy for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from gradwatch import (
    Evidence,
    Finding,
    Health,
    Recommendation,
    Rejection,
    Risk,
    Settings,
    Severity,
)
from gradwatch.history import History
from gradwatch.remedies import Case, Remedy
from gradwatch.rules import Rule
from gradwatch.structure import Structure
from gradwatch.treatment import ModelEditor

#: Root mean square from which a weight matrix counts as heavy (chosen: PyTorch draws
#: linear and convolution layers below 1 / sqrt(fan_in)).
MOST_RMS = 2.0


class HeavyWeights(Rule):
    """Weights of a layer are far larger than any initialisation makes them.

    What it does:
        Compares the root mean square of each weight matrix with a limit.

    Why it matters:
        The layer drowns what the others say, and its relative updates are tiny.

    Evidence:
        Root mean square of the weights, no unit, limit 2.

    Remedies:
        Bring the weights back to a usual size.

    References:
        None: the limit was chosen for this example.
    """

    code: ClassVar[str] = "LAB101"
    name: ClassVar[str] = "heavy-weights"
    summary: ClassVar[str] = "Weights far larger than any initialisation makes them."
    health: ClassVar[Health] = Health.EXPLODING
    remedies: ClassVar[tuple[str, ...]] = ("rescale-weights", "weight-decay")

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return the heavy layers of the newest probe, or None."""
        record = history.latest
        if record is None:
            return None
        heavy = [
            (parameter.weight_rms, parameter.layer)
            for parameter in record.parameters
            if parameter.ndim >= 2
            and parameter.weight_rms is not None
            and parameter.weight_rms > MOST_RMS
        ]
        if not heavy:
            return None
        largest, worst = max(heavy)
        steps = (record.step, record.step)
        return self.finding(
            severity=Severity.WARNING,
            message=f"The weights of {worst} have a root mean square of {largest:.1f}.",
            help="Look at how these layers are initialised, and at the learning rate.",
            evidence=(Evidence("weight RMS", largest, MOST_RMS, "", steps, worst),),
            layers=tuple(layer for _, layer in heavy),
        )


class RescaleWeights(Remedy):
    """Scale heavy weights down to the size that PyTorch's default has.

    When it applies:
        LAB101 found heavy weights.

    When it never does:
        Any other finding.

    What apply does:
        Divides each weight matrix by its size times sqrt(3 * fan_in).

    Record:
        Not counted.

    Risk:
        Reshapes: the network computes something else.

    References:
        None.
    """

    name: ClassVar[str] = "rescale-weights"
    summary: ClassVar[str] = "Scales heavy weights down to PyTorch's default size."
    risk: ClassVar[Risk] = Risk.RESHAPES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Offer it for LAB101 only."""
        if case.code != HeavyWeights.code:
            yield self.reject(case, "It is not the size of the weights.")
            return
        layers = case.finding.layers
        lines = [f"for name in {list(layers)}:"]
        lines += ["    weight = model.get_submodule(name).weight.data"]
        lines += ["    fan_in = weight[0].numel()"]
        lines += ["    weight /= weight.square().mean().sqrt() * (3 * fan_in) ** 0.5"]
        yield self.recommend(
            case,
            f"Scale the weights of {len(layers)} layers down",
            case.finding.message,
            "\n".join(lines),
            layers=layers,
        )

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Scale each layer on the copy."""
        for layer in recommendation.layers:
            editor.fill(
                layer,
                "weight",
                lambda w: w.div_(w.square().mean().sqrt() * (3 * w[0].numel()) ** 0.5),
                "std 1 / sqrt(3 * fan_in)",
            )
