"""Multiply the learning rate, or let it rise slowly at the start."""

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
    growth_in_words,
    is_adaptive,
    largest_update,
    optimizer_line,
    rate_in_use,
    typical_update,
    weight_growth,
)
from gradwatch.rules.pulse_spikes import spikes
from gradwatch.rules.update_too_large import TARGET_RATIO
from gradwatch.rules.wording import amount, plural, relative_step, some
from gradwatch.situations import Situation, situation

#: Largest factor either way (chosen): a ratio further off than that has another cause.
_MOST = 1e5
#: Ends of healthy update ratios (facts B3).
_SMALL, _HEALTHY = 1e-4, 0.03
#: Warm-up: a tenth of the steps seen, at least 100 (chosen) and at most 2,000, which is
#: 2 / (1 - beta2) for Adam's beta2 of 0.999 (Ma & Yarats 2019, section 5).
_WARMUP_SHARE, _LEAST_WARMUP, _MOST_WARMUP = 0.1, 100, 2000
#: What facts C tried where units died in training.
_DEAD_FACTOR = 0.01
_KARPATHY = "Karpathy, CS231n, notes on babysitting the learning process"
_XIONG = "Xiong et al. (2020), On layer normalization in the transformer architecture"
_XIONG += ", arXiv:2002.04745"
_NOT_AT_FAULT = {
    "GW101": (
        "A learning rate multiplies all layers alike: ten times the rate repaired 4 of "
        "36 vanishing networks in our bench."
    ),
    "GW102": "A learning rate multiplies all time steps alike.",
    "GW105": "No step size makes outputs depend on inputs again.",
    "GW106": "What no gradient or no optimizer reaches has no use for a rate.",
    "GW107": "A rate does not bring back what float16 rounded to zero.",
    "GW108": "Units that are equal stay equal at any rate.",
    "GW201": (
        "The growth is in the weights: a rate set by the update ratio repaired 0 of 21 "
        "exploding networks in our bench, a tenth of the rate 0 of 27."
    ),
    "GW202": "The growth through time is in the recurrent weights, not in the steps.",
    "GW203": "The forward signal grows before any step is taken.",
    "GW303": "The clip value sets the length of the steps: change that first.",
    "GW901": "What was not observed cannot be mended.",
}


