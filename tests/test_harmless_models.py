"""Twenty steps of many kinds of models are the same with gradwatch, bit by bit."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.hard_models import (
    Attention,
    Checkpointed,
    Complex,
    Graph,
    Nested,
    Nestings,
    Packed,
    Recurrent,
    Scalar,
    Tied,
    Unflattened,
    frozen_prefix,
    gpt_like,
    lazy,
    parametrized,
    resnet,
)
from tests.harmless import RHYTHMS, compare

STEPS = 20


def train(model, batch, loss_of=lambda out: out.square().mean(), optimizer=None):
    """Train 20 steps with AdamW; return the optimizer and the last loss."""
    make = optimizer or (lambda p: torch.optim.AdamW(p, lr=1e-2))
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for _ in range(STEPS):
        optimizer.zero_grad()
        args = batch()
        args = args if isinstance(args, tuple) else (args,)
        loss = loss_of(model(*args))
        loss.backward()
        optimizer.step()
    return optimizer, loss.detach()


def rows(*shape):
    """Return a batch maker."""
    return lambda: torch.randn(*shape)


def ragged_batch():
    """Return sequences of unequal length."""
    return torch.randn(3, 6, 4), torch.tensor([3, 6, 2])


def answer_loss(answer):
    """Use every part of the nested output."""
    left, right = answer.hidden["parts"]
    return answer.logits.square().mean() + left.abs().mean() + right.mean()


MODELS = {
    "in-place-resnet": (resnet, rows(4, 3, 6, 6), {}),
    "in-place-views": (Unflattened, rows(5, 6), {}),
    "checkpoint": (lambda: Checkpointed(False), rows(5, 6), {}),
    "checkpoint-reentrant": (lambda: Checkpointed(True), rows(5, 6), {}),
    "tied-and-repeated": (
        Tied,
        lambda: torch.randint(11, (4, 6)),
        {
            "loss_of": lambda out: F.cross_entropy(
                out.flatten(0, 1), torch.arange(12) % 11
            )
        },
    ),
    "packed": (Packed, ragged_batch, {}),
    "recurrent": (Recurrent, rows(5, 3, 4), {}),
    "attention": (
        Attention,
        rows(5, 5, 8),
        {"loss_of": lambda out: out[0].square().mean() + out[1].std()},
    ),
    "transformer": (gpt_like, rows(4, 5, 8), {}),
    "complex": (Complex, lambda: torch.randn(4, 4, dtype=torch.cfloat), {}),
    "sparse-input": (Graph, lambda: torch.eye(8).to_sparse(), {}),
    "nested-strided": (
        lambda: Nestings(torch.strided),
        lambda: (torch.randn(3, 4), torch.randn(5, 4)),
        {},
    ),
    "nested-jagged": (
        lambda: Nestings(torch.jagged),
        lambda: (torch.randn(3, 4), torch.randn(5, 4)),
        {},
    ),
    "scalar-activation": (Scalar, rows(4, 4), {}),
    "frozen-prefix": (frozen_prefix, rows(6, 6), {}),
    "parametrized": (parametrized, rows(6, 6), {}),
    "lazy": (lazy, rows(6, 6), {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}),
    "double": (lambda: resnet().double(), lambda: torch.randn(4, 3, 6, 6).double(), {}),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16(),
        lambda: torch.randn(6, 6).bfloat16(),
        {},
    ),
    "scripted": (
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.ReLU())),
        rows(6, 6),
        {},
    ),
}


@pytest.mark.parametrize("rhythm", RHYTHMS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_model_trains_the_same(name, rhythm):
    """Weights, gradients, buffers, random state and optimizer state are equal."""
    make, batch, options = MODELS[name]
    watch = compare(make, lambda model: train(model, batch, **options), **rhythm)
    assert watch.history.num_pulses >= 18
    assert watch.history.num_probes >= {1: 20, 3: 7}.get(rhythm.get("every"), 5)


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_keywords_and_nested_outputs_train_the_same(rhythm):
    """A forward of keywords only, a dataclass of tuples in a dictionary out."""

    def loop(model):
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = answer_loss(model(x=torch.randn(4, 5), scale=2.0))
            loss.backward()
            optimizer.step()
        return optimizer, loss.detach()

    watch = compare(Nested, loop, **rhythm)
    seen = {layer.layer for layer in watch.history.latest.layers if layer.grad_norm}
    assert seen == {"body", "split.left", "split.right"}


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_sparse_embeddings_train_the_same(rhythm):
    """Sparse gradients stay as they are: uncoalesced."""

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 4, sparse=True)
            self.bag = nn.EmbeddingBag(20, 4, sparse=True)

        def forward(self, tokens):
            return self.table(tokens).sum(1) + self.bag(tokens)

    def loop(model):
        optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randint(20, (3, 4))).square().mean().backward()
            assert not model.table.weight.grad.is_coalesced()
            optimizer.step()
        return optimizer

    compare(Bag, loop, **rhythm)


class _Nothing(torch.autograd.Function):
    """Passes a value on and gives no gradient for it."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


class _Cut(torch.nn.Module):
    """A network cut by a function that returns None for its gradient."""

    def __init__(self):
        super().__init__()
        self.below, self.above = torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.above(_Nothing.apply(self.below(x)))


def test_a_function_that_gives_no_gradient_is_no_failure():
    """Autograd hands `None` to a tensor's hook then."""
    import gradwatch

    model = _Cut()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, console=None, every=1) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
    assert watch.report().run.failure == ""
    assert watch.history.num_probes == 3
