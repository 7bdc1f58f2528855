"""Bring units back that are never active."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from gradwatch.anatomy import WeightFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.activations import ACTIVATIONS
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.initialisers import HE
from gradwatch.remedies.measured import record
from gradwatch.remedies.redrawing import redraw
from gradwatch.remedies.scope import (
    MAX_BIAS,
    against_target,
    hidden_weights,
    log10_too_small,
    swappable_sites,
)
from gradwatch.remedies.snippets import drawn, swapped
from gradwatch.rules.wording import amount, plural, some
from gradwatch.treatment import ModelEditor

#: Learning rate after units died in training, over the one before: a hundredth repaired
#: 2 of 5 dead networks by itself (facts C).
_LR_FACTOR = 0.01
#: Factor by which a layer's weights must be off to be drawn anew with the dead ones.
_OFF = 2.0
#: Last step at which units count as dead from the start: the third probe.
_AT_START = 2
_LEAKY = ACTIVATIONS["leaky_relu"]


class ReviveUnits(Remedy):
    """Draw dead ReLU layers anew, and keep them from dying again.

    When it applies:
        Most units of a ReLU layer are never active. Dead from the start: the weights
        and biases are at fault. Dead since some later step: the learning rate is, and
        it is lowered as well.

    When it never does:
        Activations other than ReLU are not dead but saturated. A lower learning rate
        alone does not bring dead units back: they get no gradient.

    What apply does:
        Draws the weights of the dead layers from He's initialiser and sets their biases
        to 0, and those of other ReLU layers whose weights are off by more than 2 times
        or whose biases are large; `leaky` also exchanges their ReLUs for LeakyReLUs.
        With `lr_factor` the learning rate is a hundredth of what it was.

    Record:
        Of 5 dead networks, He weights repaired 3 (those dead from the start), a
        hundredth of the learning rate by itself 2; He weights by themselves none of
        the 2 that died in training.

    Risk:
        Reinitialises: what the layers had learned is lost.

    References:
        - Lu et al. (2019). Dying ReLU and initialization. arXiv:1903.06733.
        - He et al. (2015). Delving deep into rectifiers. arXiv:1502.01852.
        - Maas et al. (2013). Rectifier nonlinearities improve neural network acoustic
          models.
    """

    name: ClassVar[str] = "revive-units"
    summary: ClassVar[str] = (
        "Draw dead ReLU layers anew, with LeakyReLU or a lower learning rate."
    )
    risk: ClassVar[Risk] = Risk.REINITIALISES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the variants, by when the units died, or why there is none."""
        dead = [f for f in (case.finding, *case.findings) if f.code == "GW103"]
        if not dead:
            yield self.reject(case, "No layer's units are dead.")
            return
        layers = _to_draw(case, {*dead[0].layers, *dead[0].affected})
        if not layers:
            yield self.reject(
                case,
                f"No ReLU follows {some(dead[0].layers)}: such units do not die.",
            )
            return
        since = dead[0].since_step
        if since > _AT_START:
            yield self._variant(case, layers, since, leaky=False, lower=True)
            yield self._variant(case, layers, since, leaky=True, lower=True)
            return
        yield self._variant(case, layers, since, leaky=False, lower=False)
        yield self._variant(case, layers, since, leaky=True, lower=False)
        if since > 0:  # a step was taken before
            yield self._variant(case, layers, since, leaky=False, lower=True)

    def _variant(
        self,
        case: Case,
        layers: Sequence[WeightFacts],
        since: int,
        *,
        leaky: bool,
        lower: bool,
    ) -> Recommendation:
        chosen = [facts.layer for facts in layers]
        free = {site.layer for site in swappable_sites(case.anatomy)}
        sites = [
            site
            for site in case.anatomy.sites
            if site.layer in chosen and (not leaky or site.layer in free)
        ]
        init = _LEAKY.initialiser if leaky else HE
        parts = [swapped(sites, _LEAKY)] if leaky and sites else []
        parts.append(drawn(dict.fromkeys(chosen, init)))
        options: dict[str, Option] = {"to": "leaky_relu" if leaky else "relu"}
        title = f"Draw {plural(len(layers), 'dead layer')} anew"
        title += ", with LeakyReLU" if leaky else ", He, biases 0"
        why = f"{against_target(layers, init, 'LeakyReLU' if leaky else 'ReLU')}. "
        worst = min(layers, key=lambda facts: facts.bias_mean or 0.0)
        bias = worst.bias_mean or 0.0
        if bias < -MAX_BIAS:
            why += f"The bias of {worst.layer} has mean {amount(bias, 2)}. "
        why += (
            f"The units died by step {since}, so the learning rate killed them: it "
            "would again."
            if lower
            else "A unit whose input is never positive gets no gradient and stays dead."
        )
        if lower:
            options["lr_factor"] = _LR_FACTOR
            optimizer = case.anatomy.optimizer
            rate = (
                f" {amount(optimizer.lr)} -> {amount(optimizer.lr * _LR_FACTOR)}"
                if optimizer is not None
                else f" times {_LR_FACTOR}"
            )
            title += f"; learning rate{rate}"
            parts.append(
                f'for group in optimizer.param_groups:\n    group["lr"] *= {_LR_FACTOR}'
            )
        return self.recommend(
            case,
            title,
            why,
            "\n".join(parts),
            layers=chosen,
            sites=sites,
            options=options,
            source="Lu et al. (2019), Dying ReLU and initialization, arXiv:1903.06733",
            record=_record(leaky=leaky, lower=lower),
            caution="A schedule that raises the learning rate again would kill them "
            "again."
            if lower
            else "If the learning rate killed the units, they will die again.",
            where=next((site.where for site in sites if site.where), "") * leaky,
        )

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Exchange the ReLUs if asked, and draw the layers."""
        leaky = recommendation.options["to"] == "leaky_relu"
        if leaky:
            for site in recommendation.sites:
                editor.swap_activation(site, _LEAKY.make)
        for layer in recommendation.layers:
            redraw(editor, layer, _LEAKY.initialiser if leaky else HE)

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the lower learning rate, if it is part of the variant."""
        return Recipe(lr_factor=float(recommendation.options.get("lr_factor", 1.0)))


def _record(*, leaky: bool, lower: bool) -> str:
    if lower:
        return (
            "not counted together; a hundredth of the rate alone repaired 2 of 5 dead "
            "networks in our bench"
        )
    return "not counted by itself in our bench" if leaky else record("relu+he", "GW103")


def _to_draw(case: Case, dead: set[str]) -> list[WeightFacts]:
    """Return the dead ReLU layers, and those that are as badly off."""
    relus = [f for f in hidden_weights(case.anatomy) if f.activation == "relu"]
    if not any(facts.layer in dead for facts in relus):
        return []
    return [
        facts
        for facts in relus
        if facts.layer in dead
        or abs(facts.bias_mean or 0.0) > MAX_BIAS
        or abs(log10_too_small([(facts, HE)])[0]) > math.log10(_OFF)
    ]
