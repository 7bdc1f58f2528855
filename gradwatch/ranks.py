"""Which of several processes this is."""

from __future__ import annotations

import os

import torch


def world() -> tuple[int, int]:
    """Return (rank, number of ranks); (0, 1) in a single process."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return max(distributed.get_rank(), 0), distributed.get_world_size()


def is_first_process() -> bool:
    """Whether this is rank 0; launchers say so before torch does."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return rank.strip() == "0"