class AdjustLearningRate(Remedy):
    """Multiply the learning rate by what the measured updates ask for.

    When it applies:
        The applied update of the median layer is far from 1e-3 of its weight: the rate
        is multiplied by 1e-3 over the measured ratio. Gradient or loss jump: half the
        rate. Units died in training: a hundredth. Transformers that normalise after
        the sum, trained with an adaptive optimizer: a warm-up; where their updates are
        too large as well, a warm-up to the lower rate.

    When it never does:
        A gradient that fades or grows along the depth or through time: the rate
        multiplies all layers alike. Units that were dead before the first step. A NaN
        that came while the updates were of ordinary size.

    What apply does:
        Multiplies the learning rate of every parameter group, or lets it rise linearly
        over the first steps. The model stays as it is.

    Record:
        1e-3 over the measured ratio repaired 5 of 5 networks whose rate was too high
        and 4 of 4 whose rate was too low, 0 of 21 exploding ones. A tenth or a
        hundredth of the rate repaired 4 of 6 too high ones; a hundredth 2 of 5 dead
        ones; ten times the rate 4 of 36 vanishing ones. Of 3 transformers a lower rate
        repaired 3, warm-up with clipping 2. Warm-up to the same rate repaired 1 of 6
        networks whose rate was too high.

    Risk:
        Safe: nothing is lost. What too large steps have already spoilt does not come
        back: then training must start again.

    References:
        - Karpathy, A. CS231n, notes on babysitting the learning process.
        - Xiong et al. (2020). On layer normalization in the transformer architecture.
          arXiv:2002.04745.
        - Ma & Yarats (2019). On the adequacy of untuned warmup for adaptive
          optimization. arXiv:1910.04209.
    """

    name: ClassVar[str] = "adjust-learning-rate"
    summary: ClassVar[str] = "Multiply the learning rate, or let it warm up."
    risk: ClassVar[Risk] = Risk.SAFE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the factors that fit the finding, or why the rate is not at fault."""
        if case.code in _NOT_AT_FAULT:
            yield self.reject(case, _NOT_AT_FAULT[case.code])
        elif case.code in {"GW301", "GW302"}:
            yield from self._by_ratio(case)
        elif case.code == "GW204":
            yield from self._for_spikes(case)
        elif case.code == "GW103":
            yield from self._for_dead_units(case)
        else:  # saturated, non-finite: only where the updates were too large before
            yield from self._if_too_large(case)

    def _by_ratio(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return lr * 1e-3 / u, and a warm-up where the network asks for one."""
        ratio = _judged_ratio(case)
        if ratio is None or not math.isfinite(ratio) or ratio <= 0.0:
            yield self.reject(case, "No applied update was measured.")
            return
        if _SMALL <= ratio <= _HEALTHY:
            yield self.reject(
                case,
                f"A step changes the median weight by {relative_step(ratio)}, which is "
                "usual (0.01% to 3%).",
            )
            return
        factor = _bounded(TARGET_RATIO / ratio)
        yield self._factor(
            case,
            factor,
            f"A step changes the median weight by {relative_step(ratio)}; healthy "
            "training centres on 0.1%",
            "repaired 5 of 5 networks whose rate was too high and 4 of 4 whose rate "
            "was too low in our bench",
            _KARPATHY,
        )
        if case.code == "GW301":
            # By itself it only puts off the rate that is too high.
            yield from self._warmup(case, factor)

    def _for_spikes(self, case: Case) -> Iterable[Recommendation | Rejection]:
        found = spikes(case.history, case.structure, case.settings)
        what = f"{plural(len(found), 'sudden jump')} in this run"
        yield from self._warmup(case)
        yield self._factor(
            case,
            0.5,
            f"{what}: steps of this size leave the region in which the gradient is "
            "right",
            "not counted alone; for clipping, the first choice, see clip-gradients",
            _KARPATHY,
        )

    def _for_dead_units(self, case: Case) -> Iterable[Recommendation | Rejection]:
        where = situation(case.finding, case.structure, case.anatomy)
        ratio = largest_update(case.history, case.structure)
        large = ratio is not None and ratio >= case.settings.max_update_ratio
        if where is Situation.DEAD_AT_START and not large:
            yield self.reject(
                case, "The units were dead from the start: no step has killed them."
            )
            return
        why = f"The units were alive until about step {case.finding.since_step}"
        if ratio is not None:
            why += f", and a step moved the median weight by {relative_step(ratio)}"
        yield self._factor(
            case,
            _DEAD_FACTOR,
            f"{why}: steps that large push units below zero for good",
            "a hundredth of the rate repaired 2 of 5 dead networks in our bench, a "
            "tenth none",
            "Lu et al. (2019), Dying ReLU and initialization, arXiv:1903.06733",
            "Dead units have no gradient: they come back only with new weights "
            "(revive-units), so begin with those.",
        )

    def _if_too_large(self, case: Case) -> Iterable[Recommendation | Rejection]:
        ratio = largest_update(case.history, case.structure)
        if ratio is None:
            yield self.reject(case, "No applied update was measured before it.")
        elif ratio <= _HEALTHY:
            yield self.reject(
                case,
                f"No step moved the median weight by more than {relative_step(ratio)}: "
                "the rate is not at fault.",
            )
        else:
            yield self._factor(
                case,
                _bounded(TARGET_RATIO / ratio),
                "Before it, a step changed the median weight by "
                f"{relative_step(ratio)}; healthy training centres on 0.1%",
                "repaired 5 of 5 networks whose rate was too high in our bench; not "
                "counted on this sickness",
                _KARPATHY,
            )

    def _factor(
        self,
        case: Case,
        factor: float,
        why: str,
        record: str,
        source: str,
        caution: str = "",
    ) -> Recommendation:
        """Return the recommendation to multiply the rate by a factor."""
        rate = rate_in_use(case.anatomy, case.history)
        title = f"Multiply the learning rate by {amount(factor)}"
        if rate is not None:
            verb = "Raise" if factor > 1.0 else "Lower"
            title = (
                f"{verb} the learning rate from {code(rate)} to {code(rate * factor)}"
            )
        grown = growth_in_words(weight_growth(case.history, case.structure))
        return self.recommend(
            case,
            title,
            f"{why}.",
            _factor_code(case, factor, rate),
            options={"factor": factor},
            caution=" ".join(part for part in (grown, caution) if part),
            source=source,
            record=record,
        )

    def _warmup(self, case: Case, factor: float = 1.0) -> Iterable[Recommendation]:
        """Return a warm-up for post-norm transformers under an adaptive optimizer."""
        names = case.anatomy.norm_first
        optimizer = case.anatomy.optimizer
        if not names or optimizer is None or not is_adaptive(optimizer):
            return
        steps = warmup_steps(case.history.last_step)
        options: dict[str, Option] = {"warmup_steps": steps}
        title = f"Let the learning rate rise over the first {amount(steps)} steps"
        lines = _warmup_code(steps, optimizer)
        if factor != 1.0:
            options["factor"] = factor
            rate = rate_in_use(case.anatomy, case.history)
            title += f", to {amount(factor)} of what it is"
            lines = f"{_factor_code(case, factor, rate)}\n{lines}"
        yield self.recommend(
            case,
            title,
            f"{plural(len(names), 'transformer layer')} ({some(names)}) normalise "
            "after the sum, where the upper layers have large gradients at the start, "
            f"and {optimizer.kind} takes its full step from the first one on.",
            lines,
            options=options,
            caution="Training must start again for the first steps to be small.",
            source=f"{_XIONG}; Ma & Yarats (2019), arXiv:1910.04209",
            record=(
                "with clipping repaired 2 of 3 transformers in our bench, a lower rate "
                "3 of 3"
            ),
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the factor or the warm-up."""
        options = recommendation.options
        return Recipe(
            lr_factor=float(options.get("factor", 1.0)),
            warmup_steps=int(options.get("warmup_steps", 0)),
        )


def warmup_steps(last_step: int) -> int:
    """Return the steps of a warm-up after so many steps of training seen."""
    share = round(_WARMUP_SHARE * max(0, last_step))
    return min(_MOST_WARMUP, max(_LEAST_WARMUP, share))


def _judged_ratio(case: Case) -> float | None:
    """Return the update ratio that the finding was made of, else the newest."""
    for evidence in case.finding.evidence:
        # After weights have blown up the newest ratio is small: the judged one counts.
        if evidence.quantity == "median update ratio":
            return evidence.value
    return typical_update(case.history, case.structure)


def _bounded(factor: float) -> float:
    return min(_MOST, max(1.0 / _MOST, factor))


def _factor_code(case: Case, factor: float, rate: float | None) -> str:
    optimizer = case.anatomy.optimizer
    if optimizer is not None and optimizer.lr:
        line = optimizer_line(optimizer, lr=optimizer.lr * factor)
        if line is not None:
            return f"{line}  # lr was {code(optimizer.lr)}"
    was = "" if rate is None else f"  # {code(rate)} -> {code(rate * factor)}"
    return "\n".join(
        [
            "# before a scheduler is made: it remembers the rate",
            "for group in optimizer.param_groups:",
            f'    group["lr"] *= {code(factor)}{was}',
        ]
    )


def _warmup_code(steps: int, optimizer: OptimizerFacts) -> str:
    return "\n".join(
        [
            f"# after the {optimizer.kind} is made",
            "warmup = torch.optim.lr_scheduler.LinearLR(",
            f"    optimizer, start_factor=1 / {steps}, total_iters={steps}",
            ")",
            "# after every optimizer.step()",
            "warmup.step()",
        ]
    )
