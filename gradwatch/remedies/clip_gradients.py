"""Clip the global gradient norm at a value that the run itself gives."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import ClassVar

from gradwatch.anatomy import Anatomy
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.training_facts import (
    MIN_NORMS,
    code,
    gradient_norms,
    is_adaptive,
    percentile,
)
from gradwatch.rules.pulse_spikes import spikes
from gradwatch.rules.wording import amount, joined, plural, some

#: Percentiles of the run's own norms, as share and name, and of 12 recurrent networks
#: that jump how many learned with that value (`benchmarks.clipping`; none without). The
#: 10th is AutoClip's best too.
_PERCENTILES = (
    (0.1, "10th percentile", 11),
    (0.5, "median", 7),
    (0.9, "90th percentile", 1),
)
_HIGH = 0.9
#: The usual value, and the only one that facts C counted.
_COMMON = 1.0
#: D from which an explosion stands behind clipping (where GW201 begins to note).
_EXPLODES = -2.0
_PASCANU = "Pascanu et al. (2012), arXiv:1211.5063, section 3.2"
_AUTOCLIP = "Seetharaman et al. (2020), AutoClip, arXiv:2007.14469"
_AT_START = (
    "The gradient grows along the depth at every step: clipping repaired 0 of 27 such "
    "networks in our bench."
)
_ENLARGE = "Clipping cannot enlarge a gradient"
_NOT_AT_FAULT = {
    "GW101": f"{_ENLARGE}: it repaired 0 of 36 vanishing networks in our bench.",
    "GW102": f"{_ENLARGE}, at no time step.",
    "GW103": "Dead units have no gradient that could be clipped.",
    "GW104": "Clipping does not bring saturated outputs back.",
    "GW105": f"{_ENLARGE}, and it does not touch the forward signal.",
    "GW106": f"{_ENLARGE}: zero stays zero.",
    "GW107": f"{_ENLARGE}: what float16 rounded to zero stays zero.",
    "GW108": "Equal gradients are clipped equally: units stay equal.",
    "GW201": _AT_START,
    "GW203": _AT_START.replace("gradient grows", "forward signal grows"),
    "GW302": f"{_ENLARGE}, nor a step.",
    "GW901": "What was not observed cannot be mended.",
}
#: Findings whose cause clipping hides.
_HIDDEN = ("GW201", "GW202", "GW203")


class ClipGradients(Remedy):
    """Clip the global gradient norm at a value that the run itself gives.

    When it applies:
        Gradient, loss or update jump now and then while most steps are of ordinary
        size; the gradient of a recurrent layer grows through time; a NaN came after
        such a jump. Where clipping already decides most steps: a value that leaves
        ordinary steps alone, with a rate that keeps their length.

    When it never does:
        Fading gradients: clipping cannot enlarge anything. Growth along the depth that
        is there from the first step on, because every step is then clipped and the
        upper layers get nothing. Where clipping hides such a growth, its cause is to
        be cured. A rate that is too large at every step.

    What apply does:
        Clips the global L2 norm before every optimizer step. The value is the 10th
        percentile of the run's own norms before clipping, their median, or their 90th
        percentile: what a run in trouble calls usual is too much already. Recurrent
        layers that explode: 1, or the median if that is smaller. Where clipping takes
        away too much: the 90th percentile, or the median.

    Record:
        Of 12 recurrent networks with jumps, SGD at rates of 0.05 to 0.2, none learned
        without, 11 with the 10th percentile of their own norms, 7 with the median, 1
        with the 90th percentile, 11 with a value of 1. It repaired 0 of 36 vanishing
        networks, 0 of 27 that explode along the depth, 0 of 3 that explode through
        time, and 1 of 6 whose rate was too high. With corrupted targets 9 of 9 runs
        ended in NaN without it; with it they stayed finite, but poor.

    Risk:
        Safe: the model is not touched. A value far below the median makes all steps
        equally long and hides what is wrong.

    References:
        - Pascanu et al. (2012). On the difficulty of training recurrent neural
          networks. arXiv:1211.5063.
        - Seetharaman et al. (2020). AutoClip: adaptive gradient clipping for source
          separation networks. arXiv:2007.14469 (its best percentile was the 10th).
    """

    name: ClassVar[str] = "clip-gradients"
    summary: ClassVar[str] = "Clip the gradient norm at a value from the run itself."
    risk: ClassVar[Risk] = Risk.SAFE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return clip values for spikes, or why clipping is no answer."""
        if case.code in _NOT_AT_FAULT:
            yield self.reject(case, _NOT_AT_FAULT[case.code])
        elif case.code == "GW202":
            yield self._through_time(case)
        elif case.code == "GW303":
            yield from self._looser(case)
        else:  # spikes; too large updates and NaN only with spikes
            yield from self._for_spikes(case)

    def _for_spikes(self, case: Case) -> Iterable[Recommendation | Rejection]:
        found = spikes(case.history, case.structure, case.settings)
        jumps = [spike for spike in found if spike.quantity != "applied update"]
        if case.code != "GW204" and not jumps:
            yield self.reject(
                case,
                "The steps are too large always, not now and then: clipping repaired "
                "1 of 6 networks whose rate was too high in our bench."
                if case.code == "GW301"
                else "No gradient and no loss jumped before it.",
            )
            return
        norms = gradient_norms(case.history)
        if len(norms) < MIN_NORMS:
            yield self.reject(
                case, f"Fewer than {MIN_NORMS} gradient norms are known to choose from."
            )
            return
        values = [percentile(norms, share) for share, _, _ in _PERCENTILES]
        clip = case.anatomy.grad_clip
        if clip is not None and clip <= values[0]:
            yield self.reject(
                case,
                f"Gradients are already clipped to {amount(clip)}, below the 10th "
                f"percentile of their norm, {amount(values[0])}.",
            )
            return
        low, middle, high = (amount(value) for value in values)
        why = (
            f"The norm before clipping is {middle} at the median step, {low} and "
            f"{high} at the 10th and 90th percentile and {amount(max(norms))} at most"
        )
        if jumps:
            stand = "stands" if len(jumps) == 1 else "stand"
            why += f"; {plural(len(jumps), 'jump')} {stand} out"
        for value, (_, name, learned) in zip(values, _PERCENTILES, strict=True):
            if clip is not None and clip <= value:
                continue
            yield self._at(
                case,
                value,
                f"the {name} of this run",
                f"{why}.",
                record=f"{learned} of 12 recurrent networks that jump under SGD "
                "learned with it, none without",
            )

    def _through_time(self, case: Case) -> Recommendation:
        norms = gradient_norms(case.history)
        value = min(_COMMON, median(norms)) if norms else _COMMON
        typical = f", {amount(median(norms))} at the median step" if norms else ""
        layers = some(case.finding.layers)
        return self._at(
            case,
            value,
            "the usual value" if value == _COMMON else "the median of this run",
            f"The gradient of {layers} grows on its way back through time{typical}; "
            "clipping bounds the step that it makes.",
            record="repaired 0 of 3 networks that explode through time in our bench",
            caution="It bounds the step and leaves the cause: the early time steps "
            "still drown the late ones.",
        )

    def _looser(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return a value that leaves ordinary steps alone, unless it hides more."""
        hidden = _hidden(case)
        if hidden:
            yield self.reject(
                case, f"Clipping hides {hidden}: cure that, and it has nothing to do."
            )
            return
        norms = gradient_norms(case.history)
        clip = case.anatomy.grad_clip or _clip_seen(case)
        if len(norms) < MIN_NORMS or clip is None:
            yield self.reject(case, "The norms before clipping are not known.")
            return
        middle, high = median(norms), percentile(norms, _HIGH)
        for label, value in (("90th percentile", high), ("median", middle)):
            factor = _rate_factor(case.anatomy, clip, middle)
            yield self._at(
                case,
                value,
                f"the {label} of this run",
                f"Steps are clipped to {amount(clip)}, but the norm before is "
                f"{amount(middle)} at the median step and {amount(high)} at the 90th "
                "percentile: every step has the same length, whatever the gradient.",
                record="not counted in our bench",
                factor=factor,
            )

    def _at(
        self,
        case: Case,
        value: float,
        origin: str,
        why: str,
        *,
        record: str,
        caution: str = "",
        factor: float = 1.0,
    ) -> Recommendation:
        """Return the recommendation of one clip value."""
        options: dict[str, Option] = {"max_norm": value}
        title = f"Clip the gradient norm at {amount(value)}, {origin}"
        lines = [
            "# between loss.backward() and optimizer.step();",
            "# with a GradScaler after scaler.unscale_(optimizer)",
            "torch.nn.utils.clip_grad_norm_(model.parameters(), "
            f"max_norm={code(value)})",
        ]
        if factor != 1.0:
            options["factor"] = factor
            title += f", with {amount(factor)} of the learning rate"
            lines += [
                "# so that an ordinary step keeps its length",
                "for group in optimizer.param_groups:",
                f'    group["lr"] *= {code(factor)}',
            ]
        optimizer = case.anatomy.optimizer
        notes = [caution] if caution else []
        if optimizer is not None and is_adaptive(optimizer) and case.code != "GW303":
            notes.append(
                f"{optimizer.kind} divides by the size of past gradients: clipping "
                "keeps a jump out of that memory, but hardly changes ordinary steps."
            )
        return self.recommend(
            case,
            title,
            why,
            "\n".join(lines),
            options=options,
            caution=" ".join(notes),
            source=f"{_PASCANU}; {_AUTOCLIP}",
            record=record,
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the clip value, and the rate that goes with it."""
        options = recommendation.options
        return Recipe(
            max_grad_norm=float(options["max_norm"]),
            lr_factor=float(options.get("factor", 1.0)),
        )


def _hidden(case: Case) -> str:
    """Return what stands behind clipping, in words; empty if nothing was seen."""
    found = [f"{f.code} {f.name}" for f in case.findings if f.code in _HIDDEN]
    if found:
        return joined(found)
    latest = case.history.latest
    chains = latest.chains if latest is not None else ()
    grown = [d for chain in chains if (d := chain.decades()) is not None]
    if grown and min(grown) <= _EXPLODES:
        return f"a gradient that grows {-min(grown):.1f} decades along the depth"
    return ""


def _clip_seen(case: Case) -> float | None:
    """Return the median norm after clipping of the steps that were clipped."""
    after = [
        pulse.step_grad_norm
        for pulse in case.history.pulses
        if pulse.step_grad_norm is not None and (pulse.clip_factor or 1.0) < 1.0
    ]
    return median(after) if after else None


def _rate_factor(anatomy: Anatomy, clip: float, middle: float) -> float:
    """Return the factor that keeps the length of a median step, clipped no more."""
    if anatomy.optimizer is not None and is_adaptive(anatomy.optimizer):
        return 1.0  # its steps do not grow with the gradient
    return clip / middle
