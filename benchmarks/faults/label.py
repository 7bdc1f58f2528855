"""Train every set-up without gradwatch and write its label: `labels.json`.

python -m benchmarks.faults.label              # all, labels written
python -m benchmarks.faults.label mlp- cnn-    # only these, printed and not written
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import sklearn
import torch

from benchmarks.faults import labels, tasks
from benchmarks.faults.catalogue import SETUPS
from benchmarks.faults.setups import SetUp
from benchmarks.faults.training import train

CACHE = Path(__file__).with_name("results") / "losses.json"


def finals(setup: SetUp) -> list[float | None]:
    """Return the final loss of each seed."""
    return [
        labels.final_loss(train(setup.build(seed), setup.steps))
        for seed in labels.SEEDS
    ]


def main(prefixes: list[str]) -> int:
    torch.set_num_threads(1)
    known = json.loads(CACHE.read_text()) if CACHE.exists() and prefixes else {}
    began = time.monotonic()
    for setup in SETUPS:
        if (
            prefixes
            and not setup.name.startswith(tuple(prefixes))
            and setup.name in known
        ):
            continue
        start = time.monotonic()
        known[setup.name] = finals(setup)
        took = (time.monotonic() - start) / len(labels.SEEDS)
        values = " ".join("nan" if v is None else f"{v:.3g}" for v in known[setup.name])
        print(f"{setup.name:42} {took:5.2f} s/seed  {values}", flush=True)
    CACHE.parent.mkdir(exist_ok=True)
    CACHE.write_text(json.dumps(known))
    chances = {setup.task: tasks.chance(setup.task) for setup in SETUPS}
    outcomes = labels.label_all(SETUPS, known, chances)
    print()
    for setup in SETUPS:
        outcome = outcomes[setup.name]
        shares = " ".join("nan" if p is None else f"{p:.2f}" for p in outcome.progress)
        print(f"{outcome.label:10} {setup.name:42} {setup.intended:12} {shares}")
    unscored = sum(not outcome.scored for outcome in outcomes.values())
    print(
        f"\n{len(SETUPS)} set-ups, {unscored} not scored "
        f"({unscored / len(SETUPS):.1%}), {time.monotonic() - began:.0f} s"
    )
    if not prefixes:
        versions = {
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        labels.save(outcomes, versions)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
