"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.families.mlp_models import (
    HE,
    Cut,
    Mlp,
    Probability,
    TwoHeads,
    constant,
    frozen_prefix,
    funnel,
    log_loss,
    sequential,
    zero_head,
)
from benchmarks.faults.parts import (
    builder,
    cross_entropy,
    squared_error,
    times,
)
from benchmarks.faults.setups import Run, SetUp


def two_rates(seed: int) -> Run:
    """Several optimizers: the trunk by SGD, the head by Adam."""
    run = builder(lambda: Mlp(5, F.relu, gain=HE), tasks.digits)(seed)
    model = run.model
    assert isinstance(model, Mlp)
    trunk = [*model.stem.parameters(), *model.blocks.parameters()]
    return Run(
        model=model,
        optimizers=(
            torch.optim.SGD(trunk, lr=0.05, momentum=0.5),
            torch.optim.Adam(model.head.parameters(), lr=1e-3),
        ),
        batches=run.batches,
        loss_fn=run.loss_fn,
    )


def _digits(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    return builder(make, tasks.digits, **options)  # type: ignore[arg-type]


def _healthy() -> list[SetUp]:
    def add(
        name: str,
        build: Callable[[int], Run],
        row: str | None = None,
        task: str = "digits",
    ) -> SetUp:
        return SetUp(
            f"mlp-{name}", "mlp", task, s.HEALTHY, s.NONE, build, hard_negative=row
        )

    mean = cross_entropy
    return [
        add(
            "relu-he-10-sgd",
            _digits(lambda: Mlp(10, F.relu, gain=HE), opt="sgd", lr=0.05),
        ),
        add("tanh-xavier-8", _digits(lambda: Mlp(8, torch.tanh, gain=1.0))),
        add("selu-lecun-20", _digits(lambda: Mlp(20, F.selu, gain=1.0))),
        add(
            "sequential-batchnorm-inplace",
            _digits(lambda: sequential(nn.BatchNorm1d), opt="momentum", lr=0.02),
            "biases and norm gains",
        ),
        add(
            "sequential-layernorm-inplace",
            _digits(lambda: sequential(nn.LayerNorm), opt="adamw"),
            "biases and norm gains",
        ),
        add("zero-head", _digits(zero_head), "zero-init head"),
        add(
            "loss-times-1e-4",
            _digits(lambda: Mlp(6, F.relu, gain=HE), loss=times(mean, 1e-4), unit=1e-4),
            "scaled loss",
        ),
        add(
            "loss-times-1e4",
            _digits(lambda: Mlp(6, F.relu, gain=HE), loss=times(mean, 1e4), unit=1e4),
            "scaled loss",
        ),
        add(
            "sum-reduction-sgd",
            _digits(
                lambda: Mlp(6, F.relu, gain=HE),
                loss=times(mean, 64.0),
                unit=64.0,
                opt="sgd",
                lr=1e-3,
            ),
            "scaled loss",
        ),
        add("frozen-prefix", _digits(frozen_prefix), "frozen prefix"),
        add("unused-head", _digits(TwoHeads), "unused head or untouched experts"),
        add(
            "converged",
            _digits(lambda: Mlp(4, F.relu, gain=HE), lr=3e-3, fixed=True),
            "converged net",
            "one-batch",
        ),
        add("funnel", _digits(funnel, lr=3e-3), "funnel"),
        add(
            "warm-up",
            _digits(
                lambda: Mlp(6, F.relu, gain=HE), opt="momentum", lr=0.05, warmup=30
            ),
            "warm-up",
        ),
        add(
            "reused-layer",
            _digits(lambda: Mlp(5, torch.tanh, gain=1.0, reuse=True)),
            "tied or reused modules",
        ),
        add("two-optimizers", two_rates),
        add(
            "sigmoid-output",
            builder(lambda: Probability(False), tasks.even, loss=squared_error),
            task="even",
        ),
        add(
            "regression",
            builder(
                lambda: Mlp(4, F.gelu, gain=HE, sizes=(8, 1)),
                tasks.regression,
                loss=squared_error,
                opt="rmsprop",
            ),
            task="regression",
        ),
    ]


def _sick() -> list[SetUp]:
    def add(
        name: str,
        kind: str,
        accepted: frozenset[str],
        build: Callable[[int], Run],
        task: str = "digits",
        row: str | None = None,
    ) -> SetUp:
        return SetUp(
            f"mlp-{name}", "mlp", task, kind, accepted, build, hard_negative=row
        )

    sgd = {"opt": "sgd", "lr": 0.05}
    raw_target = builder(
        lambda: Mlp(4, F.relu, gain=HE, sizes=(8, 1)),
        lambda g, n: (tasks.regression(g, n)[0], 1e4 * tasks.regression(g, n)[1]),
        loss=squared_error,
        unit=1e8,
        **sgd,  # type: ignore[arg-type]
    )
    return [
        # logistic: chi = .056 at Xavier, less at the default (facts B1).
        add(
            "sigmoid-10-sgd",
            s.VANISHING,
            s.VANISHES,
            _digits(lambda: Mlp(10, torch.sigmoid), **sgd),
        ),
        add(
            "sigmoid-15-adam",
            s.VANISHING,
            s.VANISHES,
            _digits(lambda: Mlp(15, torch.sigmoid, gain=1.0)),
        ),
        # ReLU: chi = 1/6 at PyTorch's default.
        add(
            "relu-default-20-sgd",
            s.VANISHING,
            s.COLLAPSES,
            _digits(lambda: Mlp(20, F.relu), **sgd),
        ),
        add(
            "relu-small-init-20",
            s.VANISHING,
            s.COLLAPSES,
            _digits(lambda: Mlp(20, F.relu, gain=0.4)),
        ),
        add(
            "tanh-small-init-20",
            s.VANISHING,
            s.COLLAPSES,
            _digits(lambda: Mlp(20, torch.tanh, gain=0.5), **sgd),
        ),
        # Latent on purpose: D is beyond 2 decades and Adam's equal steps learn all the
        # same; by the label rule not scored.
        add(
            "adam-rescue",
            s.VANISHING,
            s.COLLAPSES,
            _digits(lambda: Mlp(7, F.relu)),
            row="Adam rescue",
        ),
        add(
            "tanh-chaos-30",
            s.EXPLODING,
            s.CHAOS,
            _digits(lambda: Mlp(30, torch.tanh, gain=4.0)),
        ),
        add(
            "relu-large-init-20",
            s.EXPLODING,
            s.EXPLODES,
            _digits(lambda: Mlp(20, F.relu, gain=4.0)),
        ),
        add(
            "batchnorm-plain-60",
            s.EXPLODING,
            s.EXPLODES,
            _digits(lambda: Mlp(60, F.relu, gain=HE, norm=nn.BatchNorm1d), **sgd),
        ),
        add(
            "residual-he-40",
            s.EXPLODING,
            s.EXPLODES,
            _digits(lambda: Mlp(40, F.relu, gain=HE, residual=True)),
        ),
        add(
            "exp-activation",
            s.EXPLODING,
            s.EXPLODES,
            _digits(lambda: Mlp(4, torch.exp, gain=1.0), **sgd),
        ),
        add("raw-targets-sgd", s.EXPLODING, s.TOO_FAST_RELU, raw_target, "regression"),
        # The input's scale makes the step too large and the units die.
        add(
            "raw-inputs-sgd",
            s.EXPLODING,
            s.TOO_FAST_RELU,
            builder(lambda: Mlp(5, F.relu, gain=HE), tasks.raw_digits, **sgd),  # type: ignore[arg-type]
        ),
        add(
            "dead-bias",
            s.DEAD,
            s.DIES,
            _digits(lambda: Mlp(5, F.relu, gain=HE, bias=-10.0)),
        ),
        add(
            "dead-by-rate",
            s.DEAD,
            s.TOO_FAST_RELU,
            _digits(lambda: Mlp(6, F.relu, gain=HE), lr=1.0),
        ),
        add(
            "tanh-saturated",
            s.SATURATED,
            s.CHAOS | s.SATURATES,
            _digits(lambda: Mlp(6, torch.tanh, gain=30.0), **sgd),
        ),
        add(
            "sigmoid-saturated",
            s.SATURATED,
            s.SATURATES,
            _digits(lambda: Mlp(4, torch.sigmoid, gain=1.0, bias=15.0), **sgd),
        ),
        add(
            "detached-features",
            s.NO_GRADIENT,
            s.CUT,
            _digits(lambda: Cut(3, F.relu, width=2)),
        ),
        add(
            "forgotten-in-optimizer",
            s.NO_GRADIENT,
            s.CUT,
            _digits(
                lambda: Mlp(4, torch.tanh, width=2),
                params=lambda m: list(m.head.parameters()),
            ),
        ),
        add(
            "softmax-over-one-unit",
            s.NO_GRADIENT,
            s.CUT,
            builder(lambda: Probability(True), tasks.even, loss=squared_error),
            "even",
        ),
        add(
            "rate-too-high-tanh",
            s.UNSTABLE,
            s.TOO_FAST_TANH,
            _digits(lambda: Mlp(5, torch.tanh, gain=1.0), lr=1.0),
        ),
        add(
            "rate-too-low",
            s.STALLED,
            s.TOO_SLOW,
            _digits(lambda: Mlp(5, F.relu, gain=HE), lr=1e-7),
        ),
        add(
            "log-of-negative",
            s.NON_FINITE,
            s.BREAKS,
            _digits(lambda: Mlp(4, F.relu, gain=HE), loss=log_loss),
        ),
        add("zero-init", s.STALLED, s.SYMMETRIC, _digits(lambda: constant(0.0))),
        add("constant-init", s.STALLED, s.SYMMETRIC, _digits(lambda: constant(0.01))),
    ]


SETUPS: tuple[SetUp, ...] = (*_healthy(), *_sick())
