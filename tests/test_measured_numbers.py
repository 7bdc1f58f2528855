"""What a probe and a pulse say equals a hand-made loop that measures the naive way."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from tests.harmless import watched

STEPS = 6


def net():
    """Return a small net without randomness."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    )


def batches(count=STEPS):
    """Return fixed batches."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 6, generator=generator),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(count)
    ]


class Naive:
    """Norms of layer gradients by `tensor.register_hook`, as anyone would write it."""

    def __init__(self, model):
        self.squares = {}
        self.outputs = {}
        for name, module in model.named_children():
            module.register_forward_hook(self.hook(name))

    def hook(self, name):
        """Return a forward hook that notes the gradient of the output."""

        def on_output(module, args, output):
            self.outputs[name] = output.detach().clone()
            output.register_hook(
                lambda g: self.squares.setdefault(name, []).append(float(g.norm()) ** 2)
            )

        return on_output

    def norms(self):
        """Return the RMS over the backward passes, and start anew."""
        squares, self.squares = self.squares, {}
        return {n: math.sqrt(sum(s) / len(s)) for n, s in squares.items()}


def naive_run(step, model=None):
    """Return, for each step, norms of layers, parameters, updates, and the clip."""
    model = model or net()
    naive = Naive(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    rows = []
    for x, y in batches():
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        clip = step(model, optimizer, x, y)
        optimizer.step()
        rows.append(
            {
                "layers": naive.norms(),
                "outputs": dict(naive.outputs),
                "grads": {n: float(p.grad.norm()) for n, p in model.named_parameters()},
                "ratios": {
                    n: float((p.detach() - before[n]).norm() / before[n].norm())
                    for n, p in model.named_parameters()
                },
                "weights": {n: float(before[n].square().mean().sqrt()) for n in before},
                "total": clip,
            }
        )
    return rows


def watched_run(step, model=None, **options):
    """Return the watch of the same run."""
    model = model or net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with watched(model, every=1, **options) as watch:
        for x, y in batches():
            step(model, optimizer, x, y)
            optimizer.step()
    return watch


def plain_step(model, optimizer, x, y):
    """One backward pass."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return total_norm(model)


def accumulated_step(model, optimizer, x, y):
    """Four backward passes on quarters of the batch."""
    optimizer.zero_grad()
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        (F.cross_entropy(model(x[rows]), y[rows]) / 4).backward()
    return total_norm(model)


def clipped_step(model, optimizer, x, y):
    """Clip to a tenth."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return float(nn.utils.clip_grad_norm_(model.parameters(), 0.05))


def total_norm(model):
    """Return the global gradient norm."""
    return math.sqrt(sum(float(p.grad.norm()) ** 2 for p in model.parameters()))


@pytest.mark.parametrize("step", [plain_step, accumulated_step, clipped_step])
def test_a_probe_equals_the_naive_loop(step):
    """Layer gradients, parameter gradients, updates, outputs and weights."""
    expected = naive_run(step)
    watch = watched_run(step)
    assert [probe.step for probe in watch.history.probes] == list(range(STEPS))
    for row, probe in zip(expected, watch.history.probes, strict=True):
        layers = {r.layer: r.grad_norm for r in probe.layers}
        assert layers == pytest.approx(row["layers"], rel=1e-5)
        rms = {r.layer: r.output_rms for r in probe.layers}
        if step is plain_step:
            expected_rms = {
                n: float(out.square().mean().sqrt())
                for n, out in row["outputs"].items()
            }
            assert rms == pytest.approx(expected_rms, rel=1e-5)
        grads = {p.name: p.grad_norm for p in probe.parameters}
        assert grads == pytest.approx(row["grads"], rel=1e-5)
        ratios = {p.name: p.update_ratio for p in probe.parameters}
        assert ratios == pytest.approx(row["ratios"], rel=1e-4)
        weights = {p.name: p.weight_rms for p in probe.parameters}
        assert weights == pytest.approx(row["weights"], rel=1e-5)


@pytest.mark.parametrize("step", [plain_step, accumulated_step, clipped_step])
def test_a_pulse_knows_the_norm_before_and_after_clipping(step):
    """Pre-clip norm, post-clip norm and the factor between them."""
    expected = naive_run(step)
    watch = watched_run(step)
    for row, pulse in zip(expected, watch.history.pulses, strict=True):
        assert pulse.grad_norm == pytest.approx(row["total"], rel=1e-5)
        after = math.sqrt(sum(g**2 for g in row["grads"].values()))
        assert pulse.step_grad_norm == pytest.approx(after, rel=1e-4)
        assert pulse.clip_factor == pytest.approx(after / row["total"], rel=1e-4)
        assert pulse.lr == 0.01
        assert pulse.finite


def test_a_nested_backward_yields_no_clip_factor():
    """Where gradients changed otherwise than by one factor, nothing is claimed."""

    def step(model, optimizer, x, y):
        plain_step(model, optimizer, x, y)
        with torch.no_grad():
            model[0].weight.grad.mul_(3.0)

    watch = watched_run(step)
    assert {pulse.clip_factor for pulse in watch.history.pulses} == {None}


def test_the_clip_factor_is_in_the_probe_too():
    """A probe of a clipped step says by how much."""
    watch = watched_run(clipped_step)
    for probe, pulse in zip(watch.history.probes, watch.history.pulses, strict=True):
        assert probe.clip_factor == pulse.clip_factor


def test_a_loss_scale_is_divided_out_everywhere():
    """With a scaler all norms are those of the run without one."""
    expected = naive_run(plain_step)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with watched(model, every=1) as watch:
        for x, y in batches():
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    for row, probe, pulse in zip(
        expected, watch.history.probes, watch.history.pulses, strict=True
    ):
        layers = {r.layer: r.grad_norm for r in probe.layers}
        assert layers == pytest.approx(row["layers"], rel=1e-4)
        grads = {p.name: p.grad_norm for p in probe.parameters}
        assert grads == pytest.approx(row["grads"], rel=1e-4)
        assert probe.loss_scale == 2.0**16
        assert pulse.grad_norm == pytest.approx(row["total"], rel=1e-4)
        assert pulse.clip_factor == pytest.approx(1.0, rel=1e-4)


def test_the_loss_is_recognised_logged_or_returned():
    """Cross-entropy at probes, `watch.log`, and a closure's return value."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with watched(model, every=1) as watch:
        for number, (x, y) in enumerate(batches()):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                losses.append(float(loss.detach()))
                return loss

            if number % 3 == 0:
                closure()
                optimizer.step()
            elif number % 3 == 1:
                watch.log(loss=closure())
                optimizer.step()
            else:
                optimizer.step(closure)
    found = [probe.loss for probe in watch.history.probes]
    assert found == pytest.approx(losses, rel=1e-6)


