"""A graph that comes again is read from memory, and read alike."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from gradwatch.graph_reading import GraphMemory


class Branches(nn.Module):
    """A residual stream, a gate, a loop, functional activations and a side output."""

    def __init__(self):
        super().__init__()
        self.first, self.gate = nn.Linear(6, 8), nn.Linear(6, 8)
        self.cell, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.act, self.head, self.side = nn.Tanh(), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        h = F.relu(self.first(x)) * torch.sigmoid(self.gate(x))
        for _ in range(5):
            h = self.act(self.cell(h))
        h = h + self.norm(h)
        return self.head(h), self.side(h)


def functional():
    """A net whose weights are handed to functions, beside one that is called."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))

        def forward(self, x):
            x = self.layers[0](x)
            for layer in self.layers[1:]:
                x = F.linear(x, layer.weight, layer.bias).relu()
            return x

    return Model()


NETS = {
    "plain": lambda: nn.Sequential(
        *(layer for _ in range(6) for layer in (nn.Linear(6, 6), nn.ReLU()))
    ),
    "branches": Branches,
    "functional": functional,
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        *(layer for _ in range(3) for layer in (nn.LazyConv1d(4, 3, 1, 1), nn.ReLU())),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ),
}


def records(name, *, batches=(8, 8, 8, 5, 8, 5)):
    """Train a net with a probe at every step; return the records and the structure."""
    torch.manual_seed(0)
    model = NETS[name]()
    model(torch.randn(2, 6))  # shapes of lazy layers
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, every=1, console=None) as watch:
        for size in batches:
            output = model(torch.randn(size, 6))
            parts = output if isinstance(output, tuple) else (output,)
            sum(part.square().mean() for part in parts).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert len(watch.history.probes) == len(batches)
    return watch.history.probes, watch.structure


def without_deviation(structure):
    """Leave out what is measured when a structure is read."""
    return {
        name: dataclasses.replace(info, weight_std=None)
        for name, info in structure.layers.items()
    }


@pytest.mark.parametrize("name", NETS)
def test_memory_changes_no_record(name, monkeypatch):
    """With and without memory every number and every layer's role is the same."""
    known, structure = records(name)
    monkeypatch.setattr(GraphMemory, "get", lambda self, key: None)
    fresh, again = records(name)
    assert known == fresh
    assert without_deviation(structure) == without_deviation(again)
    assert structure.spans == again.spans


@pytest.mark.parametrize("name", ["plain", "branches", "conv"])
def test_a_graph_is_studied_once(name, monkeypatch):
    """Two batch sizes make two readings, however many probes there are."""
    studied = []
    plan = "gradwatch.probe_graph.plan_chains"
    real = gradwatch.probe_graph.plan_chains
    monkeypatch.setattr(plan, lambda graph: studied.append(1) or real(graph))
    records(name)
    assert len(studied) == 2


def test_a_layer_that_is_frozen_later_is_read_anew():
    """What depends on the parameters is not taken from memory."""
    torch.manual_seed(0)
    model = NETS["plain"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, every=1, console=None) as watch:
        for step in range(4):
            if step == 2:
                model[0].requires_grad_(False)
            model(torch.randn(8, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not watch.structure.layers["0"].trainable
    sources = [probe.chains[0].source for probe in watch.history.probes]
    assert sources == ["0", "0", "2", "2"]
