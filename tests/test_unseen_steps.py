"""Updates that no optimizer told of count as steps, and nothing else does."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.harmless import watched

STEPS = 24
RATE = 0.1


def net():
    """Return a small net without randomness."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    )


def batches():
    """Return fixed batches."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 6, generator=generator),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def announced(model, micro):
    """Return a step with an optimizer of torch's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return optimizer.step


def by_hand(model, micro):
    """Return a step that changes the weights in place and tells nobody."""

    def step():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=-RATE)

    return step


def train(make_step, watching=True, micro=1, to_none=True, every=3):
    """Train; return the watch, if any, and the weights."""
    model = net()

    def loop():
        step = make_step(model, micro)
        for x, y in batches():
            model.zero_grad(set_to_none=to_none)
            for part in range(micro):
                loss = F.cross_entropy(model(x[part::micro]), y[part::micro])
                (loss / micro).backward()
            step()

    if not watching:
        loop()
        return None, torch.cat([p.detach().flatten() for p in model.parameters()])
    with watched(model, every=every) as watch:
        loop()
    return watch, torch.cat([p.detach().flatten() for p in model.parameters()])


def numbers(watch):
    """Return what probes and pulses say, by step."""
    probes = {
        record.step: {
            **{f"grad {p.name}": p.grad_norm for p in record.parameters},
            **{f"update {p.name}": p.update_ratio for p in record.parameters},
            **{f"output {e.layer}": e.grad_norm for e in record.layers},
        }
        for record in watch.history.probes
    }
    pulses = {pulse.step: pulse.grad_norm for pulse in watch.history.pulses}
    return probes, pulses


@pytest.mark.parametrize("to_none", [True, False], ids=["none", "zeroed"])
@pytest.mark.parametrize("micro", [1, 2])
def test_steps_by_hand_measure_what_an_optimizer_s_steps_do(micro, to_none):
    """The same training, told and untold, gives the same numbers at the same steps."""
    told, weights = train(announced, micro=micro, to_none=to_none)
    untold, same = train(by_hand, micro=micro, to_none=to_none)
    assert torch.equal(weights, same)
    probes, pulses = numbers(told)
    found, beats = numbers(untold)
    # The second update shows that they are steps; the last one has no forward after it.
    assert untold.report().run.steps == STEPS - 1
    assert set(found) == {step for step in probes if 2 <= step < STEPS - 1}
    for step, values in found.items():
        assert values == pytest.approx(probes[step], rel=1e-3), step
    assert beats == pytest.approx(
        {step: norm for step, norm in pulses.items() if step in beats}, rel=1e-6
    )
    assert set(found) <= set(beats)


def test_weights_are_the_same_without_a_watch():
    """Noticing steps changes nothing."""
    _, weights = train(by_hand, every=1)
    _, plain = train(by_hand, watching=False)
    assert torch.equal(weights, plain)


def test_every_step_can_be_probed():
    """Probe after probe: one ends and the next begins in the same forward."""
    untold, _ = train(by_hand, every=1)
    told, _ = train(announced, every=1)
    probes, _ = numbers(told)
    found, _ = numbers(untold)
    assert list(found) == list(range(2, STEPS - 1))
    for step, values in found.items():
        assert values == pytest.approx(probes[step], rel=1e-3), step


def test_weights_moved_within_a_step_are_no_step():
    """SAM moves the weights, looks again, and moves them back before its step."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with watched(model, every=1) as watch:
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                moved = [0.05 * p.grad for p in model.parameters()]
                for parameter, by in zip(model.parameters(), moved, strict=True):
                    parameter.add_(by)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for parameter, by in zip(model.parameters(), moved, strict=True):
                    parameter.sub_(by)
            optimizer.step()
    assert watch.report().run.steps == STEPS


def test_backward_passes_without_an_update_are_no_steps():
    """Gradients alone do not move the clock."""
    model = net()
    with watched(model, every=1) as watch:
        for x, y in batches():
            F.cross_entropy(model(x), y).backward()
    assert watch.report().run.steps == 0
