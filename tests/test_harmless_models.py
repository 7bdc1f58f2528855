"""Twenty steps of many kinds of models are the same with gradwatch, bit by bit."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from tests.harmless import compare

STEPS = 20
RHYTHMS = [
    pytest.param({"every": 1}, id="every"),
    pytest.param({"every": 3}, id="third"),
    pytest.param({}, id="default"),
]


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


class InPlaceBlock(nn.Module):
    """A block as torchvision writes them: in-place ReLU and `out += identity`."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def resnet():
    """Return a small residual net with in-place operations and dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        *(InPlaceBlock(8) for _ in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1, inplace=True),
        nn.Linear(8, 4),
    )


class Unflattened(nn.Module):
    """A view is changed in place, and a slice of an output is overwritten."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.view = nn.Unflatten(1, (2, 4))
        self.leaky = nn.LeakyReLU(inplace=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.leaky(self.view(self.first(x))) + 0.0
        x[:, 0, 0] = 0
        return self.last(x.flatten(1)).relu_()


class Checkpointed(nn.Module):
    """Blocks under a checkpoint, one of them a mere function."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.2)) for _ in range(3)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        x = checkpoint(
            lambda t: torch.tanh(torch.relu(t) * 2.0), x, use_reentrant=self.reentrant
        )
        return self.head(x)


class Tied(nn.Module):
    """One matrix is embedding and head; one module is called three times."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.shared = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for _ in range(3):
            x = x + self.shared(x).tanh()
        first, second = x.chunk(2, dim=1)
        return self.head(first + second)


@dataclass
class Answer:
    """Two tensors and a note."""

    logits: torch.Tensor
    hidden: dict
    note: str = "text"


class Nested(nn.Module):
    """Outputs are a dataclass with a dictionary of tuples; inputs are keywords."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 6)
        self.split = nn.Module()
        self.split.left, self.split.right = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, *, x, scale=1.0):
        h = self.body(x).sigmoid() * scale
        parts = (self.split.left(h), self.split.right(h))
        return Answer(logits=parts[0] * parts[1], hidden={"parts": parts, "none": None})


class Packed(nn.Module):
    """An LSTM and a GRU on packed sequences, bidirectional, two layers."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True, dropout=0.1)
        self.gru = nn.GRU(10, 5, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        out, (h, c) = self.lstm(packed)
        out, state = self.gru(hx=torch.zeros(1, len(x), 5), input=out)
        padded, _ = pad_packed_sequence(out, batch_first=True)
        return padded.sum() + h.mean() + c.square().mean() + state.sum()


class Recurrent(nn.Module):
    """The three recurrent modules, with the batch second, and a loop over a cell."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(4, 6, nonlinearity="relu")
        self.lstm = nn.LSTM(6, 6, num_layers=2, proj_size=3, bidirectional=True)
        self.gru = nn.GRU(6, 6, bidirectional=True)
        self.cell = nn.LSTMCell(12, 6)

    def forward(self, x):
        x, _ = self.rnn(x)
        x, _ = self.lstm(x)
        x, _ = self.gru(x, torch.zeros(2, x.shape[1], 6))
        h = c = x.new_zeros(x.shape[1], 6)
        for step in x:
            h, c = self.cell(step, (h, c))
        return h


class Attention(nn.Module):
    """Multi-head attention with a mask, twice, in two layouts."""

    def __init__(self):
        super().__init__()
        self.first = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.second = nn.MultiheadAttention(8, 2, kdim=8, vdim=8, add_bias_kv=True)

    def forward(self, x):
        mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
        x = x + self.first(x, x, x, attn_mask=mask)[0]
        return self.second(x, x, x, need_weights=True)


class Complex(nn.Module):
    """Complex weights, and a module whose output is a lazy conjugate."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.cfloat)
        self.conjugate = Conjugate()

    def forward(self, x):
        return self.conjugate(self.linear(x)).abs()


class Conjugate(nn.Module):
    """z -> conj(z), which torch only notes."""

    def forward(self, x):
        return x.conj()


class Graph(nn.Module):
    """A sparse matrix is the first input of a module."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, adjacency):
        return self.layer(torch.sparse.mm(adjacency, self.weight)).relu()


class Nestings(nn.Module):
    """Nested (ragged) tensors pass through layers."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        self.layer, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x, y):
        ragged = torch.nested.nested_tensor([x, y], layout=self.layout)
        out = self.relu(self.layer(ragged))
        return torch.cat([part.flatten() for part in out.unbind()])


class Scalar(nn.Module):
    """A loss module inside the model: activations of no dimension."""

    def __init__(self):
        super().__init__()
        self.layer, self.hinge = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.hinge(1.0 - self.layer(x).mean())


def gpt_like():
    """Return a transformer encoder in training mode, with dropout."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def frozen_prefix():
    """Return a net whose lower half is frozen, in evaluation mode."""
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    net[:3].requires_grad_(False).eval()
    return net


def parametrized():
    """Return layers under spectral norm, weight norm and orthogonality."""
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 8)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.Tanh(),
        parametrizations.orthogonal(nn.Linear(8, 8)),
        nn.Linear(8, 2),
    )


def lazy():
    """Return a net whose widths are learned at the first forward."""
    return nn.Sequential(
        nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.Linear(8, 2)
    )


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
