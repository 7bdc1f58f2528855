"""Run gradwatch on the labelled set-ups and score its verdicts.

    python -m benchmarks.faults.score --jobs 2                  # families to tune on
    python -m benchmarks.faults.score --families mlp rnn --quick
    python -m benchmarks.faults.score --limit mlp-zero-head rnn-
    python -m benchmarks.faults.score --held-out --jobs 2       # once, for the record
    python -m benchmarks.faults.score --all --write docs/faults.md

Runs are cached by the sources of gradwatch and of the bench: only what changed is run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import labels, rivals, watched
from benchmarks.faults.catalogue import FAMILIES, HELD_OUT_FAMILIES, SETUPS
from benchmarks.faults.scoring import FACTORS, Key, Verdict
from benchmarks.faults.setups import SetUp
from benchmarks.faults.tables import Results, case_lines, summary

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STORE = HERE / "results"


@dataclass(frozen=True, slots=True)
class Job:
    """One run: under gradwatch, whole or its first step, or under the rivals."""

    tool: str
    name: str
    seed: int
    factor: float

    def path(self, prints: dict[str, str]) -> Path:
        """Return where its result is kept."""
        folder = STORE / f"{self.tool}-{prints[self.tool]}"
        return folder / f"{self.name}.{self.seed}.{self.factor:g}.json"


def fingerprint(*folders: Path) -> str:
    """Return a short hash of all Python sources below some folders."""
    digest = hashlib.sha256(torch.__version__.encode())
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def prepare() -> None:
    """Set up a worker: one thread each, or they stand in each other's way."""
    torch.set_num_threads(1)


def work(job: Job) -> Any:
    """Do one job in a worker and return its result as JSON."""
    setup = next(setup for setup in SETUPS if setup.name == job.name)
    if job.tool == "rivals":
        return rivals.verdicts(setup, job.seed, job.factor)
    steps = 1 if job.tool == "first" else None
    return watched.to_json(watched.watch(setup, job.seed, job.factor, steps))


def run_jobs(jobs: Sequence[Job], processes: int) -> dict[Job, Any]:
    """Return the results of all jobs, from the cache where they are there."""
    bench = [HERE / "families"]
    sources = ["parts", "setups", "tasks", "training", "watched"]
    shared = hashlib.sha256(
        b"".join((HERE / f"{name}.py").read_bytes() for name in sources)
    ).hexdigest()[:4]
    ours = fingerprint(ROOT / "gradwatch", *bench) + shared
    theirs = fingerprint(*bench) + shared
    theirs += hashlib.sha256(
        (HERE / "rivals.py").read_bytes() + (HERE / "observer.py").read_bytes()
    ).hexdigest()[:4]
    prints = {"whole": ours, "first": ours, "rivals": theirs}
    results: dict[Job, Any] = {}
    missing = []
    for job in jobs:
        path = job.path(prints)
        if path.exists():
            results[job] = json.loads(path.read_text())
        else:
            missing.append(job)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=prepare) as pool:
        futures = {pool.submit(work, job): job for job in missing}
        for count, future in enumerate(as_completed(futures), start=1):
            job = futures[future]
            results[job] = future.result()
            path = job.path(prints)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results[job]))
            if count % 50 == 0 or count == len(missing):
                took = time.monotonic() - began
                print(f"{count}/{len(missing)} runs, {took:.0f} s", file=sys.stderr)
    return results


def choose(options: argparse.Namespace) -> list[SetUp]:
    """Return the set-ups to run: held-out families only where they are asked for."""
    chosen = list(SETUPS)
    if options.families:
        chosen = [setup for setup in chosen if setup.family in options.families]
    if options.limit:
        chosen = [s for s in chosen if s.name.startswith(tuple(options.limit))]
    if options.all:
        return chosen
    return [
        setup
        for setup in chosen
        if (setup.family in HELD_OUT_FAMILIES) == options.held_out
    ]


def collect(setups: Sequence[SetUp], options: argparse.Namespace) -> Results:
    """Run what is needed and put it in order."""
    known = labels.load()
    seeds = labels.SEEDS
    scaled = () if options.quick else FACTORS
    keys: list[Key] = [(setup.name, seed) for setup in setups for seed in seeds]
    jobs = [Job("whole", *key, factor) for key in keys for factor in (1.0, *scaled)]
    jobs += [Job("first", *key, factor) for key in keys for factor in (1.0, *FACTORS)]
    if options.rivals:
        jobs += [Job("rivals", *k, factor) for k in keys for factor in (1.0, *FACTORS)]
    done = run_jobs(jobs, options.jobs)

    def reports(tool: str, factor: float) -> dict[Key, watched.Watched]:
        return {
            key: watched.from_json(done[Job(tool, *key, factor)])
            for key in keys
            if Job(tool, *key, factor) in done
        }

    whole = reports("whole", 1.0)
    verdicts = [
        Verdict(setup, seed, known[setup.name], whole[setup.name, seed].kinds)
        for setup in setups
        for seed in seeds
    ]
    rival_runs = {
        factor: {key: done[Job("rivals", *key, factor)] for key in keys}
        for factor in (1.0, *FACTORS)
        if options.rivals
    }
    return Results(
        verdicts=verdicts,
        whole=whole,
        whole_scaled={factor: reports("whole", factor) for factor in scaled},
        first=reports("first", 1.0),
        first_scaled={factor: reports("first", factor) for factor in FACTORS},
        rivals=rival_runs,
    )


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.score")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=[])
    parser.add_argument("--limit", nargs="+", default=[], help="prefixes of names")
    parser.add_argument("--held-out", action="store_true", help="only these families")
    parser.add_argument("--all", action="store_true", help="held-out families as well")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="no flips at the end")
    parser.add_argument("--rivals", action="store_true", help="other tools' rules too")
    parser.add_argument("--write", type=Path, help="file for the tables, as Markdown")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    options = parse(words)
    setups = choose(options)
    if not setups:
        print("No set-up is left. Held-out families need --held-out or --all.")
        return 2
    results = collect(setups, options)
    tables = summary(results, setups)
    print("\n".join([*tables, *case_lines(results)]))
    if options.write is not None:
        options.write.write_text("\n".join(tables) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
