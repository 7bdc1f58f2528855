"""What others would try, in their order: folk wisdom, AUTOTRAINER, and chance."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from gradwatch.recommendations import Option, Recommendation

#: (remedy, options that must agree); the first of the menu that fits is meant.
Wish = tuple[str, Mapping[str, Option]]

#: What forums say whatever the sickness is.
FOLK: tuple[Wish, ...] = (
    ("swap-activation", {"to": "relu", "init": "keep"}),
    ("add-normalisation", {"norm": "batch"}),
    ("clip-gradients", {}),
)
_SELU: Wish = ("swap-activation", {"to": "selu"})
_RELU: Wish = ("swap-activation", {"to": "relu"})
_TANH: Wish = ("swap-activation", {"to": "tanh"})
_LEAKY: Wish = ("swap-activation", {"to": "leaky_relu"})
_NORM: Wish = ("add-normalisation", {"norm": "batch"})
_INIT: Wish = ("initialise-weights", {})
_CLIP: Wish = ("clip-gradients", {})
_ADAM: Wish = ("change-optimizer", {"to": "Adam"})
_RATE: Wish = ("adjust-learning-rate", {})
#: AUTOTRAINER's repair order by symptom (Zhang et al. 2021, ICSE; facts B4), given the
#: symptom that gradwatch found: its own detector is compared in `benchmarks.faults`.
AUTOTRAINER: Mapping[str, tuple[Wish, ...]] = {
    "vanishing": (_SELU, _RELU, _NORM),
    "exploding": (_SELU, _RELU, _CLIP, _TANH, _NORM),
    "dead": (_SELU, _NORM, _INIT, _LEAKY),
    "oscillating": (_ADAM, _RATE, _INIT),
    "slow": (_ADAM, _RATE, _INIT),
}
_SYMPTOM = {
    "GW101": "vanishing",
    "GW102": "vanishing",
    "GW104": "vanishing",
    "GW105": "vanishing",
    "GW201": "exploding",
    "GW202": "exploding",
    "GW203": "exploding",
    "GW205": "exploding",
    "GW103": "dead",
    "GW204": "oscillating",
    "GW301": "oscillating",
    "GW303": "oscillating",
}


def folk(menu: Sequence[Recommendation]) -> list[Recommendation]:
    """Return ReLU, batch norm, clipping, as far as the menu has them."""
    return _grant(FOLK, menu)


def autotrainer(
    alarms: Sequence[str], menu: Sequence[Recommendation]
) -> list[Recommendation]:
    """Return AUTOTRAINER's order for the first alarm."""
    symptom = _SYMPTOM.get(alarms[0], "slow") if alarms else "slow"
    return _grant(AUTOTRAINER[symptom], menu)


def chance(name: str, menu: Sequence[Recommendation]) -> list[Recommendation]:
    """Return the menu in a random order, the same for the same set-up."""
    order = list(menu)
    random.Random(f"repair {name}").shuffle(order)
    return order


def _grant(
    wishes: Sequence[Wish], menu: Sequence[Recommendation]
) -> list[Recommendation]:
    granted: list[Recommendation] = []
    for remedy, options in wishes:
        for offer in menu:
            fits = all(offer.options.get(k) == v for k, v in options.items())
            if offer.remedy == remedy and fits and offer not in granted:
                granted.append(offer)
                break
    return granted
