"""Bring inputs and regression targets to unit scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from gradwatch.anatomy import InputFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.scaling_modules import Rescale, Standardise
from gradwatch.rules.wording import amount, named, some
from gradwatch.structure import Role
from gradwatch.treatment import ModelEditor

#: Mean or deviation beyond which inputs are far from unit scale. Chosen: grey values of
#: 0 to 16 have a deviation of 6, of 0 to 255 of 80; standardised data of 1.
_FAR = 3.0
#: Deviation below which they are too small: as far from 1 as `_FAR` squared. Chosen.
_SMALL = 1.0 / _FAR**2
#: Root mean square of a target beyond which it is far from unit scale. Chosen.
_FAR_TARGET = 10.0
_ANSWERED = frozenset({"GW103", "GW104", "GW105", "GW201", "GW203", "GW205", "GW301"})
_ANSWERED |= {"GW204"}
_SOURCE = "LeCun et al. (1998), Efficient backprop, section 4.3"


class NormaliseData(Remedy):
    """Bring inputs and regression targets to unit scale.

    When it applies:
        What the model is fed has a mean or a deviation beyond 3, or a deviation below
        1/9, or a regression target is larger than 10, while gradients or signals
        explode, units are saturated or dead, outputs no longer depend on inputs, or
        numbers are not finite. Inputs that hold NaN or Inf are named.

    When it never does:
        Inputs and targets near unit scale. A gradient that fades: its profile does not
        depend on the scale of the data where activations are ReLU-like.

    What apply does:
        Inputs: puts a `Standardise` with the measured mean and deviation in front of
        the layer that reads them. Targets: multiplies the output of the head by the
        scale of the target and divides the loss by its square, which is what a scaled
        target does under a squared error.

    Record:
        Inputs multiplied by 1,000 and targets of 10,000: normalising repaired 1 of 1
        each. Other remedies only absorb the scale.

    Risk:
        Reshapes: the same function of standardised data. A model in use needs the same
        normalisation.

    References:
        - LeCun, Bottou, Orr & Müller (1998). Efficient backprop, section 4.3.
    """

    name: ClassVar[str] = "normalise-data"
    summary: ClassVar[str] = "Bring inputs and regression targets to unit scale."
    risk: ClassVar[Risk] = Risk.RESHAPES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return what brings the data to unit scale, or why it needs none."""
        if case.code not in _ANSWERED:
            yield self.reject(case, "The scale of the data is not behind this finding.")
            return
        inputs = case.anatomy.inputs
        broken = [x for x in inputs if not _is_finite(x)]
        far = [x for x in inputs if _is_finite(x) and _is_far(x)]
        for facts in broken:
            yield self._clean(case, facts)
        for facts in far:
            yield self._inputs(case, facts)
        scale = case.anatomy.target_scale
        if scale is not None and math.isfinite(scale) and scale > _FAR_TARGET:
            yield self._targets(case, scale)
        elif not broken and not far:
            yield self.reject(case, _why_none(inputs))

    def _inputs(self, case: Case, facts: InputFacts) -> Recommendation:
        reader = facts.layer or _only_reader(case)
        mean, std = float(f"{facts.mean:.4g}"), float(f"{facts.std:.4g}")
        code = f"x = (x - {mean:g}) / {std:g}  # in your data pipeline"
        if reader:
            code += f"; {named(reader)} reads it"
        return self.recommend(
            case,
            f"Standardise the inputs: mean {amount(mean)}, deviation {amount(std)}",
            f"{f'What {named(reader)} reads' if reader else 'An input'} has mean "
            f"{amount(mean)}, deviation {amount(std)} and values up to "
            f"{amount(facts.max_abs)}; initialisers assume mean 0 and deviation 1.",
            code,
            layers=[reader] if reader else [],
            options={"what": "inputs", "mean": mean, "std": std},
            caution="Mean and deviation are of the last batch, over all features: "
            "better take them of each feature, over the training set.",
            source=_SOURCE,
            record="repaired 1 of 1 network with inputs times 1,000 in our bench",
            risk=Risk.RESHAPES if reader else Risk.ADVICE,
            can_apply=bool(reader),
        )

    def _targets(self, case: Case, scale: float) -> Recommendation:
        heads = tuple(case.structure.heads)
        scale = float(f"{scale:.4g}")
        return self.recommend(
            case,
            f"Scale the target: its root mean square is {amount(scale)}",
            f"The target has a root mean square of {amount(scale)}; the network begins "
            "with outputs near 1, so that the first gradients are as many times too "
            "large.",
            f"loss = loss_fn(model(x), target / {scale:g})  # and multiply predictions "
            f"by {scale:g}",
            layers=heads[:1],
            options={"what": "targets", "scale": scale},
            caution="Losses become smaller by the square of the scale, for a squared "
            "error.",
            source=_SOURCE,
            record="repaired 1 of 1 network with targets of 10,000 in our bench",
            risk=Risk.RESHAPES if len(heads) == 1 else Risk.ADVICE,
            can_apply=len(heads) == 1,
        )

    def _clean(self, case: Case, facts: InputFacts) -> Recommendation:
        what = named(facts.layer) if facts.layer else "the model"
        return self.recommend(
            case,
            "Clean the inputs: they hold NaN or Inf",
            f"What {what} was fed last holds NaN or Inf, which no network can mend.",
            "assert torch.isfinite(x).all(), x  # before each step: finds the sample",
            layers=[facts.layer] if facts.layer else [],
            options={"what": "clean"},
            risk=Risk.ADVICE,
            can_apply=False,
            record="an exact fact, no trial needed",
        )

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Put a `Standardise` before the reader, or a `Rescale` after the head."""
        options = recommendation.options
        for layer in recommendation.layers:
            if options["what"] == "inputs":
                module = Standardise(float(options["mean"]), float(options["std"]))
                editor.insert_before(layer, module)
            elif options["what"] == "targets":
                editor.insert_after(layer, Rescale(float(options["scale"])))

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the factor of the loss that a scaled target brings."""
        if recommendation.options["what"] != "targets":
            return Recipe()
        return Recipe(loss_factor=float(recommendation.options["scale"]) ** -2)


def _is_finite(facts: InputFacts) -> bool:
    return all(math.isfinite(x) for x in (facts.mean, facts.std, facts.max_abs))


def _is_far(facts: InputFacts) -> bool:
    if facts.std == 0.0:  # a constant: a mask or a blank batch
        return False
    return max(abs(facts.mean), facts.std) > _FAR or (
        facts.std < _SMALL and abs(facts.mean) < _FAR
    )


def _only_reader(case: Case) -> str:
    """Return the layer that must read the input where there is one input only."""
    if len(case.anatomy.inputs) != 1 or not case.anatomy.weights:
        return ""
    if any(case.structure.role(n) is Role.EMBEDDING for n in case.structure.layers):
        return ""
    return case.anatomy.weights[0].layer


def _why_none(inputs: Iterable[InputFacts]) -> str:
    seen = [
        f"mean {amount(x.mean, 2)} and deviation {amount(x.std, 2)}" for x in inputs
    ]
    if not seen:
        return "What the model is fed was not seen, and no target was."
    return f"The inputs are near unit scale: {some(seen)}."
