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


SEEDS = (0, 1, 2)


def first_rate_that_trains(architecture: Architecture, optimizer: str) -> float | None:
    """Return the first rung of the optimizer's ladder that trains at every seed."""
    for rate in LADDERS[optimizer]:
        candidate = replace(architecture, adamw_lr=rate, sgd_lr=rate)
        if all(_trains(candidate, optimizer, seed) for seed in SEEDS):
            return rate
    return None


def _trains(architecture: Architecture, optimizer: str, seed: int) -> bool:
    """Train once, print what came of it, and return whether it trains."""
    chance = chance_loss(architecture, seed)
    run = train(architecture, optimizer, seed=seed)
    first, last = first_and_last_loss(run.losses)
    rate = architecture.adamw_lr if optimizer == "adamw" else architecture.sgd_lr
    sys.stdout.write(
        f"# {architecture.name} {optimizer} {rate:g} seed {seed}: "
        f"{first:.3f} -> {last:.3f}, chance {chance:.3f}\n"
    )
    return trains(run, chance)


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
