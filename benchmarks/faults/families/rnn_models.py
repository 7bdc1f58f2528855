"""Recurrent models and how they are initialised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.faults import tasks

INPUTS = tasks.SYMBOLS + 1


class Reader(nn.Module):
    """A recurrent layer and a linear head on its last step or its mean."""

    def __init__(
        self,
        cell: type[nn.RNN] | type[nn.LSTM] | type[nn.GRU],
        inputs: int = INPUTS,
        hidden: int = 32,
        classes: int = tasks.SYMBOLS,
        mean: bool = False,
        bidirectional: bool = False,
        **options: str,
    ) -> None:
        super().__init__()
        self.mean = mean
        self.rnn: nn.RNN | nn.LSTM | nn.GRU = cell(
            inputs, hidden, batch_first=True, bidirectional=bidirectional, **options
        )
        self.head = nn.Linear(hidden * (2 if bidirectional else 1), classes)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        read = out.mean(1) if self.mean else out[:, -1]
        logits: Tensor = self.head(read)
        return logits


class BothEnds(Reader):
    """Bidirectional: the last state of each direction, as h_n gives them."""

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.rnn(x)
        final = state[0] if isinstance(state, tuple) else state
        logits: Tensor = self.head(torch.cat([final[0], final[1]], dim=1))
        return logits


def chrono(
    model: nn.Module, length: int, margin: float = 0.0, closed: float = 0.5
) -> nn.Module:
    """Set forget biases to log T and more, input biases below 0 (Tallec 2018)."""
    rnn = model.get_submodule("rnn")
    assert isinstance(rnn, nn.LSTM | nn.LSTMCell)
    hidden = rnn.hidden_size
    bias = math.log(length)
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            if name.startswith("bias_ih"):
                parameter.zero_()
                parameter[hidden : 2 * hidden] = bias + margin
                parameter[:hidden] = -closed * bias
            elif name.startswith("bias_hh"):
                parameter.zero_()
    return model


def slow_gru(model: nn.Module, bias: float) -> nn.Module:
    rnn = model.get_submodule("rnn")
    assert isinstance(rnn, nn.GRU)
    hidden = rnn.hidden_size
    with torch.no_grad():
        rnn.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = bias
    return model


def recurrent(
    model: nn.Module, gain: float, inputs: float, orthogonal: bool
) -> nn.Module:
    """Set the recurrent matrix of an nn.RNN, and the size of its input weights."""
    rnn = model.get_submodule("rnn")
    assert isinstance(rnn, nn.RNN)
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            if name == "weight_ih_l0":
                parameter.mul_(inputs)
            elif name.startswith("bias"):
                parameter.zero_()
            elif orthogonal:
                nn.init.orthogonal_(parameter, gain)
            else:
                nn.init.normal_(parameter, 0.0, gain / math.sqrt(rnn.hidden_size))
    return model


class CellLoop(nn.Module):
    """A Python loop over nn.LSTMCell."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.rnn = nn.LSTMCell(INPUTS, hidden)
        self.head = nn.Linear(hidden, tasks.SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.rnn.hidden_size)
        c = torch.zeros_like(h)
        for t in range(x.shape[1]):
            h, c = self.rnn(x[:, t], (h, c))
        logits: Tensor = self.head(h)
        return logits


class Padded(nn.Module):
    """Sequences of 8 to 24 steps, padded at the right to 40, packed or gathered."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.rnn = nn.LSTM(INPUTS, 32, batch_first=True)
        self.head = nn.Linear(32, tasks.SYMBOLS)
        chrono(self, 24)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.packed:
            sequence = pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
            _, (state, _) = self.rnn(sequence)
            last = state[-1]
        else:
            out, _ = self.rnn(x)
            last = out[torch.arange(len(x)), lengths - 1]
        logits: Tensor = self.head(last)
        return logits


class TokenReader(nn.Module):
    """Sparse embedding and LSTM, with an optimizer for each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2000, 16, sparse=True)
        self.rnn = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, tasks.SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.rnn(self.embedding(tokens))
        logits: Tensor = self.head(out.mean(1))
        return logits


class CutState(CellLoop):
    """Reads the state through a NumPy-like detour that loses the graph."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.rnn.hidden_size)
        c = torch.zeros_like(h)
        for t in range(x.shape[1]):
            h, c = self.rnn(x[:, t], (h, c))
        logits: Tensor = self.head(torch.tensor(h.tolist()))
        return logits


class Reciprocal(Reader):
    """Divides each step by the sum of those before it, which is 0 at the first."""

    def forward(self, x: Tensor) -> Tensor:
        seen = x.clamp(min=0.3) - 0.3
        return super().forward(x / (seen.cumsum(1) - seen).sum(2, keepdim=True))
