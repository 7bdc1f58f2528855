"""Hooks: what they leave behind, and what copies and other threads see of them."""

import copy
import gc
import io
import pickle
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import hook_kinds
from gradwatch import hooks as hooks_module
from gradwatch.stopwatch import Stopwatch
from tests.harmless import global_hooks, hooks_on
from tests.harmless import small_net as net
from tests.harmless import train_briefly as train


@pytest.fixture(autouse=True)
def nothing_is_left_in_torch():
    """Hold that no global optimizer hook outlives a test."""
    yield
    gc.collect()
    assert global_hooks() == []


def test_nothing_is_left_after_the_block():
    """No hook on modules, parameters, or in torch."""
    model = net()
    with gradwatch.watch(model, console=None, every=1):
        assert hooks_on(model)
        train(model)
    assert hooks_on(model) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(error):
    """The exception goes on to the user; the report is there."""
    model = net()
    watch = gradwatch.watch(model, console=None, every=1)

    def loop():
        with watch:
            train(model, 2)
            model(torch.randn(3, 4)).sum().backward()
            raise error

    with pytest.raises(error):
        loop()
    assert hooks_on(model) == []
    assert watch.closed
    assert watch.report().run.steps == 2


def test_an_exception_inside_the_forward_leaves_nothing():
    """Half a forward was seen; the graph is let go."""

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            self.layer(x)
            raise KeyboardInterrupt

    model = Broken()
    with pytest.raises(KeyboardInterrupt), gradwatch.watch(model, console=None):
        model(torch.randn(2, 4))
    assert hooks_on(model) == []


def test_close_may_be_called_again_and_inside_the_loop():
    """A watch closed early leaves the rest of the loop alone."""
    model = net()
    watch = gradwatch.watch(model, console=None)
    train(model, 2)
    watch.close()
    watch.close()
    train(model, 2)
    assert hooks_on(model) == []
    assert watch.report().run.steps == 2


def test_a_model_that_is_dropped_closes_its_watch():
    """A watch keeps neither the model nor its tensors alive, armed or not."""
    model = net()
    watch = gradwatch.watch(model, console=None, every=1)
    train(model)
    kept = [weakref.ref(model), *map(weakref.ref, model.parameters())]
    del model
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
    assert watch.closed
    assert watch.report().run.steps == 5


def test_a_watch_that_is_dropped_lives_on_with_the_model():
    """Without a name the watch still reports, and goes with the model."""
    model = net()
    gradwatch.watch(model, console=None, every=1)
    gc.collect()
    train(model)
    again = gradwatch.watch(model, console=None, every=1)
    assert again.history.num_probes == 5
    again.close()


def test_no_graph_outlives_its_step():
    """Tensors of the forward die with the user's last reference."""
    model = net()
    with gradwatch.watch(model, console=None, every=1):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen = []
        for _ in range(3):
            out = model(torch.randn(3, 4))
            loss = out.square().mean()
            loss.backward()
            optimizer.step()
            seen.append(weakref.ref(out))
            del out, loss
        gc.disable()
        try:
            alive = [ref for ref in seen if ref is not None and ref() is not None]
            assert alive == []
        finally:
            gc.enable()


def test_a_probe_leaves_nothing_to_the_collector():
    """Its entries, closures and tensors go with the last reference to them."""
    model = net()
    with gradwatch.watch(model, every=1, console=None):
        train(model, 3)
        gc.collect()
        gc.disable()
        try:
            train(model, 3)
            assert gc.collect() == 0
        finally:
            gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_inside_ours_and_is_left_as_it_was(monkeypatch, enabled):
    """Also where ours fails; a collector that the user put off stays off."""
    seen = []

    def fail(*_):
        seen.append(gc.isenabled())
        raise RuntimeError("ours")

    model = net()
    watch = gradwatch.watch(model, every=1, console=None)
    monkeypatch.setattr(watch._observer, "on_step_begin", fail)
    if not enabled:
        gc.disable()
    try:
        with pytest.warns(gradwatch.DetachedWarning):
            train(model, 1)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen == [False]
    watch.close()


