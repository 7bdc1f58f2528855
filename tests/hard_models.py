"""Models that are hard to watch, for the tests of harmlessness."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint


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
