"""No generator moves because gradwatch is imported, watches, or prints."""

import subprocess
import sys

SCRIPT = """
import random
import numpy, torch
from torch import nn

random.seed(1)
numpy.random.seed(1)
torch.manual_seed(1)
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()

def same():
    return (
        random.getstate() == before[0]
        and numpy.random.get_state()[1].tolist() == before[1]
        and torch.equal(torch.get_rng_state(), before[2])
    )

import gradwatch
assert same(), "the import moved a generator"
state = torch.get_rng_state()
model = nn.Sequential(*[b for _ in range(9) for b in (nn.Linear(8, 8), nn.Sigmoid())])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.ones(4, 8)
torch.set_rng_state(state)
with gradwatch.watch(model) as watch:
    for _ in range(12):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
assert watch.report().findings
gradwatch.check(model, x)
assert same(), "watching, printing or checking moved a generator"
print("same")
"""


def test_no_generator_moves_in_a_fresh_process():
    """Late imports count: rich draws a random number when it is first imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]
