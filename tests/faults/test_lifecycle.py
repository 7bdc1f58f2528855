"""Models that change, loops that end early, copies, exports, threads, processes."""

import contextlib
import copy
import gc
import io
import pickle
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradwatch
from tests.harmless import (
    alike,
    global_hooks,
    hooks_on,
    small_net,
    state_of,
    train_briefly,
    watched,
)


@pytest.fixture(autouse=True)
def nothing_is_left_in_torch():
    """Hold that no global optimizer hook outlives a test."""
    yield
    gc.collect()
    assert global_hooks() == []


def steps(model, optimizer, count=3, make=lambda: torch.randn(3, 4)):
    """Train some steps on random batches."""
    for _ in range(count):
        optimizer.zero_grad()
        model(make()).float().square().mean().backward()
        optimizer.step()


class Lora(nn.Module):
    """A frozen layer with a trainable detour of low rank."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.down = nn.Linear(inner.in_features, 2, bias=False)
        self.up = nn.Linear(2, inner.out_features, bias=False)

    def forward(self, x):
        """Return the layer's output and the detour's."""
        return self.inner(x) + self.up(self.down(x))


def append(model):
    """Add a layer at the end."""
    model.append(nn.Linear(2, 2))


def drop(model):
    """Take a hidden layer away."""
    del model[2]


def replace(model):
    """Put another layer in a layer's place."""
    model[2] = nn.Linear(6, 6)


def freeze(model):
    """Stop to train the first layer."""
    model[0].requires_grad_(False)


def thaw(model):
    """Freeze and thaw again."""
    model[0].requires_grad_(False).requires_grad_(True)


def widen(model):
    """Train in double precision."""
    model.double()


def wrap(model):
    """Give a layer a detour of low rank."""
    model[2] = Lora(model[2])


def share(model):
    """Tie the weights of two layers."""
    model.insert(3, nn.Linear(6, 6))
    model[3].weight = model[2].weight


def move(model):
    """Move the model to the device where it is."""
    model.to("cpu")


def prune(model):
    """Reparametrise a weight."""
    nn.utils.parametrizations.weight_norm(model[0])


SURGERIES = [append, drop, replace, freeze, thaw, widen, wrap, share, move, prune]


@pytest.mark.parametrize("every", [1, 100], ids=["armed", "idle"])
@pytest.mark.parametrize("surgery", SURGERIES, ids=lambda s: s.__name__)
def test_a_model_may_change_while_it_is_watched(surgery, every):
    """The same bits as without a watch, and the new layers are what is measured."""

    def run(model):
        steps(model, torch.optim.SGD(model.parameters(), lr=0.1))
        surgery(model)
        dtype = model[0].weight.dtype
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        steps(model, optimizer, 3, lambda: torch.randn(3, 4, dtype=dtype))
        return model

    plain = small_net()
    torch.manual_seed(3)
    expected = state_of(run(plain))
    model = small_net()
    torch.manual_seed(3)
    with watched(model, every=every) as watch:
        run(model)
        result = state_of(model)
        watch.report()
    assert alike(expected, result)
    assert hooks_on(model) == hooks_on(plain)
    if every == 1:
        measured = {p.name for p in watch.history.latest.parameters}
        assert measured == {name for name, _ in model.named_parameters()}
        assert watch.history.num_probes == 6


def test_an_embedding_may_be_resized():
    """More rows in the middle of training, as new tokens need."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.words(x).mean(1))

    model = Words()
    with watched(model, every=1) as watch:
        for rows in (5, 9):
            old = model.words.weight.detach()
            model.words = nn.Embedding(rows, 4)
            with torch.no_grad():
                model.words.weight[: len(old)] = old
            optimizer = torch.optim.Adam(model.parameters())
            steps(model, optimizer, 3, lambda r=rows: torch.randint(r, (3, 4)))
    assert watch.report().run.num_parameters == 9 * 4 + 10


def test_attached_and_detached_a_thousand_times():
    """Nothing piles up: no hook, no object, no bit of the training."""
    model, plain = small_net(), small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    other = torch.optim.SGD(plain.parameters(), lr=0.01)
    x = torch.randn(3, 4)
    gc.collect()
    gc.freeze()
    try:
        counts = []
        for turn in range(1000):
            with gradwatch.watch(model, console=None, every=1) as watch:
                if turn % 10 == 0:
                    steps(model, optimizer, 1, lambda: x)
            assert watch.closed
            if turn in {100, 999}:
                gc.collect()
                counts.append(len(gc.get_objects()))
    finally:
        gc.unfreeze()
    steps(plain, other, 100, lambda: x)
    assert hooks_on(model) == []
    assert alike(state_of(plain), state_of(model))
    assert counts[1] <= counts[0] + 100


@pytest.mark.parametrize("ending", ["close", "del", "throw"])
def test_a_generator_that_trains_may_be_left(ending):
    """A loop inside a generator ends with it; so does the watch."""
    model = small_net()

    def training():
        with gradwatch.watch(model, console=None, every=1):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            while True:
                steps(model, optimizer, 1)
                yield model

    loop = training()
    next(loop)
    next(loop)
    assert hooks_on(model)
    if ending == "close":
        loop.close()
    elif ending == "throw":
        with pytest.raises(KeyboardInterrupt):
            loop.throw(KeyboardInterrupt())
    del loop
    gc.collect()
    assert hooks_on(model) == []


def interrupt(error, now):
    """Raise the error now, or never."""
    if now:
        raise error


def test_an_exception_between_backward_and_step_is_survived():
    """A step left half done by the user's error is followed by whole ones."""
    model = small_net()
    with watched(model, every=1) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for turn in range(4):
            with contextlib.suppress(ValueError, KeyboardInterrupt):
                optimizer.zero_grad()
                loss = model(torch.randn(3, 4)).sum()
                interrupt(ValueError, turn == 1)
                loss.backward()
                interrupt(KeyboardInterrupt, turn == 2)
                optimizer.step()
    assert watch.report().run.steps == 2


