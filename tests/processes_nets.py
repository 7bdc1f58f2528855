"""A net, its training on a rank's part of each batch, and what a watch saw of it.

A single process trains on the batches that the ranks share out among themselves.
"""

import contextlib

import torch
from torch import nn
from torch.nn import functional

import gradwatch

STEPS = 9
BATCH = 16


def net():
    """Return a net of small layers, one of them recurrent."""
    torch.manual_seed(0)
    layers = []
    for _ in range(4):
        layers += [nn.Linear(8, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(steps=STEPS):
    """Yield the whole batches."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield (
            torch.randn(BATCH, 8, generator=generator),
            torch.randint(3, (BATCH,), generator=generator),
        )


def mine(tensor, rank, ranks):
    """Return a rank's part of a batch."""
    size = len(tensor) // ranks
    return tensor[rank * size : (rank + 1) * size]


def train(model, rank=0, ranks=1, *, watched=None, parts=1, steps=STEPS, at=None):
    """Train on a rank's part of each batch, in so many micro-batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"console": None, "every": 1, **(watched or {})}
    watching = watched is not None
    context = (
        gradwatch.watch(model, **options) if watching else contextlib.nullcontext()
    )
    with context as watch:
        for step, (x, y) in enumerate(batches(steps)):
            if at is not None:
                at(step)
            optimizer.zero_grad()
            xs = mine(x, rank, ranks).chunk(parts)
            ys = mine(y, rank, ranks).chunk(parts)
            for number, (part, target) in enumerate(zip(xs, ys, strict=True)):
                sync = contextlib.nullcontext()
                if number < parts - 1 and hasattr(model, "no_sync"):
                    sync = model.no_sync()
                with sync:
                    (functional.cross_entropy(model(part), target) / parts).backward()
            optimizer.step()
    return watch


def numbers(watch):
    """Return what a watch measured, as plain data."""
    report = watch.report()
    return {
        "failure": watch._observer.hooks.failure,
        "rank": report.run.rank,
        "ranks": report.run.ranks,
        "notes": list(report.run.notes),
        "probes": [
            {
                "step": probe.step,
                "rank": probe.local_rank,
                "ranks": probe.ranks,
                "loss": probe.loss,
                "layers": {
                    layer.layer: [layer.grad_norm, layer.output_rms]
                    for layer in probe.layers
                },
                "points": [p.grad_norm for c in probe.chains for p in c.points],
                "shares": [
                    [a.zero_share, a.saturated_share, a.dead_units]
                    for a in probe.activations
                ],
                "parameters": {
                    p.name: [p.grad_norm, p.weight_rms, p.update_ratio]
                    for p in probe.parameters
                },
            }
            for probe in watch.history.probes
        ],
        "pulses": [[p.step, p.grad_norm] for p in watch.history.pulses],
    }


def weights(model):
    """Return all weights, bit for bit."""
    local = [getattr(p, "to_local", lambda p=p: p)() for p in model.parameters()]
    return [p.detach().flatten().tolist() for p in local]
