"""Mixed precision, row by row: what a scaler does to gradients, and what is read."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradwatch.findings import Severity
from tests.harmless import watched

STEPS = 6


def batches():
    """Return fixed batches."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        yield (
            torch.randn(16, 8, generator=generator),
            torch.randint(3, (16,), generator=generator),
        )


def net(depth=4):
    """Return a small net of tanh layers."""
    torch.manual_seed(0)
    parts = [part for _ in range(depth) for part in (nn.Linear(8, 8), nn.Tanh())]
    return nn.Sequential(*parts, nn.Linear(8, 3))


def run(step, *, optimizer=torch.optim.SGD, scaler=None, **options):
    """Train; `step(scaler, optimizer, loss, model, number)` does what a loop does."""
    model = net()
    optimizer = optimizer(model.parameters(), lr=0.05, **options)
    with watched(model, every=1) as watch:
        for number, (x, y) in enumerate(batches()):
            optimizer.zero_grad()
            step(scaler, optimizer, F.cross_entropy(model(x), y), model, number)
    return watch


def plain(scaler, optimizer, loss, model, number):
    """A step without a scaler."""
    loss.backward()
    optimizer.step()


def scaled(scaler, optimizer, loss, model, number):
    """A step with a scaler."""
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def unscaled(scaler, optimizer, loss, model, number):
    """A step that unscales by itself and clips."""
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    scaler.step(optimizer)
    scaler.update()


def clipped(scaler, optimizer, loss, model, number):
    """The same without a scaler."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def numbers(watch):
    """Return what must not depend on a loss scale."""
    return [
        (
            pulse.grad_norm,
            pulse.step_grad_norm,
            pulse.clip_factor,
            *(layer.grad_norm for layer in probe.layers),
            *(parameter.grad_norm for parameter in probe.parameters),
            *(parameter.update_ratio for parameter in probe.parameters),
        )
        for probe, pulse in zip(watch.history.probes, watch.history.pulses, strict=True)
    ]


ROWS = {
    "normal optimizer": (scaled, plain, torch.optim.SGD, {}),
    "fused optimizer": (scaled, plain, torch.optim.SGD, {"fused": True}),
    "fused Adam": (scaled, plain, torch.optim.Adam, {"fused": True}),
    "unscale_ and clipping": (unscaled, clipped, torch.optim.SGD, {}),
}


@pytest.mark.parametrize("row", ROWS)
def test_all_numbers_are_those_without_a_scale(row):
    """Gradients before and at the step, clip factor, layers, updates."""
    with_scale, without, optimizer, options = ROWS[row]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    watch = run(with_scale, optimizer=optimizer, scaler=scaler, **options)
    expected = run(without, optimizer=optimizer, **options)
    assert watch.history.latest.loss_scale == 2.0**12
    for measured, known in zip(numbers(watch), numbers(expected), strict=True):
        assert measured == pytest.approx(known, rel=2e-3)


@pytest.mark.parametrize("fused", [False, True], ids=["normal", "fused"])
def test_a_growing_scale_is_followed(fused):
    """It doubles every other step; the numbers stay on the run without one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    watch = run(scaled, scaler=scaler, fused=fused)
    scales = [probe.loss_scale for probe in watch.history.probes]
    assert scales == [256.0, 256.0, 512.0, 512.0, 1024.0, 1024.0]
    expected = run(plain, fused=fused)
    for measured, known in zip(numbers(watch), numbers(expected), strict=True):
        assert measured == pytest.approx(known, rel=2e-3)


@pytest.mark.parametrize("fused", [False, True], ids=["normal", "fused"])
def test_a_skipped_step_is_a_skipped_step(fused):
    """An overflow is neither a NaN of the model's nor a measured step."""

    def overflowing(scaler, optimizer, loss, model, number):
        scaled(scaler, optimizer, loss * (1e38 if number == 2 else 1.0), model, number)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    watch = run(overflowing, scaler=scaler, fused=fused)
    assert watch.report().run.skipped_steps == 1
    assert all(pulse.finite for pulse in watch.history.pulses)
    assert all(probe.non_finite is None for probe in watch.history.probes)
    assert watch.history.latest.loss_scale == 2.0**11


def train_low(dtype, factor, scaler=None, steps=4):
    """Train under autocast with a loss that is `factor` of what it should be."""
    model = net(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, every=1) as watch:
        for x, y in list(batches())[:steps]:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = F.cross_entropy(model(x), y) * factor
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaled(scaler, optimizer, loss, model, 0)
    return watch


def underflow(watch):
    """Return the finding of a float16 underflow, or None."""
    found = [f for f in watch.report().findings if f.code == "GW107"]
    return found[0] if found else None


def test_a_real_underflow_in_float16_is_found():
    """Gradients of 1e-7 and less round to zero in float16, and no scaler is used."""
    watch = train_low(torch.float16, 1e-7)
    assert watch.history.latest.float16
    finding = underflow(watch)
    assert finding.severity is Severity.WARNING
    assert "no loss scale" in finding.message


def test_a_loss_scale_or_the_range_of_bfloat16_prevents_it():
    """The two cures of the finding, and training as it should be."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    assert underflow(train_low(torch.float16, 1e-7, scaler)) is None
    assert underflow(train_low(torch.bfloat16, 1e-7)) is None
    assert underflow(train_low(torch.float16, 1.0)) is None


def test_a_scale_that_is_too_small_is_compared_with_a_larger_one():
    """The same loss at two scales: the zeros went with the larger one."""
    model = net(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    with watched(model, every=1) as watch:
        for number, (x, y) in enumerate(batches()):
            if number == 3:
                scaler.update(2.0)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x), y) * 1e-7
            scaled(scaler, optimizer, loss, model, number)
    finding = underflow(watch)
    assert finding.severity is Severity.WARNING
    assert "instead of 2" in finding.message
