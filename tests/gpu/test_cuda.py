"""On a GPU: nothing waits, nothing changes, and the numbers are the CPU's."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradwatch.findings import Severity
from gradwatch.ledger import Ledger
from tests.harmless import watched

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def net(depth=4, width=32):
    """Return a net of tanh layers, on the host."""
    torch.manual_seed(0)
    parts = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*parts, nn.Linear(width, 4))


def batches(steps, device):
    """Return fixed batches."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(64, 32, generator=generator).to(device),
            torch.randint(4, (64,), generator=generator).to(device),
        )
        for _ in range(steps)
    ]


def train(model, data, *, between=None, **options):
    """Train a watched model; `between(watch, step)` is called before each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watched(model, **options) as watch:
        for step, (x, y) in enumerate(data):
            if between is not None:
                between(watch, step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch


def test_the_numbers_are_those_of_the_cpu():
    """Layers, parameters, pulses and D, to the accuracy of float32."""
    host = net()
    device = copy.deepcopy(host).cuda()
    on_host = train(host, batches(5, "cpu"), every=1)
    on_device = train(device, batches(5, "cuda"), every=1)
    pairs = zip(on_host.history.probes, on_device.history.probes, strict=True)
    for known, found in pairs:
        for left, right in zip(known.layers, found.layers, strict=True):
            assert right.grad_norm == pytest.approx(left.grad_norm, rel=2e-2)
            assert right.output_rms == pytest.approx(left.output_rms, rel=2e-2)
        for left, right in zip(known.parameters, found.parameters, strict=True):
            assert right.grad_norm == pytest.approx(left.grad_norm, rel=2e-2)
            assert right.update_ratio == pytest.approx(left.update_ratio, rel=2e-2)
        decades = known.chains[0].decades()
        assert found.chains[0].decades() == pytest.approx(decades, abs=0.02)
    pulses = zip(on_host.history.pulses, on_device.history.pulses, strict=True)
    for left, right in pulses:
        assert right.grad_norm == pytest.approx(left.grad_norm, rel=2e-2)


def test_training_is_the_same_bit_by_bit():
    """With and without gradwatch, on the same device."""
    data = batches(12, "cuda")
    plain, seen = net().cuda(), net().cuda()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    train(seen, data, every=3)
    for left, right in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(left, right)


def test_no_step_without_a_probe_waits_for_the_device():
    """Torch raises at any synchronisation of ours between probes."""
    probes = {0, 10, 20}

    def strict(watch, step):
        look = step in probes or step - 1 in probes
        torch.cuda.set_sync_debug_mode("default" if look else "error")

    try:
        watch = train(net().cuda(), batches(30, "cuda"), between=strict, every=10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.history.num_probes == 3
    assert watch.history.num_pulses == 30


def test_numbers_travel_by_pinned_memory_and_an_event():
    """The transfer is under way until its event is done, and then it is right."""
    ledger = Ledger()
    value = torch.arange(4.0, device="cuda").sum()
    torch.cuda.synchronize()
    ticket = ledger.add(value)
    torch.cuda._sleep(200_000_000)  # the copy is queued behind this
    pending = ledger.transfer()
    assert not pending.ready()
    torch.cuda.synchronize()
    assert pending.ready()
    assert pending.get(ticket) == 6.0


def train_half(scaler):
    """Train in float16 with a loss of 1e-7 of what it should be."""
    model = net(6).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, every=1) as watch:
        for x, y in batches(4, "cuda"):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = F.cross_entropy(model(x), y) * 1e-7
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return [f for f in watch.report().findings if f.code == "GW107"]


def test_an_underflow_in_float16_is_found_and_a_scale_prevents_it():
    """GW107 without a scale, and none with one of 2 ** 24."""
    found = train_half(torch.amp.GradScaler("cuda", enabled=False))
    assert found[0].severity is Severity.WARNING
    assert not train_half(torch.amp.GradScaler("cuda", init_scale=2.0**24))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_compiled_model_is_replayed_on_its_device():
    """The inside is read by a copy, without a break of the graph."""
    torch._dynamo.reset()
    model = net().cuda()
    call = torch.compile(model, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watched(model, every=1) as watch:
        for x, y in batches(3, "cuda"):
            optimizer.zero_grad()
            F.cross_entropy(call(x), y).backward()
            optimizer.step()
    assert {state.value for _, state in watch.history.latest.coverage} == {"observed"}
