"""Score the recommendations by outcome on fresh seeds of the fault bench.

    python -m benchmarks.repair.run --jobs 2                    # families tuned on
    python -m benchmarks.repair.run --families mlp --no-trials
    python -m benchmarks.repair.run --all --jobs 2 --write docs/repair-table.md

Stages, each cached: `watch` (one watched run a set-up), `menu` (every treatment of the
menu trained on a fresh network of the same seed, same steps, same data order), `trial`
(what `gradwatch.trial` measured of the best offers, and what it cost).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Hashable
from pathlib import Path

from benchmarks.faults import labels
from benchmarks.faults.catalogue import FAMILIES, HELD_OUT_FAMILIES, SETUPS
from benchmarks.faults.setups import SetUp
from benchmarks.repair import menu, store, tables, trying
from benchmarks.repair.keys import key_of
from benchmarks.repair.treating import end_of
from gradwatch.recommendations import Recommendation

#: Not among the seeds that the labels were made with.
FRESH_SEEDS = (3,)
_PACKAGE = store.ROOT / "gradwatch"
_FAULTS = store.ROOT / "benchmarks" / "faults"
_TRYING = ("trials", "ab_training", "replay", "verdicts", "trial_arm", "session")
_APPLYING = ("treatment", "rewiring", "training_edits", "prescription", "recipe")


def _watch(name: str, seed: int) -> menu.Seen:
    return menu.watch(_setup(name), seed)


def _end(name: str, seed: int, offer: Recommendation | None) -> object:
    return end_of(_setup(name), seed, () if offer is None else (offer,))


def _trial(name: str, seed: int) -> trying.Tried:
    return trying.try_offers(_setup(name), seed)


def _setup(name: str) -> SetUp:
    return next(setup for setup in SETUPS if setup.name == name)


def _bench() -> str:
    names = ("parts", "setups", "tasks", "training")
    return store.fingerprint(
        _FAULTS / "families", *(_FAULTS / f"{name}.py" for name in names)
    )


def _applying(offer: Recommendation | None) -> str:
    """Return the fingerprint of the sources that decide what a treatment does."""
    files = [_PACKAGE / f"{name}.py" for name in _APPLYING]
    if offer is not None:
        module = offer.remedy.replace("-", "_")
        files.append(_PACKAGE / "remedies" / f"{module}.py")
        files.append(_PACKAGE / "remedies" / "initialisers.py")
    return store.fingerprint(*(file for file in files if file.exists()))


def run(options: argparse.Namespace) -> tables.Bench:
    """Run all stages and return what the tables need."""
    frozen = labels.load()
    chosen = [
        setup
        for setup in SETUPS
        if setup.family in options.families
        if not options.limit or setup.name.startswith(tuple(options.limit))
        if frozen[setup.name].scored
    ]
    bench = _bench()
    watched = store.fingerprint(_PACKAGE) if options.rewatch else "kept"
    keys: list[Hashable] = [(s.name, seed) for s in chosen for seed in options.seeds]
    seen = store.results(
        "watch",
        _watch,
        {key: key for key in keys},  # type: ignore[misc]
        dict.fromkeys(keys, f"{bench}-{watched}"),
        options.jobs,
    )
    ends = _ends(seen, frozen, bench, options)
    trials = {}
    if options.trials:
        wanted = [key for key in keys if seen[key].offers()]
        print_of = store.fingerprint(
            *(_PACKAGE / f"{n}.py" for n in _TRYING),
            *(_PACKAGE / f"{n}.py" for n in _APPLYING),
            _PACKAGE / "remedies",
            _PACKAGE / "remedy_ranking.py",
            _PACKAGE / "recommender.py",
            store.HERE / "trying.py",
        )
        trials = store.results(
            "trial",
            _trial,
            {key: key for key in wanted},  # type: ignore[misc]
            dict.fromkeys(wanted, f"{bench}-{print_of}"),
            options.jobs,
        )
    return tables.Bench(chosen, tuple(options.seeds), frozen, seen, ends, trials)


def _ends(
    seen: dict[Hashable, menu.Seen],
    frozen: dict[str, labels.Outcome],
    bench: str,
    options: argparse.Namespace,
) -> dict[Hashable, object]:
    """Train every treatment of the menu of sick set-ups, and all offers of healthy."""
    jobs: dict[Hashable, tuple[object, ...]] = {}
    prints: dict[Hashable, str] = {}
    for key, one in seen.items():
        name, seed = key  # type: ignore[misc]
        sick = frozen[name].label == "sick"
        whole = one.menu() if sick and not options.offers_only else one.offers()
        for offer in whole:
            job = (name, seed, key_of(offer))
            jobs[job] = (name, seed, offer)
            prints[job] = f"{bench}-{_applying(offer)}"
    return store.results("menu", _end, jobs, prints, options.jobs)


def main(arguments: list[str]) -> int:
    """Run the bench and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="*", choices=FAMILIES)
    parser.add_argument("--limit", nargs="*", help="only set-ups that start so")
    parser.add_argument("--all", action="store_true", help="held-out families too")
    parser.add_argument("--held-out", action="store_true", help="only those")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(FRESH_SEEDS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-trials", dest="trials", action="store_false")
    parser.add_argument("--offers-only", action="store_true", help="not the menu")
    parser.add_argument("--rewatch", action="store_true", help="watch again")
    parser.add_argument("--write", type=Path, help="write the tables to a file")
    options = parser.parse_args(arguments)
    if not options.families:
        options.families = [
            family
            for family in FAMILIES
            if options.all or (family in HELD_OUT_FAMILIES) == options.held_out
        ]
    text = tables.render(run(options))
    print(text)
    if options.write:
        options.write.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
