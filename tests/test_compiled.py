"""Compiled models: the same bits, no graph break, and honest coverage."""

import pytest
import torch
from torch import nn

from gradwatch.records import Coverage
from tests.harmless import RHYTHMS, compare, noisy_net

STEPS = 8
# torch's own compiler warns of torch's own past.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def train(wrap):
    """Return a loop over a model that `wrap` may compile."""

    def loop(model):
        torch._dynamo.reset()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        run = wrap(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            run(torch.randn(7, 6)).square().mean().backward()
            optimizer.step()
        return optimizer

    return loop


def compiled(model, **options):
    """Compile without generating code: there may be no C++ compiler."""
    return torch.compile(model, backend="aot_eager", **options)


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_a_model_compiled_inside_the_watch_trains_the_same(rhythm):
    """In one graph; parameters are measured, layers honestly not seen."""
    watch = compare(noisy_net, train(lambda m: compiled(m, fullgraph=True)), **rhythm)
    record = watch.history.latest
    assert watch._observer.step == STEPS
    assert all(p.grad_norm > 0 for p in record.parameters)
    assert any(p.update_ratio for p in record.parameters)
    assert {state for _, state in record.coverage} == {Coverage.NOT_SEEN}


def test_a_compiled_wrapper_may_be_watched():
    """Names come without the wrapper's prefix."""
    watch = compare(lambda: compiled(noisy_net()), train(lambda m: m), every=1)
    record = watch.history.latest
    assert {p.layer for p in record.parameters} == {"0", "1", "4", "6"}
    assert not watch.structure.known


def test_compiled_blocks_are_not_taken_for_weights():
    """Nothing inside a compiled block gets a gradient that is not its own."""

    def make():
        blocks = [compiled(nn.Sequential(nn.Linear(6, 6), nn.ReLU())) for _ in range(4)]
        return nn.Sequential(*blocks, nn.Linear(6, 3))

    watch = compare(make, train(lambda m: m), every=1)
    record = watch.history.latest
    coverage = dict(record.coverage)
    assert coverage["4"] is Coverage.OBSERVED
    assert coverage["0.0"] is Coverage.NOT_SEEN
    assert [layer.layer for layer in record.layers] == ["4"]


def test_a_compiled_optimizer_step_is_left_alone():
    """The step itself is compiled; gradwatch stays out of its graph."""

    def loop(model):
        torch._dynamo.reset()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = torch.compile(optimizer.step, backend="eager")
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(7, 6)).square().mean().backward()
            step()
        return optimizer

    compare(noisy_net, loop, every=1)