def test_forwards_without_a_backward_do_not_pile_up():
    """Rollouts with gradients on keep a few graphs, not all of them."""
    model = net()
    with gradwatch.watch(model, console=None, every=1):
        outputs = [weakref.ref(model(torch.randn(3, 4))) for _ in range(50)]
        gc.collect()
        assert sum(ref() is not None for ref in outputs) <= 4
        train(model, 1)
        gc.collect()
        assert all(ref() is None for ref in outputs)


def test_equal_watches_are_one():
    """A second call with equal options gives the live watch; another is independent."""
    model = net()
    first = gradwatch.watch(model, console=None, every=1)
    assert gradwatch.watch(model, console=None, every=1) is first
    second = gradwatch.watch(model, console=None, every=2)
    assert second is not first
    train(model, 4)
    assert (first.history.num_probes, second.history.num_probes) == (4, 2)
    both = zip(first.history.probes[::2], second.history.probes, strict=True)
    for mine, theirs in both:
        assert mine.layers == theirs.layers
    first.close()
    assert gradwatch.watch(model, console=None, every=1) is not first
    second.close()
    gradwatch.watch(model, console=None, every=1).close()
    assert hooks_on(model) == []


@pytest.mark.parametrize("armed", [True, False])
def test_copies_carry_no_live_hook(armed):
    """Deep copies, pickles and saved models train without telling the watch."""
    model = net()
    with gradwatch.watch(model, console=None, every=1 if armed else 100) as watch:
        train(model, 3)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twins = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(buffer, weights_only=False),
            copy.deepcopy(copy.deepcopy(model)),
        ]
        probes = watch.history.num_probes
        for twin in twins:
            train(twin, 3)
            with torch.no_grad():
                twin(torch.randn(2, 4))
        assert watch.history.num_probes == probes
        assert watch._observer.step == 3
        assert watch._observer.hooks.failure is None
    for twin in twins:
        assert not any("gradwatch" in type(h).__module__ for h in hooks_on(twin))


def test_a_watched_model_loads_without_gradwatch(tmp_path):
    """A pickle of a watched model names nothing of gradwatch."""
    model = net()
    with gradwatch.watch(model, console=None, every=1):
        path = tmp_path / "model.pt"
        torch.save(model, path)
        data = pickle.dumps(model)
    assert b"gradwatch" not in data
    code = (
        "import sys, torch; sys.modules['gradwatch'] = None;"
        f"m = torch.load({str(path)!r}, weights_only=False);"
        "m(torch.randn(2, 4)).sum().backward()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_state_dict_is_as_ever():
    """No key is added while a watch is on."""
    model = net()
    keys = list(model.state_dict())
    with gradwatch.watch(model, console=None, every=1):
        assert list(model.state_dict()) == keys
        assert list(train(model).state_dict()["state"]) == list(range(6))


def test_other_threads_are_not_measured():
    """Forwards of a serving thread do not enter a probe; nothing breaks."""
    model = net()
    errors = []

    def serve():
        try:
            for _ in range(30):
                model(torch.randn(2, 4)).sum()
        except Exception as error:
            errors.append(error)

    with gradwatch.watch(model, console=None, every=1) as watch:
        train(model, 1)
        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        train(model, 5)
        for thread in threads:
            thread.join()
        assert watch._observer.hooks.failure is None
    assert errors == []
    for probe in watch.history.probes[2:]:
        assert [(r.layer, r.call) for r in probe.layers][:2] == [("0", 0), ("1", 0)]


def test_training_in_another_thread_is_measured():
    """The thread that steps the optimizer is the one that counts."""
    model = net()
    with gradwatch.watch(model, console=None, every=1) as watch:
        thread = threading.Thread(target=train, args=(model,))
        thread.start()
        thread.join()
    assert watch.history.num_probes == 5
    assert watch.history.latest.layers[0].grad_norm > 0


def test_a_hook_removed_in_the_same_call_is_inert():
    """Torch calls a hook it has just removed without the keywords it asked for."""
    manager = hooks_module.HookManager(net(), None, Stopwatch(50))
    module = nn.Linear(2, 2)
    assert hook_kinds.EnterHook(manager, set())(module, ()) is None
    assert hook_kinds.LeaveHook(manager)(module, (), None) is None
    assert hook_kinds.RootEnterHook(manager)(module, ()) is None
    assert hook_kinds.RootLeaveHook(manager)(module, (), None) is None
