"""Change the optimizer, or the epsilon of an adaptive one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from gradwatch.anatomy import OptimizerFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.training_facts import (
    WITH_EPS,
    code,
    is_adaptive,
    optimizer_line,
    typical_update,
)
from gradwatch.rules.update_too_large import TARGET_RATIO
from gradwatch.rules.weight_updates import weights
from gradwatch.rules.wording import relative_step, some

#: Rate that facts C gave Adam, the default of the paper and of torch.
_RATE = 1e-3
#: From the default 1e-8 (facts C, spikes in training).
_EPS = 1e-6
_KINGMA = "Kingma & Ba (2015), Adam, arXiv:1412.6980"
_HINTON = "Tieleman & Hinton (2012), Lecture 6.5, RMSprop"
_RIEDMILLER = "Riedmiller & Braun (1993), A direct adaptive method for faster "
_RIEDMILLER += "backpropagation learning: the RPROP algorithm"
_GROWS = (
    "The gradient grows because of the weights: SGD changed for Adam repaired 2 of 16 "
    "exploding networks in our bench."
)
_NOT_AT_FAULT = {
    "GW102": "An optimizer sees one gradient for all time steps and cannot part them.",
    "GW103": "Dead units have no gradient for any optimizer.",
    "GW104": "Saturated outputs pass hardly a gradient to any optimizer.",
    "GW105": "No optimizer makes outputs depend on inputs again.",
    "GW106": "What no gradient or no optimizer reaches learns with none.",
    "GW107": "A zero is a zero for every optimizer.",
    "GW108": "Equal gradients move equal units equally, whatever the optimizer.",
    "GW201": _GROWS,
    "GW202": "The gradient grows through time because of the recurrent weights.",
    "GW203": _GROWS.replace("gradient", "forward signal", 1),
    "GW205": "NaN ends every optimizer.",
    "GW303": "The clip value sets the length of the steps: change that first.",
    "GW901": "What was not observed cannot be mended.",
}


class ChangeOptimizer(Remedy):
    """Change the optimizer, or the epsilon of an adaptive one.

    When it applies:
        Plain SGD, and a gradient that fades along the depth: Adam, RMSprop and Rprop
        divide each weight's gradient by its own size, so that small ones count as much
        as large ones. Plain SGD at a rate that is far off. Jumps under Adam: a larger
        epsilon bounds what a small second moment makes of a gradient.

    When it never does:
        Where an adaptive optimizer is in use already. Networks that explode from the
        start: their growth is in the weights. Fading through time: the optimizer sees
        one sum over all time steps.

    What apply does:
        Makes the new optimizer over the same parameters, at a rate of 1e-3, or sets
        the epsilon. The model stays as it is; the old optimizer's memory is lost.

    Record:
        SGD changed for Adam at 1e-3 repaired 4 of 8 vanishing networks, 2 of 16
        exploding ones, and 4 of 4 whose rate was too high or too low. Rprop repaired 2
        of 36 vanishing networks, 5 of 6 whose rate was too high and 2 of 4 whose rate
        was too low. RMSprop and the epsilon were not counted.

    Risk:
        Safe for the model. It hides that lower layers see a distorted signal: the size
        of the gradient is cured, what it says is not.

    References:
        - Kingma & Ba (2015). Adam: a method for stochastic optimization.
          arXiv:1412.6980.
        - Tieleman & Hinton (2012). Lecture 6.5, RMSprop.
        - Riedmiller & Braun (1993). The RPROP algorithm.
    """

    name: ClassVar[str] = "change-optimizer"
    summary: ClassVar[str] = "Change SGD for Adam, RMSprop or Rprop; or Adam's epsilon."
    risk: ClassVar[Risk] = Risk.SAFE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return optimizers that fit the finding, or why none does."""
        optimizer = case.anatomy.optimizer
        if case.code in _NOT_AT_FAULT:
            yield self.reject(case, _NOT_AT_FAULT[case.code])
        elif optimizer is None:
            yield self.reject(case, "No optimizer was seen at work.")
        elif case.code == "GW204":
            yield self._epsilon(case, optimizer)
        elif is_adaptive(optimizer):
            yield self.reject(
                case,
                f"{optimizer.kind} is adaptive already: it divides each gradient by "
                "its own size.",
            )
        elif case.code == "GW101":
            yield from self._for_small_gradients(case, optimizer)
        else:
            yield from self._for_rates(case, optimizer)

    def _for_small_gradients(
        self, case: Case, optimizer: OptimizerFacts
    ) -> Iterable[Recommendation]:
        why = (
            f"{optimizer.kind} moves a weight in proportion to its gradient, so the "
            f"layers whose gradient fades ({some(case.finding.layers)}) stand still"
        )
        lost = _below_eps(case)
        caution = "The gradient still fades; only its size no longer counts."
        if lost:
            caution = (
                f"Adam's epsilon of 1e-8 swallows gradients as small as those of "
                f"{some(lost)}: it will hardly move them. {caution}"
            )
        yield self._to(
            case,
            "Adam",
            f"{why}; Adam divides by the size of past gradients.",
            "repaired 4 of 8 vanishing networks in our bench",
            caution,
        )
        yield self._to(
            case,
            "RMSprop",
            f"{why}; RMSprop divides by the size of past gradients.",
            "not counted in our bench",
            caution,
        )
        yield self._to(
            case,
            "Rprop",
            f"{why}; Rprop uses the sign alone.",
            "repaired 2 of 36 vanishing networks in our bench",
            "Only with the same full batch at every step: signs of small batches are "
            "noise.",
        )

    def _for_rates(
        self, case: Case, optimizer: OptimizerFacts
    ) -> Iterable[Recommendation | Rejection]:
        update = typical_update(case.history, case.structure)
        why = f"The rate of {code(optimizer.lr)} does not fit {optimizer.kind} here"
        if update is not None:
            why += (
                f": a step moves the median weight by {relative_step(update)}, where "
                f"{TARGET_RATIO:.1%} is usual"
            )
        high = case.code == "GW301"
        yield self._to(
            case,
            "Adam",
            f"{why}; Adam's step hardly depends on the size of the gradient.",
            f"repaired 2 of 2 networks whose rate was too {'high' if high else 'low'} "
            "in our bench",
            "",
        )
        yield self._to(
            case,
            "RMSprop",
            f"{why}; RMSprop's step hardly depends on the size of the gradient.",
            "not counted in our bench",
            "",
        )

    def _to(
        self, case: Case, kind: str, why: str, record: str, caution: str
    ) -> Recommendation:
        optimizer = case.anatomy.optimizer
        options: dict[str, Option] = {"to": kind, "lr": _RATE}
        decay = optimizer.weight_decay if optimizer is not None else 0.0
        extra = f", weight_decay={code(decay)}" if decay and kind != "Rprop" else ""
        lines = [
            f"optimizer = torch.optim.{kind}(model.parameters(), "
            f"lr={code(_RATE)}{extra})"
        ]
        if optimizer is not None:
            lines[0] += f"  # was {optimizer.kind}"
            if optimizer.num_groups > 1:
                lines.append(f"# keep your {optimizer.num_groups} parameter groups")
        return self.recommend(
            case,
            f"Change {optimizer.kind if optimizer else 'it'} for {kind} at "
            f"{code(_RATE)}",
            why,
            "\n".join(lines),
            options=options,
            caution=caution,
            source={"Adam": _KINGMA, "RMSprop": _HINTON}.get(kind, _RIEDMILLER),
            record=record,
        )

    def _epsilon(
        self, case: Case, optimizer: OptimizerFacts
    ) -> Recommendation | Rejection:
        """Return a larger epsilon for spikes under Adam."""
        if optimizer.kind not in WITH_EPS or optimizer.eps is None:
            return self.reject(
                case,
                f"{optimizer.kind} has no epsilon that a small second moment could "
                "need: clip instead.",
            )
        if optimizer.eps >= _EPS:
            return self.reject(
                case,
                f"The epsilon of {optimizer.kind} is {code(optimizer.eps)} already.",
            )
        line = optimizer_line(optimizer, eps=_EPS) or (
            "for group in optimizer.param_groups:\n"
            f'    group["eps"] = {code(_EPS)}  # was {code(optimizer.eps)}'
        )
        return self.recommend(
            case,
            f"Raise the epsilon of {optimizer.kind} from {code(optimizer.eps)} to "
            f"{code(_EPS)}",
            f"{optimizer.kind} divides by the size of past gradients; where they were "
            f"near its epsilon of {code(optimizer.eps)}, an ordinary gradient makes a "
            "jump.",
            line,
            options={"eps": _EPS},
            caution="Weights whose gradients are smaller than that learn slower.",
            source=_KINGMA,
            record="not counted in our bench",
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the optimizer with its rate, or the epsilon."""
        options = recommendation.options
        if "eps" in options:
            return Recipe(eps=float(options["eps"]))
        return Recipe(optimizer=str(options["to"]), lr=float(options["lr"]))


def _below_eps(case: Case, eps: float = 1e-8) -> tuple[str, ...]:
    """Return layers whose gradient entries are below Adam's epsilon."""
    latest = case.history.latest
    if latest is None:
        return ()
    return tuple(
        p.layer
        for p in weights(latest, case.structure)
        if p.grad_norm is not None and 0.0 < p.grad_norm < eps * p.numel**0.5
    )
