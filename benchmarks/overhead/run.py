"""Train each model under every tool, in turns in one process, and compare the times.

All rows of a model share a seed, a batch and a learning rate. A block of steps of one
row is followed by a block of the next, in an order drawn anew each round, so that what
else the machine does falls on all rows alike; a block is compared with the block of
plain training of its own round. gradwatch's clock stands still while others run, and
torch's global optimizer hooks are in place only for the row that registered them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.overhead.models import MODELS, Case
from benchmarks.overhead.tools import TOOLS, Tool, global_hooks

#: Steps before the budget rules, and the last one (the brief's 50 to 1,000).
FIRST, LAST = 50, 1000
#: Steps of one row in a round.
BLOCK = 10
_RESAMPLES = 2000


@dataclass
class Row:
    """One model under one tool.

    Attributes:
        name: The tool's.
        case: The model with its data.
        optimizer: Its optimizer.
        tool: The tool; None once it has crashed.
        times: Seconds of each block from step `FIRST` on.
        error: Why the tool fell out.
    """

    name: str
    case: Case
    optimizer: torch.optim.Optimizer
    tool: Tool | None = None
    times: list[float] = field(default_factory=list)
    error: str = ""
    hooks: list[dict[int, object]] = field(default_factory=list)


class Clock:
    """A clock that stands still while other rows run."""

    def __init__(self) -> None:
        self.paused = 0.0
        self.since = time.perf_counter()

    def perf_counter(self) -> float:
        """Return the seconds that its row has run."""
        return time.perf_counter() - self.paused

    def pause(self) -> None:
        """Stand still."""
        self.since = time.perf_counter()

    def go(self) -> None:
        """Go on."""
        self.paused += time.perf_counter() - self.since


def steps_of(row: Row, count: int) -> float:
    """Train a row for some steps; return the seconds."""
    case, optimizer, tool = row.case, row.optimizer, row.tool
    assert tool is not None
    started = time.perf_counter()
    for _ in range(count):
        optimizer.zero_grad()
        loss = case.loss(case.model(case.inputs))
        loss.backward()
        tool.after_backward(loss)
        optimizer.step()
        tool.after_step(loss)
    return time.perf_counter() - started


@contextlib.contextmanager
def its_hooks(row: Row, clock: Clock) -> Iterator[None]:
    """Put a row's global hooks in place, and let gradwatch's clock go for its row."""
    stores = global_hooks()
    for store, kept in zip(stores, row.hooks, strict=False):
        store.update(kept)
    if row.name == "gradwatch":
        clock.go()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if row.name == "gradwatch":
            clock.pause()
        row.hooks = [dict(store) for store in stores]
        for store in stores:
            store.clear()


def compare(model: str, tools: list[str], last: int, seed: int = 0) -> list[Row]:
    """Return the rows of a model with the times of their blocks."""
    import gradwatch.stopwatch as stopwatch

    clock = Clock()
    stopwatch.time = SimpleNamespace(perf_counter=clock.perf_counter)
    rows = []
    for name in tools:
        torch.manual_seed(seed)
        case = MODELS[model]()
        optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-4)
        rows.append(Row(name, case, optimizer))
    for row in rows:
        with its_hooks(row, clock):
            _attempt(row, lambda row=row: _put_on(row))
    shuffle = random.Random(seed).shuffle
    for step in range(0, last, BLOCK):
        turn = [row for row in rows if row.tool is not None]
        shuffle(turn)
        for row in turn:
            with its_hooks(row, clock):
                seconds = _attempt(row, lambda row=row: steps_of(row, BLOCK))
            if seconds is not None and step >= FIRST:
                row.times.append(seconds)
        sys.stderr.write(f"\r{model}: {step + BLOCK} of {last} steps")
    sys.stderr.write("\n")
    return rows


def _put_on(row: Row) -> float:
    row.tool = TOOLS[row.name](row.case.model, row.optimizer)
    return 0.0


def _attempt(row: Row, action: Callable[[], float]) -> float | None:
    """Run an action of a row; a tool that crashes falls out and its error is kept."""
    try:
        return action()
    except Exception as error:  # another tool's, on our model
        row.error = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
        row.tool = None
        return None


def interval(
    ratios: np.ndarray, statistic: Callable[[np.ndarray], float]
) -> tuple[float, float, float]:
    """Return a statistic of paired ratios with its bootstrap 95 % interval, in %."""
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    drawn = [statistic(ratios[pick]) for pick in picks]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return tuple(100 * (value - 1) for value in (statistic(ratios), low, high))


def table(model: str, rows: list[Row]) -> list[str]:
    """Return the lines of a model's table."""
    plain = rows[0]
    step_ms = 1e3 * statistics.median(plain.times) / BLOCK
    lines = [
        f"**{model}** ({step_ms:.1f} ms a step)",
        "",
        "| | median of paired blocks, % | all blocks together, % | own stopwatch, % |",
        "|---|---|---|---|",
    ]
    for row in rows[1:]:
        if not row.times:
            lines.append(f"| {row.name} | {row.error} | | |")
            continue
        count = min(len(row.times), len(plain.times))
        own, base = np.array(row.times[:count]), np.array(plain.times[:count])
        middle = interval(own / base, np.median)
        # Weighted by the base, the mean ratio is the ratio of the sums.
        weights = base / base.mean()
        whole = interval(1 + weights * (own / base - 1), np.mean)
        with contextlib.redirect_stdout(io.StringIO()):
            share = row.tool.share() if row.tool is not None else None
        said = "" if share is None else f"{100 * share:.2f}"
        cells = [
            f"{v:+.1f} [{low:+.1f}, {high:+.1f}]" for v, low, high in (middle, whole)
        ]
        error = (
            f" (until step {FIRST + BLOCK * count}: {row.error})" if row.error else ""
        )
        lines.append(f"| {row.name}{error} | {cells[0]} | {cells[1]} | {said} |")
    notes = [
        row.tool.note() for row in rows if row.tool is not None and row.tool.note()
    ]
    return [*lines, "", *(f"gradwatch: {note}." for note in notes if note), ""]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="150 steps, two models")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--tool", action="append", choices=list(TOOLS)[2:])
    parser.add_argument("--steps", type=int, default=LAST)
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = given.model or (list(MODELS)[-2:] if given.quick else list(MODELS))
    tools = [*list(TOOLS)[:2], *(given.tool or list(TOOLS)[2:])]
    last = 150 if given.quick else given.steps
    for model in models:
        rows = compare(model, tools, last)
        print("\n".join(table(model, rows)), flush=True)
        for row in rows:
            if row.tool is not None:
                with contextlib.redirect_stdout(io.StringIO()), its_hooks(row, Clock()):
                    row.tool.close()


if __name__ == "__main__":
    main()
