"""Several processes as users start them: `gradwatch run` under torchrun, Lightning."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

from tests.compatibility_rows import PROCESSES
from tests.test_compatibility import compare_row
from tests.test_processes import ROOT, launch

SCRIPT = """
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
hidden = [part for _ in range(8) for part in (nn.Linear(8, 8), nn.Sigmoid())]
model = DistributedDataParallel(nn.Sequential(*hidden, nn.Linear(8, 3)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
generator = torch.Generator().manual_seed(dist.get_rank())
for _ in range(24):
    x = torch.randn(8, 8, generator=generator)
    y = torch.randint(3, (8,), generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
dist.destroy_process_group()
"""
FIT = """
import torch
from tests.lightning_fits import callback, data, module_class, trainer_of

if __name__ == "__main__":
    torch.manual_seed(0)
    ours = callback(console="end")
    trainer = trainer_of(".", [ours], devices=2, strategy="ddp", max_epochs=5)
    trainer.fit(module_class()(), data())
    run = ours.report.run
    label = run.rank, run.ranks, len(run.notes), run.failure
    print(f"rank {trainer.global_rank}: {label}", flush=True)
"""


def words(text):
    """Return a text without its line breaks."""
    return re.sub(r"\s+", " ", text)


def test_the_command_runs_under_torchrun(tmp_path):
    """Every rank watches, rank 0 alone prints, and the report is on all of them."""
    (tmp_path / "train.py").write_text(SCRIPT)
    done = launch(tmp_path, 2, script=("-m", "gradwatch", "run", "train.py"))
    assert done.returncode == 0, done.stderr
    told = words(done.stdout + done.stderr)
    assert told.count("global: statistics over 2 ranks") == 1
    assert told.count("CRITICAL GW101 vanishing-gradient") == 2  # alert and report
    assert "nothing was watched" not in told


@pytest.mark.slow
def test_the_ranks_of_lightning_meet(tmp_path):
    """Started by Lightning's own launcher; rank 0 prints the report."""
    pytest.importorskip("lightning.pytorch")
    (tmp_path / "fit.py").write_text(FIT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "fit.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert f"rank {rank}: (None, 2, 0, '')" in done.stdout
    told = words(done.stdout + done.stderr)
    assert told.count("global: statistics over 2 ranks") == 1


def test_the_rows_of_compatibility_are_what_happens(tmp_path):
    """DDP and FSDP2 on two ranks; every rank sees the same."""
    done = launch(tmp_path, 2, str(tmp_path), script=("-m", "tests.processes_rows"))
    assert done.returncode == 0, done.stderr
    files = [tmp_path / f"rows-2-{rank}.json" for rank in (0, 1)]
    first, second = (json.loads(file.read_text("utf-8")) for file in files)
    assert first == second
    for name in PROCESSES:
        compare_row(name, first[name])