def test_two_models_in_two_threads():
    """Each watch measures its own training."""
    models = [small_net(), small_net()]
    errors, results = [], {}

    def work(key):
        try:
            with watched(models[key], every=1) as watch:
                optimizer = torch.optim.SGD(models[key].parameters(), lr=0.1)
                generator = torch.Generator().manual_seed(key)
                steps(
                    models[key],
                    optimizer,
                    20,
                    lambda: torch.randn(3, 4, generator=generator),
                )
            results[key] = watch.history.num_probes
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert results == {0: 20, 1: 20}
    for key, model in enumerate(models):
        plain = small_net()
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(key)
        steps(plain, optimizer, 20, lambda g=generator: torch.randn(3, 4, generator=g))
        assert alike(state_of(plain)["parameters"], state_of(model)["parameters"])


def test_watches_may_be_closed_from_another_thread():
    """Closing beside the training thread leaves nothing and breaks nothing."""
    model = small_net()
    watches = [gradwatch.watch(model, console=None, every=n + 1) for n in range(5)]
    started = threading.Event()

    def close():
        started.wait()
        for watch in watches:
            watch.close()

    thread = threading.Thread(target=close)
    thread.start()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    started.set()
    steps(model, optimizer, 50)
    thread.join()
    steps(model, optimizer, 1)
    for watch in watches:
        watch.close()
    assert hooks_on(model) == []


@pytest.mark.parametrize("every", [1, 100], ids=["armed", "idle"])
def test_a_watched_model_can_be_traced_and_exported(every):
    """What torch makes of it computes the same and tells no watch."""
    model = small_net()
    x = torch.randn(3, 4)
    with watched(model, every=every) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        steps(model, optimizer)
        expected = model(x)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch's own word on the end of TorchScript
            made = {"trace": torch.jit.trace(model, (x,))}
            buffer = io.BytesIO()
            torch.jit.save(made["trace"], buffer)
            buffer.seek(0)
            made["loaded"] = torch.jit.load(buffer)
            made["export"] = torch.export.export(model, (x,)).module()
        for name, other in made.items():
            assert torch.equal(other(x), expected), name
        steps(model, optimizer)
        assert watch._observer.step == 6
    assert hooks_on(model) == []


def test_scripting_waits_for_the_end_of_the_watch():
    """TorchScript compiles hooks, ours or not, and can compile none of Python's.

    The attempt raises torch's error and harms neither model nor watch; a model whose
    watch is closed is scripted as ever.
    """
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own word on the end of TorchScript
        with watched(model, every=1) as watch:
            steps(model, optimizer)
            with pytest.raises(AttributeError, match="__name__"):
                torch.jit.script(model)
            steps(model, optimizer)
        scripted = torch.jit.script(model)
    assert watch.history.num_probes == 6
    x = torch.randn(3, 4)
    assert torch.equal(scripted(x), model(x))


def test_copies_of_a_closed_watch_s_model_are_plain():
    """After the block nothing distinguishes the model from an unwatched one."""
    model = small_net()
    with gradwatch.watch(model, console=None, every=1):
        train_briefly(model)
    assert b"gradwatch" not in pickle.dumps(model)
    assert hooks_on(copy.deepcopy(model)) == []


def test_model_and_watch_may_be_collected_in_any_order():
    """A cycle of the user's through model and watch is no leak."""
    model = small_net()
    model.box = [gradwatch.watch(model, console=None, every=1)]
    train_briefly(model)
    gone = weakref.ref(model), weakref.ref(model.box[0])
    model.box[0].close()
    del model
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize(
    "method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_data_loader_workers_beside_a_watch(method):
    """Workers start, feed and end; no hook of ours runs in them."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(12, 4))

    def run(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(
            data, batch_size=3, num_workers=1, multiprocessing_context=method
        )
        torch.manual_seed(1)
        for (x,) in loader:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return state_of(model)

    expected = run(small_net())
    model = small_net()
    with watched(model, every=1) as watch:
        result = run(model)
    assert alike(expected, result)
    assert watch.history.num_probes == 4
