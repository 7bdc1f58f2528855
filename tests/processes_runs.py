"""Runs of several ranks, for `torchrun`: each scenario writes what it saw as JSON.

torchrun --standalone --nproc-per-node 2 -m tests.processes_runs FOLDER NAME ...
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import gradwatch
from gradwatch import processes
from tests.processes_faults import FAULTS
from tests.processes_nets import batches, mine, net, numbers, train, weights


def ddp(rank, ranks, *, parts=1, **options):
    """DDP, watched from the first step on; and the same unwatched."""
    model = DistributedDataParallel(net(), **options)
    watch = train(model, rank, ranks, watched={}, parts=parts)
    plain = DistributedDataParallel(net(), **options)
    train(plain, rank, ranks, parts=parts)
    return {**numbers(watch), "same": weights(model) == weights(plain)}


def inner(rank, ranks):
    """The module inside of DDP is watched, before it is wrapped."""
    model = net()
    with gradwatch.watch(model, console=None, every=1) as watch:
        train(DistributedDataParallel(model), rank, ranks)
    return numbers(watch)


def shard():
    """Return the net, sharded layer by layer."""
    from torch.distributed.fsdp import fully_shard

    model = net()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def sharded(rank, ranks):
    """FSDP2, watched; and the same unwatched."""
    model = shard()
    watch = train(model, rank, ranks, watched={})
    plain = shard()
    train(plain, rank, ranks)
    return {**numbers(watch), "same": weights(model) == weights(plain)}


def alone(rank, ranks, who, make=None, steps=24):
    """Only some ranks watch."""
    model = (make or (lambda: DistributedDataParallel(net())))()
    watched = {} if rank in who else None
    watch = train(model, rank, ranks, watched=watched, steps=steps)
    plain = (make or (lambda: DistributedDataParallel(net())))()
    train(plain, rank, ranks, steps=steps)
    found = numbers(watch) if watch is not None else {}
    return {**found, "same": weights(model) == weights(plain)}


def rhythm(rank, ranks):
    """The ranks have different costs; rank 0's decide."""
    options = {
        "every": None,
        "settings": {"probe_every": 10, "budget": 0.9, "probe_steps": (0, 1, 2, 5)},
    }
    model = DistributedDataParallel(net())

    def at(step):
        if rank:
            time.sleep(0.001)

    return numbers(train(model, rank, ranks, watched=options, steps=70, at=at))


def counted(rank, ranks):
    """How many collectives our group runs."""
    real = dist.ProcessGroupGloo
    calls = []

    class Counting:
        def __init__(self, *args, **options):
            self.inner = real(*args, **options)

        def allreduce(self, tensors):
            calls.append(len(tensors[0]))
            return self.inner.allreduce(tensors)

    dist.ProcessGroupGloo = Counting
    try:
        watch = train(DistributedDataParallel(net()), rank, ranks, watched={})
    finally:
        dist.ProcessGroupGloo = real
    return {**numbers(watch), "collectives": len(calls)}


def scaled(rank, ranks):
    """A loss scale that overflows on one rank: the step is skipped on all."""
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradwatch.watch(model, console=None, every=1) as watch:
        for step, (x, y) in enumerate(batches(14)):
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                model(mine(x, rank, ranks)), mine(y, rank, ranks)
            )
            factor = float("inf") if step == 9 and rank == 1 else 1.0
            (scaler.scale(loss) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    return numbers(watch)


def recurrent(rank, ranks):
    """A sharded GRU watched on rank 0 alone, sick, and read to the end."""
    from torch.distributed.fsdp import fully_shard

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.rnn(x.unsqueeze(1).repeat(1, 12, 1))[0][:, -1])

    torch.manual_seed(0)
    model = Reader()
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(0.01)
    fully_shard(model)
    watched = {} if rank == 0 else None
    watch = train(model, rank, ranks, watched=watched, steps=4)
    if watch is None:
        return {}
    watch.anatomy()  # what recommendations read of the weights
    return numbers(watch)


def two_models(rank, ranks):
    """Two watched models, one of them on rank 0 only."""
    found = {}
    for name in ("first", "second"):
        model = DistributedDataParallel(
            net() if name == "first" else nn.Sequential(net(), nn.Linear(3, 3))
        )
        watched = {} if name == "second" or rank == 0 else None
        watch = train(model, rank, ranks, watched=watched, steps=12)
        found[name] = None if watch is None else numbers(watch)["ranks"]
    return found


def late(rank, ranks):
    """Rank 1 begins to watch later than rank 0."""
    model = DistributedDataParallel(net())
    watches = []

    def at(step):
        if step == 3 * rank:
            watches.append(gradwatch.watch(model, console=None, every=1))

    train(model, rank, ranks, steps=24, at=at)
    watches[0].close()
    return numbers(watches[0])


SCENARIOS = {
    "ddp": ddp,
    "static": lambda r, w: ddp(r, w, static_graph=True),
    "view": lambda r, w: ddp(r, w, gradient_as_bucket_view=True),
    "accumulated": lambda r, w: ddp(r, w, parts=2),
    "inner": inner,
    "sharded": sharded,
    "rank 0": lambda r, w: alone(r, w, [0]),
    "rank 1": lambda r, w: alone(r, w, [1]),
    "rank 0 sharded": lambda r, w: alone(r, w, [0], shard),
    "some": lambda r, w: alone(r, w, [0, 2, 3]),
    "short": lambda r, w: numbers(
        train(DistributedDataParallel(net()), r, w, watched={}, steps=3)
    ),
    "rhythm": rhythm,
    "counted": counted,
    "scaled": scaled,
    "recurrent": recurrent,
    "two models": two_models,
    "late": late,
}


def main(folder, *names):
    """Run scenarios and write what this rank saw."""
    processes.TIMEOUT_S = 20.0
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for name in names:
        run = {**SCENARIOS, **FAULTS}[name]
        began = time.perf_counter()
        found = run(rank, ranks)
        found["took"] = time.perf_counter() - began
        file = Path(folder) / f"{name}-{ranks}-{rank}.json"
        file.write_text(json.dumps(found), "utf-8")
    if "die" not in names:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
