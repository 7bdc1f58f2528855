"""Train every published architecture with and without gradwatch and tabulate it.

`python -m benchmarks.published.run [--only NAME …] [--optimizer adamw|sgd] [--jobs N]
[--plain] [--seed N]`. Writes `benchmarks/published/results/published.json` (or the
file named with `--output`) and prints a Markdown table. Exit status 1 if a scored run
that trains has an alarm, or if a run is not bit-identical.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.published.quiet import quieten
from benchmarks.published.reading import Reading, read
from benchmarks.published.training import (
    chance_loss,
    differing_entries,
    first_and_last_loss,
    train,
    trains,
)
from benchmarks.published.zoo import by_name

OPTIMIZERS = ("adamw", "sgd")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Result:
    """One architecture under one optimizer.

    Attributes:
        name: Name of the architecture.
        modality: Its modality.
        optimizer: `adamw` or `sgd`.
        lr: Learning rate.
        first_loss: Mean loss of the first round of batches.
        last_loss: Mean loss of the last round.
        chance: Loss of the best constant prediction; infinite if not known.
        trains: Whether it trains, judged without gradwatch.
        not_scored: Why it is listed but not scored; empty if it is scored.
        plain_s: Seconds of the loop without gradwatch.
        watched_s: Seconds of the loop with it; None without.
        differing: Entries of the state that are not bit-identical; None without.
        reading: What gradwatch said; None without.
        error: Traceback if the run could not be made.
    """

    name: str
    modality: str
    optimizer: str
    lr: float
    first_loss: float
    last_loss: float
    chance: float
    trains: bool
    not_scored: str
    plain_s: float
    watched_s: float | None = None
    differing: tuple[str, ...] | None = None
    reading: Reading | None = None
    error: str = ""

    @property
    def alarms(self) -> tuple[str, ...]:
        """Codes of the alarms."""
        findings = () if self.reading is None else self.reading.findings
        return tuple(f.code for f in findings if f.alarm)

    @property
    def notes(self) -> tuple[str, ...]:
        """Codes of the other findings; those that came and went in brackets."""
        findings = () if self.reading is None else self.reading.findings
        return tuple(
            f"({f.code})" if f.cleared else f.code for f in findings if not f.alarm
        )

    @property
    def is_scored(self) -> bool:
        """Whether an alarm here would be a false one."""
        return self.trains and not self.not_scored

    @property
    def failed(self) -> bool:
        """Whether this result misses the bar."""
        return bool(self.error or self.differing or (self.is_scored and self.alarms))


def run_one(name: str, optimizer: str, seed: int, *, plain: bool) -> Result:
    """Train one architecture without and, unless `plain`, with gradwatch."""
    quieten()
    (architecture,) = by_name([name])
    chance = chance_loss(architecture, seed)
    base = train(architecture, optimizer, seed=seed)
    first, last = first_and_last_loss(base.losses)
    watched_s: float | None = None
    differing: tuple[str, ...] | None = None
    reading: Reading | None = None
    error = ""
    if not plain:
        try:
            watched = train(architecture, optimizer, seed=seed, watched=True)
            watched_s = watched.seconds
            differing = differing_entries(base.state, watched.state)
            reading = read(watched.report, watched.model)
        except Exception:
            error = traceback.format_exc()
        if differing:
            again = train(architecture, optimizer, seed=seed)
            if differing_entries(base.state, again.state):
                differing = (*differing, "(two plain runs differ as well)")
    return Result(
        name=name,
        modality=architecture.modality,
        optimizer=optimizer,
        lr=architecture.adamw_lr if optimizer == "adamw" else architecture.sgd_lr,
        first_loss=first,
        last_loss=last,
        chance=chance,
        trains=trains(base, chance),
        not_scored=architecture.not_scored,
        plain_s=base.seconds,
        watched_s=watched_s,
        differing=differing,
        reading=reading,
        error=error,
    )


def run_all(
    names: Sequence[str],
    optimizers: Sequence[str],
    *,
    seed: int,
    plain: bool,
    jobs: int,
) -> Iterator[Result]:
    """Yield the results in the order of the zoo, from one or more processes."""
    pairs = [(a.name, o) for a in by_name(list(names)) for o in optimizers]
    if jobs == 1:
        for name, optimizer in pairs:
            yield run_one(name, optimizer, seed, plain=plain)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        futures = [
            pool.submit(run_one, name, optimizer, seed, plain=plain)
            for name, optimizer in pairs
        ]
        for future in futures:
            yield future.result()


def _row(result: Result) -> str:
    """Return one line of the Markdown table."""
    reading = result.reading
    cells = [
        result.name,
        result.modality,
        f"{result.optimizer} {result.lr:g}",
        f"{result.first_loss:.3g} → {result.last_loss:.3g}",
        "yes" if result.trains else "no",
    ]
    if result.not_scored:
        cells[-1] += " (not scored)"
    if reading is None:
        cells += [result.error.strip().splitlines()[-1] if result.error else ""] * 5
    else:
        decades = "" if reading.decades is None else f"{reading.decades:+.2f}"
        cells += [
            " ".join(result.alarms),
            " ".join(result.notes),
            decades,
            f"{reading.observed_weight_layers}/{reading.weight_layers}",
            "no" if result.differing else "yes",
        ]
    return f"| {' | '.join(cells)} |"


def table(results: Sequence[Result]) -> str:
    """Return the Markdown table of all results."""
    head = (
        "name",
        "modality",
        "optimizer, lr",
        "loss",
        "trains",
        "alarms",
        "notes",
        "D",
        "observed/trainable",
        "bit-identical",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [_row(result) for result in results])


def summary(results: Sequence[Result], seconds: float) -> str:
    """Return what the table adds up to."""
    names = {result.name for result in results}
    lines = [f"{len(names)} architectures, {len(results)} runs in {seconds:.0f} s."]
    for optimizer in OPTIMIZERS:
        chosen = [result for result in results if result.optimizer == optimizer]
        if chosen:
            count = sum(result.trains for result in chosen)
            rest = ", ".join(r.name for r in chosen if not r.trains) or "none"
            lines.append(f"{optimizer}: {count} of {len(chosen)} train; not: {rest}.")
    watched = [result for result in results if result.reading is not None]
    if watched:
        scored = [result for result in watched if result.is_scored]
        false = [result for result in scored if result.alarms]
        codes = Counter(code for result in false for code in result.alarms)
        lines.append(
            f"Alarms on scored runs that train: {len(false)} of {len(scored)} "
            f"({dict(codes)})."
        )
        others = [result for result in watched if not result.is_scored]
        lines.append(
            f"Alarms on the others: {sum(bool(r.alarms) for r in others)} "
            f"of {len(others)}."
        )
        same = sum(not result.differing for result in watched)
        lines.append(f"Bit-identical: {same} of {len(watched)}.")
        observed = sum(r.reading.observed_weight_layers for r in watched if r.reading)
        total = sum(r.reading.weight_layers for r in watched if r.reading)
        lines.append(f"Trainable weight layers observed: {observed} of {total}.")
    errors = [f"{r.name} ({r.optimizer})" for r in results if r.error]
    if errors:
        lines.append(f"Could not be watched: {', '.join(errors)}.")
    return "\n".join(f"- {line}" for line in lines)


def _can_watch() -> bool:
    """Return whether gradwatch can be imported and has its entry point."""
    try:
        return hasattr(importlib.import_module("gradwatch"), "watch")
    except ImportError:
        return False


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.published.run")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plain", action="store_true", help="train without gradwatch only"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "published.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and return the exit status."""
    options = _arguments(arguments)
    if not options.plain and not _can_watch():
        sys.stderr.write("gradwatch cannot be imported; use --plain\n")
        return 2
    start = time.perf_counter()
    results: list[Result] = []
    for result in run_all(
        options.only,
        (options.optimizer,) if options.optimizer else OPTIMIZERS,
        seed=options.seed,
        plain=options.plain,
        jobs=options.jobs,
    ):
        results.append(result)
        sys.stderr.write(f"{_row(result)}\n")
        sys.stderr.flush()
    seconds = time.perf_counter() - start
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        json.dumps(
            {
                "seed": options.seed,
                "seconds": seconds,
                "results": [asdict(result) for result in results],
            },
            indent=1,
        )
    )
    sys.stdout.write(f"{table(results)}\n\n{summary(results, seconds)}\n")
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
