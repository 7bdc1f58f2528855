"""Tensors that no training should have: not finite, huge, denormal, empty, odd.

Each training runs twice, with and without gradwatch, and must not differ in a bit; the
watch must meet no error of its own and give a report that can be printed and saved.
"""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradwatch import Report
from gradwatch.console_report import report_text
from tests.harmless import compare, light_heap, small_net

#: Values that break sums, squares, logarithms and divisions.
POISONS = {
    "nan": math.nan,
    "inf": math.inf,
    "minus-inf": -math.inf,
    "largest": torch.finfo(torch.float32).max,
    "lowest": torch.finfo(torch.float32).min,
    "tiny": torch.finfo(torch.float32).tiny,
    "denormal": 1e-45,
    "zero": 0.0,
    "minus-zero": -0.0,
}


@pytest.fixture(scope="module", autouse=True)
def _light_heap():
    """Keep what is loaded out of sight of the collector."""
    with light_heap():
        yield


@pytest.fixture(autouse=True)
def _no_error_is_logged(caplog):
    """Hold that nothing failed that is borne with a line in the log."""
    yield
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def said(watch):
    """Hold that the report prints and reads back; return it."""
    report = watch.report()
    assert report_text(report)
    text = report.to_json()
    assert Report.from_json(text).to_json() == text
    return report


def train(model, batches, rate=0.1):
    """Train with momentum on these batches; return the optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        model(x).float().square().mean().backward()
        optimizer.step()
    return optimizer


@settings(max_examples=25, deadline=None)
@given(
    places=st.lists(
        st.tuples(
            st.sampled_from(["input", "weight", "gradient"]),
            st.integers(0, 5),  # step
            st.integers(0, 11),  # entry
            st.sampled_from(sorted(POISONS)),
        ),
        min_size=1,
        max_size=4,
    ),
    every=st.sampled_from([1, 2, 50]),
)
def test_any_values_anywhere_train_the_same(places, every):
    """Poison in inputs, weights and gradients at any steps."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(6):
            now = [place for place in places if place[1] == step]
            x = torch.randn(3, 4)
            with torch.no_grad():
                for where, _, entry, name in now:
                    target = {"input": x, "weight": model[0].weight}.get(where)
                    if target is not None:
                        target.view(-1)[entry] = POISONS[name]
            optimizer.zero_grad()
            model(x).square().mean().backward()
            for where, _, entry, name in now:
                if where == "gradient":
                    model[2].weight.grad.view(-1)[entry] = POISONS[name]
            optimizer.step()
        return optimizer

    watch = compare(small_net, loop, every=every)
    assert said(watch).run.steps == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", POISONS)
def test_a_net_made_of_one_odd_value_trains_the_same(name, dtype):
    """Every weight and every input is the value (the nearest one of the type)."""
    limits = torch.finfo(dtype)
    value = {
        "largest": limits.max,
        "lowest": limits.min,
        "tiny": limits.tiny,
        "denormal": limits.smallest_normal / 2,
    }.get(name, POISONS[name])

    def make():
        model = small_net().to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        return model

    batches = [torch.full((3, 4), value, dtype=dtype) for _ in range(3)]
    watch = compare(make, lambda model: train(model, batches), every=1)
    said(watch)


class Widths(nn.Module):
    """A convolution, an LSTM and a head: for batches and sequences of any length."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        """Return the mean over the positions of each sequence."""
        x = self.conv(x).relu().transpose(1, 2)
        return self.head(self.lstm(x)[0]).sum(1)


@pytest.mark.parametrize("lengths", [(0,), (3, 0, 3), (0, 3), (1, 1)], ids=str)
def test_empty_batches_train_the_same(lengths):
    """No rows: gradients of zero or NaN, nothing to average, no failure."""
    batches = [torch.randn(rows, 2, 5) for rows in lengths]
    said(compare(Widths, lambda model: train(model, batches), every=1))
    flat = [torch.randn(rows, 4) for rows in lengths]
    said(compare(small_net, lambda model: train(model, flat), every=1))


def test_layers_without_entries_train_the_same():
    """Weights of no rows or no columns, beside a layer that can learn."""

    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: nothing to initialise
            return nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 2))

    batches = [torch.randn(3, 4) for _ in range(3)]
    report = said(compare(make, lambda model: train(model, batches), every=1))
    assert report.run.num_parameters == 2


VIEWS = {
    "expanded": lambda: torch.randn(1, 4).expand(3, 4),
    "transposed": lambda: torch.randn(4, 3).t(),
    "strided": lambda: torch.randn(6, 8)[::2, ::2],
    "flipped-sign": lambda: torch.randn(3, 4).neg(),
    "of-a-larger-one": lambda: torch.randn(100)[7:19].view(3, 4),
    "one-row": lambda: torch.randn(4),
    "many-dimensions": lambda: torch.randn(1, 1, 2, 1, 3, 4),
    "with-gradient": lambda: torch.randn(3, 4, requires_grad=True),
}


@pytest.mark.parametrize("view", VIEWS)
def test_inputs_of_any_layout_train_the_same(view):
    """Views, strides, one row, many dimensions, a leaf that asks for its gradient."""
    torch.manual_seed(2)
    batches = [VIEWS[view]() for _ in range(3)]
    said(compare(small_net, lambda model: train(model, batches), every=1))


class Tagged(torch.Tensor):
    """A tensor of the user's own class."""


def test_tensors_of_a_class_of_the_users_train_the_same():
    """A subclass goes through the layers as it would without a watch."""
    torch.manual_seed(2)
    batches = [torch.randn(3, 4).as_subclass(Tagged) for _ in range(3)]
    said(compare(small_net, lambda model: train(model, batches), every=1))


def test_an_explosion_to_infinity_trains_the_same():
    """A rate of a million: overflow within a few steps, and NaN ever after."""
    torch.manual_seed(2)
    batches = [torch.randn(3, 4) for _ in range(12)]
    watch = compare(small_net, lambda model: train(model, batches, 1e6))
    assert said(watch).findings
