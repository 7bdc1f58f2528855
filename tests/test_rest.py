"""Between looks no hook is left but the one that counts steps."""

import time

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import gradwatch
from tests.harmless import global_hooks, hooks_on
from tests.harmless import small_net as net

#: Costs such that a pulse is due every 125th step: the half of 1 % of a step is 5 us,
#: of which the count of steps takes one.
PULSE_S, STEP_S, COUNT_S = 0.498e-3, 1e-3, 1e-6
PULSE_EVERY = 125


class Training:
    """A watched net whose rhythm is told what looks and steps cost."""

    def __init__(self, optimizer=torch.optim.SGD, **options):
        torch.manual_seed(0)
        self.model = net()
        self.optimizer = optimizer(self.model.parameters(), lr=0.01)
        settings = {"budget_after": 3, "probe_steps": (0, 1), **options}
        self.watch = gradwatch.watch(self.model, settings=settings, console=None)
        rhythm = self.watch._observer.rhythm
        rhythm._pulse_s, rhythm._probe_s, rhythm._step_s = PULSE_S, 5e-3, STEP_S
        rhythm.note_idle(COUNT_S)
        for name in ("note_pulse", "note_step", "note_balance"):
            setattr(rhythm, name, lambda *values: None)

    def step(self, count=1):
        """Train for some steps."""
        for _ in range(count):
            self.model(torch.randn(4, 4)).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def test_a_step_that_is_not_looked_at_finds_one_hook():
    """Neither model nor parameters carry one; the optimizers' own is the count."""
    training = Training()
    training.step(10)
    assert training.watch._observer.hooks.resting > 0
    assert len(hooks_on(training.model)) == len(global_hooks())
    assert len(global_hooks()) == 1
    training.watch.close()
    assert len(global_hooks()) == 0


def test_steps_are_counted_while_nobody_looks():
    """The report's steps are the optimizer's, and pulses fall on their steps."""
    training = Training()
    training.step(250)
    observer = training.watch._observer
    assert observer.step == 250
    assert training.watch.report().run.steps == 250
    pulses = [pulse.step for pulse in training.watch.history.pulses]
    assert pulses == [0, 1, 2, *range(PULSE_EVERY, 250, PULSE_EVERY)]
    training.watch.close()


def test_probes_fall_on_their_steps_after_a_rest():
    """A probe of the opening rhythm that lies within a rest ends it in time."""
    training = Training(probe_steps=(0, 1, 17, 40))
    training.step(45)
    assert [p.step for p in training.watch.history.probes] == [0, 1, 17, 40]
    assert all(len(p.layers) == 4 for p in training.watch.history.probes)
    training.watch.close()


def test_every_step_is_looked_at_before_the_budget_rules():
    """The opening rhythm and its pulses are not shortened."""
    training = Training(budget_after=30)
    training.step(30)
    assert len(training.watch.history.pulses) == 30
    training.watch.close()


def test_another_optimizer_takes_over_when_the_clock_stops():
    """A rest ends although the optimizer that counted it never steps again."""
    training = Training()
    training.step(10)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.01)
    training.step(300)
    observer = training.watch._observer
    assert observer.optimizers.clock is training.optimizer
    assert training.watch.history.pulses[-1].step > 200
    training.watch.close()


def test_steps_told_by_hand_are_counted_too():
    """`watch.step()` of an optimizer that is not torch's rests as well."""
    training = Training()
    for _ in range(250):
        training.model(torch.randn(4, 4)).square().mean().backward()
        training.watch.step()
        training.model.zero_grad()
    assert training.watch._observer.step == 250
    assert len(training.watch.history.pulses) < 10
    training.watch.close()


def test_closing_in_a_rest_leaves_nothing():
    """Also from inside the loop, and a second watch can follow."""
    training = Training()
    training.step(10)
    training.watch.close()
    assert len(hooks_on(training.model)) == len(global_hooks())
    assert len(global_hooks()) == 0
    again = gradwatch.watch(training.model, console=None)
    training.step(3)
    again.close()
    assert len(again.history.probes) == 3


def test_an_optimizer_that_steps_inside_its_own_step_is_never_rested():
    """Its nested steps would count twice without the hook before them."""

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            if not getattr(self, "inside", False):
                self.inside = True
                self.step()
                self.inside = False
            return super().step(closure)

    training = Training(optimizer=Twice)
    training.step(120)
    observer = training.watch._observer
    assert observer.step == 120
    assert observer.hooks.resting == 0
    training.watch.close()


def test_the_share_that_is_reported_is_within_the_budget():
    """After the opening, looks are paid for by the time that has passed."""
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    settings = {"budget": 0.1, "budget_after": 10, "probe_steps": (0, 1, 2)}
    with gradwatch.watch(model, settings=settings, console=None) as watch:
        for _ in range(300):
            model(torch.randn(4, 4)).square().mean().backward()
            time.sleep(0.001)
            optimizer.step()
            optimizer.zero_grad()
    share = watch.report().overhead.share
    assert 0.0 < share < 0.12
    assert len(watch.history.pulses) > 12


@pytest.mark.parametrize("watched", ["inner", "wrapper"])
def test_a_compiled_model_is_not_compiled_again(watched):
    """Resting and waking change no hook that compiled code depends on."""
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled = torch.compile(inner, backend=counter)
    target = inner if watched == "inner" else compiled
    settings = {"budget_after": 3, "probe_steps": ()}
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.01)
    with gradwatch.watch(target, settings=settings, console=None) as watch:
        rhythm = watch._observer.rhythm
        rhythm.note_probe(0, 1e3)  # none is wanted here
        rhythm._step_s = STEP_S
        rhythm.note_step = lambda seconds: None
        for step in range(60):
            if step == 5:
                begun = counter.frame_count  # the opening probe had hooks inside
            compiled(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert watch._observer.step == 60
    assert counter.frame_count == begun
