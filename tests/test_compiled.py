"""Compiled models: the same bits, the same graphs, and what is seen of the inside."""

import math

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

import gradwatch
from gradwatch import compiled_replay
from gradwatch.compiled_replay import READ_BY_REPLAY
from gradwatch.records import Coverage
from tests.harmless import compare, noisy_net, watched

STEPS = 5
# torch's own compiler warns of torch's own past.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
OFF = {"every": 1, "settings": {"compiled_replay": "off"}}


class Block(nn.Module):
    """A block of its own class: torch's containers are not compiled in place."""

    def __init__(self, width=8):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Net(nn.Module):
    """Five blocks and a head, without randomness."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Graphs:
    """A backend that counts the graphs it is given. No C++ compiler is needed."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs, **options):
        self.count += 1
        return aot_eager(graph, inputs)


def prepare(how, graphs):
    """Return (module to watch, what the loop calls) of a fresh net."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    net = Net()
    options = {"backend": graphs, "fullgraph": True}
    if how == "whole":
        return net, lambda: torch.compile(net, **options)
    if how == "wrapper":
        net = torch.compile(net, **options)
        return net, lambda: net
    if how == "in place":
        return net, lambda: net.compile(**options) or net

    def blocks():
        for index, block in enumerate(net.blocks):
            net.blocks[index] = torch.compile(block, **options)
        return net

    return net, blocks


def run(how, when, **options):
    """Train, watched from `when` on; return graphs, breaks, weights, watch."""
    graphs = Graphs()
    net, make = prepare(how, graphs)
    watch = None
    options = {"console": None, **options}
    if when == "before":
        watch = gradwatch.watch(net, **options)
    call = make()
    if when == "after":
        watch = gradwatch.watch(net, **options)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        optimizer.zero_grad()
        call(torch.randn(7, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        if step == 0 and when == "first run":
            watch = gradwatch.watch(net, **options)
    if watch is not None:
        watch.close()
        assert watch._observer.hooks.failure is None, watch._observer.hooks.failure
    weights = [p.detach().clone() for p in net.parameters()]
    return graphs.count, sum(counters["graph_break"].values()), weights, watch


@pytest.mark.parametrize("how", ["whole", "wrapper", "blocks", "in place"])
def test_a_watch_adds_no_graph_and_no_break_and_changes_no_bit(how):
    """Attached before compilation, after it, and after the first run."""
    graphs, breaks, weights, _ = run(how, "never")
    assert graphs >= 1
    assert breaks == 0
    for when in ("before", "after", "first run"):
        again, broken, same, watch = run(how, when, every=2)
        assert (again, broken) == (graphs, 0), when
        assert all(map(torch.equal, weights, same)), when
        record = watch.history.latest
        assert all(p.grad_norm > 0 for p in record.parameters), when
        assert any(p.update_ratio for p in record.parameters), when


@pytest.mark.parametrize("how", ["whole", "blocks"])
def test_the_inside_is_read_by_a_replay_and_labelled(how):
    """The numbers are those of the eager model."""
    *_, watch = run(how, "after", every=1)
    record = watch.history.first_probe
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    with watched(net, every=1) as eager:
        net(torch.randn(7, 8, generator=generator)).square().mean().backward()
        optimizer.step()
    expected = eager.history.first_probe
    inner = [layer for layer in record.layers if layer.layer.endswith("linear")]
    assert len(inner) == 5
    known = {layer.layer: layer for layer in expected.layers}
    for layer in record.layers:
        assert layer.grad_norm == pytest.approx(known[layer.layer].grad_norm, rel=1e-5)
        assert layer.output_rms == pytest.approx(
            known[layer.layer].output_rms, rel=1e-5
        )
    decades = expected.chains[0].decades()
    assert record.chains[0].decades() == pytest.approx(decades, abs=1e-5)
    reasons = dict(record.coverage_reasons)
    assert dict(record.coverage)["blocks.0.linear"] is Coverage.OBSERVED
    assert reasons["blocks.0.linear"] == READ_BY_REPLAY
    assert watch.structure.known
    assert watch.structure.layers["blocks.0.linear"].activation == "tanh"


def test_without_a_replay_the_wrappers_of_blocks_are_observed_points():
    """Their hooks run outside of their graphs: gradients, a chain, and D."""
    *_, watch = run("blocks", "after", **OFF)
    *_, eager = run("blocks", "after", every=1)
    record = watch.history.first_probe
    blocks = [f"blocks.{index}" for index in range(5)]
    assert [layer.layer for layer in record.layers] == [*blocks, "head"]
    assert all(layer.grad_norm > 0 for layer in record.layers)
    coverage = dict(record.coverage)
    assert {coverage[name] for name in blocks} == {Coverage.OBSERVED}
    assert coverage["blocks.0.linear"] is Coverage.NOT_SEEN
    why = dict(record.coverage_reasons)["blocks.0.linear"]
    assert "compiled region" in why
    assert "`compiled_replay` is off" in why
    # dL/d(block output): what the replay saw before the tanh is smaller.
    assert record.chains[0].decades() is not None
    top = eager.history.first_probe.chains[0].points[-1]
    last = next(
        point
        for point in record.chains[0].points
        if point.layer == top.layer or point.layer == "blocks.4"
    )
    assert last.grad_norm > top.grad_norm


def test_without_a_replay_the_inside_of_a_whole_graph_is_not_seen():
    """Neither zero nor healthy: not seen."""
    *_, watch = run("whole", "after", **OFF)
    record = watch.history.latest
    assert {state for _, state in record.coverage} == {Coverage.NOT_SEEN}
    assert record.layers == ()
    assert watch.report().health.value != "healthy"


def test_a_model_compiled_in_place_says_why_it_is_not_replayed():
    """Its call is inside the graph, so its inputs are never seen."""
    *_, watch = run("in place", "after", every=1)
    reasons = {why for _, why in watch.history.latest.coverage_reasons}
    assert len(reasons) == 1
    assert "inputs were not seen" in reasons.pop()


def test_a_forward_compiled_by_itself_is_not_replayed():
    """A copy would share the function, and with it the weights and gradients."""
    torch._dynamo.reset()
    net = Net()
    net.forward = torch.compile(net.forward, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with watched(net, every=1) as watch:
        net(torch.randn(7, 8)).square().mean().backward()
        optimizer.step()
    reasons = {why for _, why in watch.history.latest.coverage_reasons}
    assert "a copy would share" in reasons.pop()


def test_auto_leaves_a_copy_that_would_take_too_much_memory(monkeypatch):
    """More than 5 % of what is free; `on` forces it."""
    monkeypatch.setattr(compiled_replay, "free_memory", lambda device: 1000)
    *_, watch = run("whole", "after", every=1)
    reasons = {why for _, why in watch.history.latest.coverage_reasons}
    assert "5% of the free memory" in reasons.pop()
    *_, watch = run("whole", "after", every=1, settings={"compiled_replay": "on"})
    assert {s for _, s in watch.history.latest.coverage} == {Coverage.OBSERVED}


def test_the_free_memory_of_the_host_is_known():
    """A plausible number of bytes; other devices say nothing."""
    free = compiled_replay.free_memory(torch.device("cpu"))
    assert free is None or free > 2**20
    assert compiled_replay.free_memory(torch.device("meta")) is None


def test_a_replay_that_fails_is_a_reason_and_no_failure():
    """The copy's forward raises; the watch and the training go on."""

    class Once(Net):
        calls = 0

        def forward(self, x):
            if not torch.compiler.is_compiling():
                raise RuntimeError("only in a graph\nsecond line")
            return super().forward(x)

    torch._dynamo.reset()
    net = Once()
    call = torch.compile(net, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with watched(net, every=1) as watch:
        for _ in range(2):
            call(torch.randn(7, 8)).square().mean().backward()
            optimizer.step()
    reasons = {why for _, why in watch.history.latest.coverage_reasons}
    assert "RuntimeError: only in a graph" in next(iter(reasons))
    assert "second" not in next(iter(reasons))


def test_a_loss_scale_is_divided_out_of_a_replay():
    """The captured gradient carries it."""

    def first(scale):
        torch._dynamo.reset()
        torch.manual_seed(0)
        net = Net()
        call = torch.compile(net, backend="aot_eager")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with watched(net, every=1) as watch:
            for _ in range(2):
                optimizer.zero_grad()
                loss = call(torch.ones(7, 8)).square().mean()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        return [layer.grad_norm for layer in watch.history.latest.layers]

    assert first(1024.0) == pytest.approx(first(1.0), rel=1e-5)


def test_a_sick_compiled_model_is_found_sick():
    """Sigmoids all the way: the gradient fades inside the graph."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    parts = [part for _ in range(8) for part in (nn.Linear(16, 16), nn.Sigmoid())]
    net = nn.Sequential(*parts, nn.Linear(16, 1))
    call = torch.compile(net, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with watched(net, every=1) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            call(torch.randn(32, 16)).square().mean().backward()
            optimizer.step()
    report = watch.report()
    assert "GW101" in {finding.code for finding in report.findings}
    assert report.recommendations


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


def test_dropout_and_batch_norm_inside_a_graph_train_the_same():
    """A replay leaves the random state and the running statistics alone."""
    watch = compare(noisy_net, train(lambda m: compiled(m, fullgraph=True)), every=2)
    assert watch._observer.step == STEPS
    assert {s for _, s in watch.history.latest.coverage} == {Coverage.OBSERVED}


def test_a_compiled_wrapper_may_be_watched():
    """Names come without the wrapper's prefix."""
    watch = compare(lambda: compiled(noisy_net()), train(lambda m: m), every=1)
    record = watch.history.latest
    assert {p.layer for p in record.parameters} == {"0", "1", "4", "6"}
    assert {name for name, _ in record.coverage} == {"0", "1", "4", "6"}


def test_compiled_blocks_are_not_taken_for_weights():
    """Nothing inside a compiled block gets a gradient that is not its own."""

    def make():
        blocks = [compiled(nn.Sequential(nn.Linear(6, 6), nn.ReLU())) for _ in range(4)]
        return nn.Sequential(*blocks, nn.Linear(6, 3))

    watch = compare(make, train(lambda m: m), **OFF)
    record = watch.history.latest
    coverage = dict(record.coverage)
    assert coverage["4"] is Coverage.OBSERVED
    assert coverage["0.0"] is Coverage.NOT_SEEN
    assert [layer.layer for layer in record.layers] == ["0", "1", "2", "3", "4"]


def test_a_compiled_leaf_is_named_by_its_wrapper():
    """`torch.compile(nn.Linear(...))` is a Linear, and observed."""

    def make():
        return nn.Sequential(*(compiled(nn.Linear(6, 6)) for _ in range(4)))

    watch = compare(make, train(lambda m: m), **OFF)
    record = watch.history.latest
    assert dict(record.coverage) == dict.fromkeys("0123", Coverage.OBSERVED)
    assert watch.structure.layers["0"].kind == "Linear"
    assert math.isfinite(record.chains[0].decades() or 0.0)


def test_a_compiled_optimizer_step_is_left_alone_and_noticed():
    """The step itself is compiled; gradwatch stays out of its graph, sees it pass."""

    def count(watching):
        torch._dynamo.reset()
        counters.clear()
        graphs = Graphs()
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = torch.compile(optimizer.step, backend=graphs)
        watch = gradwatch.watch(net, console=None, every=1) if watching else None
        for _ in range(STEPS):
            optimizer.zero_grad()
            net(torch.ones(7, 8)).square().mean().backward()
            step()
        if watch is not None:
            watch.close()
            assert watch.report().run.steps == STEPS - 1
            assert all(p.update_ratio > 0 for p in watch.history.latest.parameters)
        breaks = sum(counters["graph_break"].values())
        return graphs.count, breaks, torch.cat([p.flatten() for p in net.parameters()])

    graphs, breaks, weights = count(False)
    again, broken, same = count(True)
    assert (again, broken) == (graphs, breaks)
    assert torch.equal(weights, same)