def test_large_tensors_are_sampled_evenly():
    """A uniform update is exact, a random one right within a few per cent."""
    torch.manual_seed(0)
    model = nn.Linear(300, 200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, every=1) as watch:
        model.weight.grad = torch.randn_like(model.weight)
        model.bias.grad = 0.01 * model.bias.detach() / 0.1
        expected = float(model.weight.grad.norm() * 0.1 / model.weight.detach().norm())
        optimizer.step()
    ratios = {p.name: p.update_ratio for p in watch.history.probes[0].parameters}
    assert ratios["weight"] == pytest.approx(expected, rel=0.05)
    assert ratios["bias"] == pytest.approx(0.01, rel=1e-4)


def test_outputs_of_a_module_called_twice_are_two_calls():
    """Calls are kept apart within a forward and merged over micro-batches."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            first = self.layer(x)
            second = self.layer(first.tanh())
            self.seen = (first, second)
            for tensor in self.seen:
                tensor.retain_grad()
            return self.head(second)

    torch.manual_seed(0)
    model = Twice()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    squares = {0: [], 1: []}
    with watched(model, every=1) as watch:
        for _ in range(3):
            model(torch.randn(5, 4)).square().mean().backward()
            for call, tensor in enumerate(model.seen):
                squares[call].append(float(tensor.grad.norm()) ** 2)
        del model.seen
        optimizer.step()
    records = {
        r.call: r.grad_norm for r in watch.history.latest.layers if r.layer[0] == "l"
    }
    expected = {call: math.sqrt(sum(s) / 3) for call, s in squares.items()}
    assert records == pytest.approx(expected, rel=1e-5)


def test_a_manual_step_after_the_update_measures_it():
    """An optimizer of one's own: from the second probe on, updates too."""
    model = net()
    with watched(model, every=1) as watch:
        for x, y in batches():
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            expected = {
                name: float(0.1 * p.grad.norm() / p.detach().norm())
                for name, p in model.named_parameters()
            }
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(0.1 * parameter.grad)
            watch.step()
    assert watch.history.num_probes == STEPS
    first, last = watch.history.probes[0], watch.history.latest
    assert all(p.update_ratio is None for p in first.parameters)
    assert all(p.grad_norm > 0 for p in last.parameters)
    measured = {p.name: p.update_ratio for p in last.parameters}
    assert measured == pytest.approx(expected, rel=1e-3)
    assert watch.history.pulses[-1].grad_norm > 0
    assert gradwatch.Report.model_validate(watch.report()).run.steps == STEPS
