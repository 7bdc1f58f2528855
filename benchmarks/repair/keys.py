"""What makes two treatments the same."""

from __future__ import annotations

import json
from collections.abc import Iterable

from gradwatch.recommendations import Recommendation


def key_of(recommendation: Recommendation) -> str:
    """Return remedy, options and layers as one text.

    Numbers keep three digits: the same remedy, asked twice, may read a value that was
    measured in another run.
    """
    options = [
        [name, f"{value:.3g}" if isinstance(value, float) else value]
        for name, value in sorted(recommendation.options.items())
    ]
    return json.dumps([recommendation.remedy, options, list(recommendation.layers)])


def distinct(offers: Iterable[Recommendation]) -> tuple[Recommendation, ...]:
    """Return the treatments that code can apply, each once, in order."""
    by_key: dict[str, Recommendation] = {}
    for offer in offers:
        if offer.can_apply:
            by_key.setdefault(key_of(offer), offer)
    return tuple(by_key.values())
