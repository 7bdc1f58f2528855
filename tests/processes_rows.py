"""Rows of docs/compatibility.md that need two ranks, for `torchrun`.

torchrun --standalone --nproc-per-node 2 -m tests.processes_rows FOLDER
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from tests.compatibility_rows import PROCESSES
from tests.test_compatibility import cells


def main(folder):
    """Run the rows on every rank and write what this one saw."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {name: cells(name) for name in PROCESSES}
    file = Path(folder) / f"rows-{dist.get_world_size()}-{dist.get_rank()}.json"
    file.write_text(json.dumps(found), "utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
