"""What a watch captures for trials, and how little of it where memory is short."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from gradwatch.capture import Capture, cloned
from tests.harmless import alike
from tests.trial_models import Noisy, batches, deep, deep_batches, loss_fn


def watched(model, steps=4, data=None, loss=loss_fn, **settings):
    """Train a watched model and return what was captured."""
    data = data or batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with gradwatch.watch(model, every=1, console=None, settings=settings) as watch:
        for step in range(steps):
            optimizer.zero_grad()
            loss(model, data[step % len(data)]).backward()
            optimizer.step()
    return watch._observer.capture


def test_the_last_batches_are_kept_as_they_were():
    """Clones: what the loop does to its tensors afterwards does not matter."""
    data = [(x.clone(), y) for x, y in batches()]
    kept = [x.clone() for x, _ in data]

    def loss_then_spoil(model, batch):
        loss = loss_fn(model, batch)
        with torch.no_grad():
            batch[0].add_(100.0)
        return loss

    capture = watched(Noisy(), data=data, loss=loss_then_spoil)
    assert [batch.step for batch in capture.batches] == [0, 1, 2, 3]
    for batch, x in zip(capture.batches, kept, strict=True):
        assert torch.equal(batch.args[0], x)
        assert (batch.kept, batch.of) == (7, 7)
        assert len(batch.outputs) == len(batch.cotangents) == 1


def test_at_most_eight_batches_are_kept():
    """The first, which tells most of a run that diverges, and the newest seven."""
    capture = watched(Noisy(), steps=12)
    assert [batch.step for batch in capture.batches] == [0, *range(5, 12)]


def test_the_weights_at_the_start_are_kept_and_can_be_put_back():
    """Trials start untrained, also after training."""
    model = Noisy()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    capture = watched(model)
    assert not alike(before, dict(model.state_dict()))
    twin = Noisy()
    assert capture.fits(twin)
    capture.restore_initial(twin)
    assert alike(before, dict(twin.state_dict()))
    assert not capture.fits(nn.Linear(6, 3))


def test_a_larger_batch_is_cut_along_its_samples():
    """A sub-batch within the limit, with its rows of the output and the gradient."""
    model, data = nn.Linear(6, 3), [(torch.randn(400, 6), torch.randint(3, (400,)))]
    limit = 8_000
    capture = watched(model, data=data, capture_limit=limit)
    batch = capture.batches[-1]
    assert 0 < batch.kept < batch.of == 400
    assert torch.equal(batch.args[0], data[0][0][: batch.kept])
    assert len(batch.outputs[0]) == len(batch.cotangents[0]) == batch.kept
    assert capture.bytes <= limit


@pytest.mark.parametrize("limit", [0, 100, 1_000, 10_000, 100_000])
def test_no_more_than_the_limit_is_taken(limit):
    """Weights and batches together."""
    capture = watched(deep(), data=deep_batches(), steps=12, capture_limit=limit)
    assert capture.bytes <= limit
    assert capture.bytes == sum(b.bytes for b in capture.batches) + sum(
        t.numel() * t.element_size() for t in capture.initial.values()
    )


def test_nothing_is_captured_where_the_limit_is_zero_and_it_says_so():
    """Who wants no copies gets none."""
    capture = watched(Noisy(), capture_limit=0)
    assert not capture.batches
    assert not capture.initial
    assert capture.reason


def test_inputs_that_cannot_be_cloned_are_left_alone():
    """An object of unknown class may hold tensors that a replay would change."""

    class Cache:
        value = torch.zeros(3)

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x, cache):
            return self.layer(x) + cache.value

    def loss(model, batch):
        return F.cross_entropy(model(batch[0], Cache()), batch[1])

    capture = watched(Reads(), loss=loss)
    assert not capture.batches
    assert "Cache" in capture.reason


def test_clones_keep_their_containers():
    """Lists, tuples, mappings and plain values come back as they are."""
    value = {"x": [torch.ones(2), (torch.zeros(1), None)], "n": 3, "s": "text"}
    again = cloned(value)
    assert alike(list(value["x"]), list(again["x"]))
    assert again["x"][0] is not value["x"][0]
    assert (again["n"], again["s"]) == (3, "text")
    assert isinstance(again["x"][1], tuple)


def test_forwards_without_a_gradient_are_not_kept():
    """Rollouts and evaluations may come before the forward that counts."""

    def loss(model, batch):
        for _ in range(2):
            model(torch.randn(7, 6))
        return loss_fn(model, batch)

    data = batches()
    capture = watched(Noisy(), data=data, loss=loss)
    assert [
        torch.equal(b.args[0], x)
        for b, (x, _) in zip(capture.batches, data, strict=True)
    ] == [True] * 4


def test_what_the_optimizer_was_made_of_is_noted():
    """It may be gone when a trial wants one like it."""
    capture = watched(Noisy())
    (spec,) = capture.optimizers
    assert spec.kind is torch.optim.SGD
    ((names, options),) = spec.groups
    assert options["lr"] == 0.1
    assert options["momentum"] == 0.9
    assert names[0] == "body.0.weight"


def test_a_model_of_sub_processes_or_unknown_storage_keeps_no_weights():
    """Meta tensors have no values to copy."""
    capture = Capture(2**20)
    capture.keep_initial(nn.Linear(3, 3, device="meta"))
    assert not capture.initial
