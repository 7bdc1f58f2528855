"""Recurrent networks: nn.RNN, nn.LSTM, nn.GRU and loops over cells."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.families.rnn_models import (
    INPUTS,
    BothEnds,
    CellLoop,
    CutState,
    Padded,
    Reader,
    Reciprocal,
    TokenReader,
    chrono,
    recurrent,
    slow_gru,
)
from benchmarks.faults.parts import builder
from benchmarks.faults.setups import Batch, Run, SetUp


def padded(generator: Generator, size: int) -> Batch:
    x, y = tasks.recall(24)(generator, size)
    lengths = torch.randint(8, 25, (size,), generator=generator)
    x = torch.cat([x, x.new_zeros(size, 16, INPUTS)], dim=1)
    x[torch.arange(40) >= lengths.unsqueeze(1)] = 0.0
    return x, lengths, y


def sparse_embedding(seed: int) -> Run:
    run = builder(TokenReader, tasks.majority(16), size=64, lr=5e-3)(seed)
    model = run.model
    assert isinstance(model, TokenReader)
    dense = [*model.rnn.parameters(), *model.head.parameters()]
    return Run(
        model=model,
        optimizers=(
            torch.optim.SparseAdam(list(model.embedding.parameters()), lr=5e-3),
            torch.optim.Adam(dense, lr=5e-3),
        ),
        batches=run.batches,
        loss_fn=run.loss_fn,
    )


def counts(length: int) -> Callable[[Generator, int], Batch]:
    """Return majority of symbols as one-hot vectors."""
    sample = tasks.majority(length)

    def one_hot(generator: Generator, size: int) -> Batch:
        tokens, y = sample(generator, size)
        return nn.functional.one_hot(tokens, tasks.VOCABULARY).float(), y

    return one_hot


def recent(length: int) -> Callable[[Generator, int], Batch]:
    """Return recall with the symbol near the end: what came before is noise."""
    sample = tasks.recall(length)

    def flipped(generator: Generator, size: int) -> Batch:
        x, y = sample(generator, size)
        return x.roll(-4, dims=1), y

    return flipped


def _recall(
    make: Callable[[], nn.Module], length: int, **options: object
) -> Callable[[int], Run]:
    for key, value in (("size", 32), ("lr", 5e-3)):
        options.setdefault(key, value)
    return builder(make, tasks.recall(length), **options)  # type: ignore[arg-type]


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
    task: str = "recall",
) -> SetUp:
    return SetUp(f"rnn-{name}", "rnn", task, kind, accepted, build, hard_negative=row)


SETUPS: tuple[SetUp, ...] = (
    _add(
        "lstm-chrono-100",
        _recall(lambda: chrono(Reader(nn.LSTM), 100, 1.0, 1.0), 100, lr=2e-2),
        row="long RNN",
    ),
    _add(
        "gru-slow-60",
        _recall(lambda: slow_gru(Reader(nn.GRU), 4.0), 60, lr=1e-2),
        row="long RNN",
    ),
    _add(
        "gru-mean-60",
        builder(
            lambda: Reader(nn.GRU, inputs=16, mean=True), counts(60), size=32, lr=5e-3
        ),
        row="long RNN",
        task="majority",
    ),
    _add(
        "rnn-orthogonal-40",
        _recall(
            lambda: recurrent(Reader(nn.RNN), 1.0, 0.5, True), 40, lr=1e-3, clip=1.0
        ),
        row="long RNN",
    ),
    _add(
        "lstm-padded",
        builder(lambda: Padded(False), padded, size=32, lr=1e-2),
        row="sequence ends and cells",
    ),
    _add(
        "lstm-packed",
        builder(lambda: Padded(True), padded, size=32, lr=1e-2),
        row="sequence ends and cells",
    ),
    _add(
        "bilstm-60",
        _recall(lambda: chrono(BothEnds(nn.LSTM, bidirectional=True), 60), 60, lr=1e-2),
        row="sequence ends and cells",
    ),
    _add(
        "lstmcell-loop-30",
        _recall(lambda: chrono(CellLoop(), 40), 30, lr=1e-2),
        row="sequence ends and cells",
    ),
    _add(
        "gru-rows",
        builder(lambda: Reader(nn.GRU, inputs=8, classes=10), tasks.rows, lr=5e-3),
        task="digits",
    ),
    _add(
        "rnn-tanh-rows-sgd",
        builder(
            lambda: Reader(nn.RNN, inputs=8, hidden=64, classes=10),
            tasks.rows,
            opt="momentum",
            lr=0.05,
            clip=1.0,
        ),
        task="digits",
    ),
    _add("sparse-embedding", sparse_embedding, row="sparse embedding", task="majority"),
    # Theory: a default LSTM keeps .65 of the gradient a step; but nothing of the task
    # lies that far back. Latent on purpose: not scored.
    _add(
        "lstm-default-recent-60",
        builder(lambda: Reader(nn.LSTM), recent(60), size=32, lr=1e-2),
        s.VANISHING,
        s.VANISHES,
    ),
    # Through time: .35 dec a step for tanh, .2 for default LSTM and GRU (facts B1).
    _add(
        "tanh-default-60", _recall(lambda: Reader(nn.RNN), 60), s.VANISHING, s.COLLAPSES
    ),
    _add(
        "tanh-small-40-sgd",
        _recall(
            lambda: recurrent(Reader(nn.RNN), 0.5, 1.0, False), 40, opt="sgd", lr=0.05
        ),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "lstm-default-100",
        _recall(lambda: Reader(nn.LSTM), 100),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "gru-default-100",
        _recall(lambda: Reader(nn.GRU), 100, lr=1e-3),
        s.VANISHING,
        s.COLLAPSES,
    ),
    # The gradient at the first step underflows to an exact 0.
    _add(
        "lstm-default-200",
        _recall(lambda: Reader(nn.LSTM), 200, size=16),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add("lstmcell-default-60", _recall(CellLoop, 60), s.VANISHING, s.COLLAPSES),
    _add(
        "relu-gain-2-40",
        _recall(
            lambda: recurrent(Reader(nn.RNN, nonlinearity="relu"), 2.5, 1.0, False),
            40,
            opt="sgd",
            lr=0.05,
        ),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add(
        "tanh-chaos-60",
        _recall(lambda: recurrent(Reader(nn.RNN), 4.0, 1.0, False), 60),
        s.EXPLODING,
        s.CHAOS,
    ),
    # The identity with large steps: spikes, then divergence (Pascanu 2013).
    _add(
        "relu-spikes-sgd",
        _recall(
            lambda: recurrent(Reader(nn.RNN, nonlinearity="relu"), 1.1, 1.0, True),
            40,
            opt="sgd",
            lr=0.5,
        ),
        s.UNSTABLE,
        s.TOO_FAST_RELU,
    ),
    _add(
        "lstm-rate-too-high",
        _recall(lambda: chrono(Reader(nn.LSTM), 40), 30, lr=1.0),
        s.UNSTABLE,
        s.TOO_FAST_TANH,
    ),
    _add(
        "gru-rate-too-low",
        _recall(lambda: slow_gru(Reader(nn.GRU), 3.0), 20, lr=1e-7),
        s.STALLED,
        s.TOO_SLOW,
    ),
    _add(
        "state-without-graph",
        _recall(lambda: CutState(4), 20, lr=1e-3),
        s.NO_GRADIENT,
        s.CUT,
    ),
    _add(
        "division-by-zero",
        _recall(lambda: Reciprocal(nn.GRU), 20),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
