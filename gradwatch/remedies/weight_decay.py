"""Hold weights that grow while they are trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from gradwatch.anatomy import OptimizerFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.training_facts import (
    code,
    optimizer_line,
    rate_in_use,
    weight_growth,
)
from gradwatch.rules.wording import amount

#: Growth of the median weight from which it counts as growing (chosen).
_GROWN = 1.5
#: Range of values that people use (chosen): 1e-4 to 5e-4 with SGD, 0.01 to 0.1 with
#: AdamW.
_LEAST, _MOST = 1e-5, 0.1
#: D of the first probe from which a network explodes from its start (GW201's note).
_AT_START = -2.0
_CODES = frozenset({"GW201", "GW202", "GW203", "GW205"})
_FADING = frozenset({"GW101", "GW102", "GW105"})
#: Share of the growth that the decay must balance to be worth a word (chosen).
_ENOUGH = 0.5
_SOURCE = "Krogh & Hertz (1991), A simple weight decay can improve generalization; "
_SOURCE += "Loshchilov & Hutter (2019), arXiv:1711.05101"


class WeightDecay(Remedy):
    """Hold weights that grow while they are trained.

    When it applies:
        The gradient or the signal grows, and the median weight is at least 1.5 times
        as large as at the first probe.

    When it never does:
        Networks that explode from their first step: decay takes a ten-thousandth of a
        weight a step and comes too late. Fading gradients: smaller weights make them
        fade more. Growth so fast that a decay of 0.1 would take less than half of it.

    What apply does:
        Sets the weight decay of every parameter group to what balances the measured
        growth: rate times decay is what a step takes off each weight. Adam becomes
        AdamW, which keeps the decay apart from the gradient's size.

    Record:
        Not counted in our bench: regularisation acts too late for the explosions that
        were tried, all of which were there within a few steps.

    Risk:
        Safe: nothing learned is lost at once; too large a decay shrinks what was
        learned.

    References:
        - Krogh & Hertz (1991). A simple weight decay can improve generalization.
        - Loshchilov & Hutter (2019). Decoupled weight decay regularization.
          arXiv:1711.05101.
    """

    name: ClassVar[str] = "weight-decay"
    summary: ClassVar[str] = (
        "Weight decay that balances the measured growth of weights."
    )
    risk: ClassVar[Risk] = Risk.SAFE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the decay that balances the growth, or why there is none."""
        if case.code not in _CODES:
            reason = "It is not the weights that grow here."
            if case.code in _FADING:
                reason = "Smaller weights pass on even less of a gradient."
            yield self.reject(case, reason)
            return
        first, latest = case.history.first_probe, case.history.latest
        growth = weight_growth(case.history, case.structure)
        if first is None or latest is None or growth is None:
            yield self.reject(case, "The weights were not measured at two probes.")
            return
        decades = [d for chain in first.chains if (d := chain.decades()) is not None]
        if decades and min(decades) <= _AT_START:
            yield self.reject(
                case,
                f"The gradient grew {-min(decades):.1f} decades along the depth before "
                "the first step: decay acts too late.",
            )
            return
        if growth < _GROWN:
            yield self.reject(
                case,
                f"The median weight is {amount(growth)} times what it was at the "
                "first probe: it is not the weights that grow.",
            )
            return
        steps = latest.step - first.step
        yield self._balance(case, growth, steps)

    def _balance(
        self, case: Case, growth: float, steps: int
    ) -> Recommendation | Rejection:
        rate = rate_in_use(case.anatomy, case.history)
        optimizer = case.anatomy.optimizer
        if rate is None or not math.isfinite(growth):
            return self.reject(
                case,
                "The learning rate is not known."
                if rate is None
                else "The weights are no longer finite: decay comes too late.",
            )
        a_step = math.log(growth) / steps
        value = float(f"{min(_MOST, max(_LEAST, a_step / rate)):.2g}")
        now = optimizer.weight_decay if optimizer is not None else 0.0
        if now >= value:
            return self.reject(
                case, f"A weight decay of {code(now)} is in use and does not hold them."
            )
        options: dict[str, Option] = {"weight_decay": value}
        if optimizer is not None and optimizer.kind == "Adam":
            options |= {"to": "AdamW", "lr": optimizer.lr}
        if value * rate < _ENOUGH * a_step:
            return self.reject(
                case,
                f"The median weight grows by {a_step:.2g} a step, of which a decay of "
                f"{code(value)} would take {value * rate:.2g}: too late.",
            )
        return self.recommend(
            case,
            f"Set the weight decay to {code(value)}",
            f"The median weight has grown {amount(growth)} times in {steps} steps, "
            f"{a_step:.2g} a step. A decay of {code(value)} takes {value * rate:.2g} a "
            f"step at the rate of {code(rate)}.",
            _code(optimizer, value),
            options=options,
            caution="It acts slowly: what makes the weights grow is more often the "
            "learning rate or the initialisation.",
            source=_SOURCE,
            record="not counted in our bench; too late for explosions at the start",
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the decay, and AdamW where it takes Adam's place."""
        options = recommendation.options
        return Recipe(
            weight_decay=float(options["weight_decay"]),
            optimizer=str(options.get("to", "")),
            lr=float(options["lr"]) if "lr" in options else None,
        )


def _code(optimizer: OptimizerFacts | None, value: float) -> str:
    line = None
    if optimizer is not None:
        line = optimizer_line(optimizer, weight_decay=value)
    if line is None:
        return (
            "for group in optimizer.param_groups:\n"
            f'    group["weight_decay"] = {code(value)}'
        )
    return line.replace("torch.optim.Adam(", "torch.optim.AdamW(")
