"""What a probe and a pulse cost against parameters, layers and steps; and memory.

`python -m benchmarks.overhead.scaling` prints the tables. Every row is a process of
its own, because a process keeps the memory it once had.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradwatch

#: Parameters of a net of 10 layers. 1e8 need 1.6 GB with gradients and AdamW's state.
PARAMETERS = (10**5, 10**6, 10**7, 10**8)
#: Layers of 64 units.
LAYERS = (10, 30, 100, 300, 1000, 2000)
#: Steps over which memory must stay flat, and how often it is read.
STEPS, READINGS = 20_000, 10
_PROBES = 5
#: Turns of the rows of `least`.
_ROUNDS = 40


def chain(layers: int, width: int) -> nn.Sequential:
    """Return a plain ReLU net, He-initialised."""
    model = nn.Sequential()
    for _ in range(layers):
        linear = nn.Linear(width, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        model.append(linear)
        model.append(nn.ReLU())
    return model


def train(
    model: nn.Module,
    steps: int,
    width: int,
    after: Callable[[int], None] | None = None,
) -> None:
    """Train on noise."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    inputs = torch.randn(16, width)
    for step in range(steps):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        if after is not None:
            after(step)


def costs(layers: int, width: int) -> dict[str, float]:
    """Return the medians of a first probe, a later one, a pulse and a step, in ms."""
    model = chain(layers, width)
    # Of three steps the first is probed, the second has a pulse alone, and the third a
    # pulse and the preparation of the next probe.
    watch = gradwatch.watch(model, console=None, settings={"every": 3})
    watcher = watch._observer
    spent = [0.0]
    train(model, 3 * _PROBES + 3, width, lambda step: spent.append(watcher.seconds))
    watch.close()
    each = [1e3 * (b - a) for a, b in pairwise(spent)]
    pulse = statistics.median(each[1::3])
    probes = [
        first + third - pulse
        for first, third in zip(each[::3], each[2::3], strict=True)
    ]
    plain: list[float] = []
    last = [time.perf_counter()]

    def lap(step: int) -> None:
        now = time.perf_counter()
        plain.append(1e3 * (now - last[0]))
        last[0] = now

    train(model, 2 * _PROBES, width, lap)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "first": probes[0],
        "probe": statistics.median(probes[1:]),
        "pulse": pulse,
        "step": statistics.median(plain),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def least(layers: int, width: int) -> list[float]:
    """Return what hooks alone add to a module call, and two norms in them, in us.

    No probe can be cheaper: every call is hooked before and after it, and the norms of
    its output and of that output's gradient are the least that a profile needs.
    """
    norms: list[torch.Tensor] = []

    def note(_: nn.Module, __: object, output: torch.Tensor) -> None:
        norms.append(torch.linalg.vector_norm(output.detach()))
        output.register_hook(lambda grad: norms.append(torch.linalg.vector_norm(grad)))

    rows: dict[str, nn.Sequential] = {}
    for name, hook in (("plain", None), ("hooks", lambda *_: None), ("norms", note)):
        rows[name] = chain(layers, width)
        for module in rows[name] if hook else ():
            module.register_forward_pre_hook(lambda *_: None)
            module.register_forward_hook(hook)
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(_ROUNDS):
        for name, model in rows.items():  # in turns
            started = time.perf_counter()
            train(model, 1, width)
            if norms:
                torch.stack(norms).tolist()
                norms.clear()
            times[name].append(time.perf_counter() - started)
    plain, *others = (statistics.median(times[name]) for name in rows)
    calls = 2 * layers
    return [1e6 * (other - plain) / calls for other in others]


def memory(steps: int) -> dict[str, list[float]]:
    """Return what Python holds and the process's size along a run, in MB."""
    model = chain(8, 64)
    watch = gradwatch.watch(
        model, console=None, settings={"every": max(steps // 2000, 1)}
    )
    held: list[float] = []
    resident: list[float] = []

    def read(step: int) -> None:
        if (step + 1) % (steps // READINGS) == 0:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0] / 2**20)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * resource.getpagesize() / 2**20)

    tracemalloc.start()
    train(model, steps, 64, read)
    watch.close()
    return {"held": held, "resident": resident}


def _alone(*arguments: str) -> Any:
    """Run one row in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead.scaling", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _row(layers: int, width: int) -> str:
    found = _alone("--row", str(layers), str(width))
    times = (found[name] for name in ("step", "pulse", "probe", "first"))
    cells = " | ".join(f"{value:.2f}" for value in times)
    return f"| {found['parameters']:,} | {layers} | {cells} | {found['peak_mb']:.0f} |"


def main() -> None:
    """Print the tables, or one row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small rows only")
    parser.add_argument("--row", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--least", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.row:
        print(json.dumps(costs(*given.row)))
        return
    if given.least:
        print(json.dumps(least(*given.least)))
        return
    if given.memory:
        print(json.dumps(memory(given.memory)))
        return
    print(
        "| parameters | layers | step, ms | pulse, ms | probe, ms | first probe, ms |"
        " peak memory, MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for parameters in PARAMETERS[: 2 if given.quick else None]:
        print(_row(10, round((parameters / 10) ** 0.5)), flush=True)
    for layers in LAYERS[: 3 if given.quick else None]:
        print(_row(layers, 64), flush=True)
    found = _alone("--least", "300", "64")
    print(
        "\nThe least, a module call of 300 layers of 64 units: empty hooks "
        f"{found[0]:.1f} us, with the norms of output and gradient {found[1]:.1f} us."
    )
    steps = 2000 if given.quick else STEPS
    found = _alone("--memory", str(steps))
    print(f"\nOver {steps:,} steps, read {READINGS} times, MB:\n")
    for name, values in found.items():
        print(f"- {name}: " + ", ".join(f"{value:.1f}" for value in values))


if __name__ == "__main__":
    main()
