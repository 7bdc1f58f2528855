"""The trials of a sick run's best offers, as a user would run them, and their cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import gradwatch
from benchmarks.faults.setups import SetUp
from benchmarks.faults.training import train
from benchmarks.repair.keys import key_of
from gradwatch import Verdict

#: Steps that a trial trains each copy: the default of `Watch.trial`.
STEPS = 100
#: Wall time for all copies of one trial; no set-up of the bench comes near.
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Tried:
    """What the trials said.

    Attributes:
        order: Keys of the recommendations, best first, as the trials ranked them.
        helped: Whether any trial said HELPED.
        said: What was said of the first, in words.
        verdicts: Verdict by key.
        decades_after: D of the treated copy by key; None where it could not be said.
        finite_after: Whether the treated copy was finite in the replay, by key.
        runs: Training steps of all copies, in multiples of one run of the set-up.
        seconds: Wall time of the trials over that of the sick run.
    """

    order: tuple[str, ...]
    helped: bool
    said: str
    verdicts: Mapping[str, str] = field(default_factory=dict)
    decades_after: Mapping[str, float | None] = field(default_factory=dict)
    finite_after: Mapping[str, bool] = field(default_factory=dict)
    runs: float = 0.0
    seconds: float = 0.0


def try_offers(setup: SetUp, seed: int) -> Tried:
    """Train a set-up under a watch, then let the watch try what it recommends."""
    run = setup.build(seed)
    steps = STEPS
    began = time.perf_counter()
    with gradwatch.watch(run.model, console=None) as watcher:
        train(run, setup.steps)
        took = time.perf_counter() - began
        offers = watcher.report().recommendations
        if not any(offer.can_apply for offer in offers):
            return Tried((), False, "nothing")
        began = time.perf_counter()
        ranked = watcher.trial(
            batches=[run.batches(step) for step in range(steps)],
            loss_fn=run.loss_fn,
            steps=steps,
            limit_s=LIMIT_S,
            progress=False,
        )
        seconds = time.perf_counter() - began
    tried = [offer for offer in ranked if offer.trial is not None]
    results = {key_of(offer): offer.trial for offer in tried if offer.trial}
    profiles = {key: result.after for key, result in results.items()}
    # One control for all, and what was tried together is a copy more.
    trained = sum(len(result.losses_after) for result in results.values())
    trained += max(
        (len(result.losses_before) for result in results.values()), default=0
    )
    first = ranked[0].trial if ranked else None
    return Tried(
        order=tuple(key_of(offer) for offer in ranked if offer.can_apply),
        helped=any(r.verdict is Verdict.HELPED for r in results.values()),
        said="nothing" if first is None else first.verdict.value,
        verdicts={key: result.verdict.value for key, result in results.items()},
        decades_after={
            k: None if p is None else p.decades for k, p in profiles.items()
        },
        finite_after={k: p is not None and p.finite for k, p in profiles.items()},
        runs=trained / setup.steps,
        seconds=seconds / took,
    )
