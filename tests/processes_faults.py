"""Ranks that differ, stay away, leave or die."""

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwatch
from gradwatch import processes
from tests.processes_nets import net, numbers, train


def apart(rank, ranks):
    """Each rank trains a model of its own."""
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(1.0 + rank)
    return numbers(train(model, rank, ranks, watched={}, steps=24))


def drifting(rank, ranks):
    """DDP at first, then each rank on its own."""
    model = DistributedDataParallel(net())

    def at(step):
        if step == 12:
            model.require_backward_grad_sync = False

    return numbers(train(model, rank, ranks, watched={}, steps=24, at=at))


def leaving(rank, ranks):
    """The last rank's watch is closed in the middle."""
    model = DistributedDataParallel(net())
    with gradwatch.watch(model, console=None, every=1) as watch:

        def at(step):
            if step == 12 and rank == ranks - 1:
                watch.close()

        began = time.perf_counter()
        train(model, rank, ranks, steps=24, at=at)
    return {**numbers(watch), "seconds": time.perf_counter() - began}


def uneven(rank, ranks):
    """Experts: which layers run depends on the rank at some steps."""
    torch.manual_seed(0)
    model = Experts()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)

    def at(step):
        model.first = not (rank == 1 and step in (9, 10))

    return numbers(train(wrapped, rank, ranks, watched={}, steps=14, at=at))


class Experts(nn.Module):
    """Two layers of which one runs."""

    def __init__(self):
        super().__init__()
        self.inlet, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.first = True

    def forward(self, x):
        """Run one of them, or both."""
        x = self.inlet(x)
        out = self.experts[0](x).relu()
        return self.head(out if self.first else out + self.experts[1](x))


def poisoned(rank, ranks):
    """A NaN in the batch of the last rank, from one step on."""
    model = DistributedDataParallel(net())

    def at(step):
        at.step = step

    def spoil(module, args):
        if at.step >= 8 and rank == ranks - 1:
            return (args[0] * float("nan"),)
        return None

    model.module[4].register_forward_pre_hook(spoil)
    watch = train(model, rank, ranks, watched={}, steps=10, at=at)
    origin = watch.history.probes[8].non_finite
    found = {"origin": None if origin is None else [origin.layer, origin.where]}
    return {**numbers(watch), **found}


def quiet(rank, ranks):
    """A NaN between probes: nothing is replayed that might wait for the others."""
    model = DistributedDataParallel(net())

    def at(step):
        at.step = step

    def spoil(module, args):
        return (args[0] * float("nan"),) if at.step == 8 else None

    model.module[4].register_forward_pre_hook(spoil)
    watch = train(model, rank, ranks, watched={"every": None}, steps=10, at=at)
    origin = watch._observer.origin
    found = {"origin": None if origin is None else [origin.where, origin.detail]}
    return {**numbers(watch), **found}


def die(rank, ranks):
    """One rank is killed in a step: the others meet torch's own error."""

    def at(step):
        if step == 12 and rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        train(DistributedDataParallel(net()), rank, ranks, watched={}, steps=24, at=at)
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": ""}


def fully_sharded(rank, ranks):
    """The first FSDP, a wrapper with flat shards."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    device = torch.device("cpu")
    model = FullyShardedDataParallel(net(), use_orig_params=True, device_id=device)
    return numbers(train(model, rank, ranks, watched={}, steps=24))


def split(rank, ranks):
    """Tensor parallel: two layers split over the ranks, which see the same batch."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (ranks,))
    plan = {"2": ColwiseParallel(), "4": RowwiseParallel()}
    model = parallelize_module(net(), mesh, plan)
    return numbers(train(model, watched={}, steps=24))


def hybrid(rank, ranks):
    """Sharded over half of the ranks and replicated over the halves."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("copies", "shards"))
    model = fully_shard(net(), mesh=mesh)
    return numbers(train(model, rank, ranks, watched={}, steps=24))


def halves(rank, ranks):
    """Two models, each of half of the ranks."""
    groups = [dist.new_group(part) for part in ([0, 1], [2, 3])]
    model = DistributedDataParallel(net(), process_group=groups[rank // 2])
    return numbers(train(model, rank, ranks, watched={}, steps=24))


def vanish(rank, ranks, since):
    """The last rank stays away from our probes from a step on, and trains on.

    It keeps its connections, so that only the time limit tells.
    """
    limit, processes.TIMEOUT_S = processes.TIMEOUT_S, 2.0
    model = DistributedDataParallel(net())
    watch = gradwatch.watch(model, console=None, every=1)

    def at(step):
        if step == since and rank == ranks - 1:
            watch._observer.processes._meet = lambda record, own: None

    began = time.perf_counter()
    train(model, rank, ranks, steps=16, at=at)
    watch.close()
    processes.TIMEOUT_S = limit
    return {**numbers(watch), "seconds": time.perf_counter() - began}


FAULTS = {
    "apart": apart,
    "drifting": drifting,
    "leaving": leaving,
    "uneven": uneven,
    "poisoned": poisoned,
    "quiet": quiet,
    "never came": lambda r, w: vanish(r, w, 0),
    "stays away": lambda r, w: vanish(r, w, 9),
    "fully sharded": fully_sharded,
    "split": split,
    "hybrid": hybrid,
    "halves": halves,
    "die": die,
}
