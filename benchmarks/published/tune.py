"""Find the rates of `rates.py`: `python -m benchmarks.published.tune [NAME …]`.

Uses neither gradwatch nor any gradient statistic: the first rung that trains wins.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.published.architecture import Architecture
from benchmarks.published.quiet import quieten
from benchmarks.published.rates import ADAMW_LADDER, SGD_LADDER
from benchmarks.published.training import (
    chance_loss,
    first_and_last_loss,
    train,
    trains,
)
from benchmarks.published.zoo import by_name

LADDERS = {"adamw": ADAMW_LADDER, "sgd": SGD_LADDER}


def first_rate_that_trains(architecture: Architecture, optimizer: str) -> float | None:
    """Return the first rung of the optimizer's ladder that trains at seed 0."""
    chance = chance_loss(architecture)
    for rate in LADDERS[optimizer]:
        run = train(
            replace(architecture, adamw_lr=rate, sgd_lr=rate), optimizer, seed=0
        )
        first, last = first_and_last_loss(run.losses)
        sys.stdout.write(
            f"# {architecture.name} {optimizer} {rate:g}: {first:.3f} -> {last:.3f}, "
            f"chance {chance:.3f}\n"
        )
        if trains(run, chance):
            return rate
    return None


def main() -> None:
    """Print the tables of `rates.py`."""
    quieten()
    tables: dict[str, list[str]] = {optimizer: [] for optimizer in LADDERS}
    for architecture in by_name(sys.argv[1:]):
        for optimizer, ladder in LADDERS.items():
            rate = first_rate_that_trains(architecture, optimizer)
            if rate is None:
                tables[optimizer].append(f"    # {architecture.name}: none trains")
            elif rate != ladder[0]:
                tables[optimizer].append(f'    "{architecture.name}": {rate:g},')
            sys.stdout.flush()
    for optimizer, lines in tables.items():
        sys.stdout.write("\n".join([f"{optimizer.upper()}_RATES = {{", *lines, "}\n"]))


if __name__ == "__main__":
    main()
