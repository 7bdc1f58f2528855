"""The trials of a sick run's best offers, as a user would run them, and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.faults.setups import SetUp
from gradwatch.recommendations import Recommendation


@dataclass(frozen=True, slots=True)
class Tried:
    """What the trials said.

    Attributes:
        order: Keys of the treatments, best first.
        helped: Whether any trial said HELPED.
        said: Verdict of the best one, in words.
        decades_after: D of the treated copy by key; None where not finite or not known.
        runs: Cost in multiples of one training run of the set-up.
        seconds: Wall time.
    """

    order: tuple[str, ...]
    helped: bool
    said: str
    decades_after: Mapping[str, float | None] = field(default_factory=dict)
    runs: float = 0.0
    seconds: float = 0.0


def try_offers(setup: SetUp, seed: int, offers: Sequence[Recommendation]) -> Tried:
    """Try the best offers on a fresh network of a set-up."""
    raise NotImplementedError
