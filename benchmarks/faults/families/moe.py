"""Mixtures of experts on digits. Held out of threshold choice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.families.attention import Attention
from benchmarks.faults.parts import Activation, builder, cross_entropy, initialise
from benchmarks.faults.setups import Batch, Run, SetUp

HE = 2**0.5


class Expert(nn.Module):
    """A small fully connected network."""

    def __init__(self, depth: int, act: Activation, inputs: int, width: int) -> None:
        super().__init__()
        self.act = act
        widths = [inputs] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return x


class Mixture(nn.Module):
    """A gate, experts and a head on their weighted sum.

    Args:
        depth: Layers of an expert.
        act: Activation of the experts.
        top: Experts a sample goes to; None for all of them, weighted.
        experts: Number of experts.
        gain: Gain of all weights; None for PyTorch's default.
        bias: Bias of all hidden layers, with a gain.
        closed: Experts that the gate never chooses.
        inputs: Width of the input.
    """

    def __init__(
        self,
        depth: int = 2,
        act: Activation = F.relu,
        top: int | None = None,
        experts: int = 4,
        gain: float | None = None,
        bias: float = 0.0,
        closed: int = 0,
        inputs: int = 64,
        width: int = 48,
    ) -> None:
        super().__init__()
        self.top = top
        self.gate = nn.Linear(inputs, experts)
        self.experts = nn.ModuleList(
            Expert(depth, act, inputs, width) for _ in range(experts)
        )
        self.head = nn.Linear(width, 10)
        if gain is not None:
            initialise(self.experts, gain, bias)
            initialise(self.head, gain)
        if closed:
            with torch.no_grad():
                self.gate.bias[-closed:] = -1e4

    def weights(self, x: Tensor) -> Tensor:
        return F.softmax(self.gate(x), dim=-1)

    def mix(self, x: Tensor) -> Tensor:
        weights = self.weights(x)
        if self.top is None:
            every = torch.stack([expert(x) for expert in self.experts], dim=1)
            return (weights.unsqueeze(-1) * every).sum(1)
        chosen, index = weights.topk(self.top, dim=-1)
        if self.top > 1:
            chosen = chosen / chosen.sum(-1, keepdim=True)
        width = self.head.in_features
        out = x.new_zeros(len(x), width)
        for number, expert in enumerate(self.experts):
            row, slot = torch.where(index == number)
            if len(row) == 0:
                continue
            part = expert(x[row]) * chosen[row, slot].unsqueeze(-1)
            out = out.index_add(0, row, part)
        return out

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mix(x))
        return logits


class MixtureBlock(nn.Module):
    """A pre-norm transformer block over rows whose feed-forward part is a mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(0.2 * torch.randn(1, 8, 32))
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = Attention(32)
        self.mixture = Mixture(2, F.gelu, top=2, inputs=32, width=32)
        self.mixture.head = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x) + self.position
        y = y + self.attention(self.norm1(y))
        z = self.mixture(self.norm2(y).flatten(0, 1))
        logits: Tensor = self.head((y + z.view_as(y)).mean(1))
        return logits


class Switch(Mixture):
    """One expert a sample, with the balancing loss of Fedus 2021."""

    def balance(self, x: Tensor) -> Tensor:
        weights = self.weights(x)
        share = F.one_hot(weights.argmax(-1), weights.shape[-1]).float().mean(0)
        return weights.shape[-1] * (share * weights.mean(0)).sum()


def balanced(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Switch)
    return cross_entropy(model, batch) + 1e-2 * (model.balance(batch[0]) - 1)


class Unnormalised(Mixture):
    """Weights divided by their sum before they were made positive."""

    def weights(self, x: Tensor) -> Tensor:
        scores = F.relu(self.gate(x) - 1.5)
        return scores / scores.sum(-1, keepdim=True)


class Cut(Mixture):
    """Each expert's answer is collected as data; one feature in sixteen is read."""

    def __init__(self) -> None:
        super().__init__(2, torch.tanh)
        self.head = nn.Linear(2, 10)

    def forward(self, x: Tensor) -> Tensor:
        every = torch.stack([expert(x).data for expert in self.experts], dim=1)
        mixed = (self.weights(x).detach().unsqueeze(-1) * every).sum(1)
        logits: Tensor = self.head(mixed[:, :2])
        return logits


class Stack(nn.Module):
    """Two mixtures in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Mixture(1, F.silu, gain=HE)
        self.first.head = nn.Linear(48, 64)
        self.second = Mixture(2, F.silu, top=2, gain=HE)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(x + self.first(x))
        return logits


def _digits(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    options.setdefault("lr", 3e-3)
    return builder(make, tasks.digits, **options)  # type: ignore[arg-type]


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
) -> SetUp:
    return SetUp(
        f"moe-{name}", "moe", "digits", kind, accepted, build, hard_negative=row
    )


UNTOUCHED = "unused head or untouched experts"

SETUPS: tuple[SetUp, ...] = (
    _add("dense-he", _digits(lambda: Mixture(gain=HE))),
    _add("dense-default-sgd", _digits(Mixture, opt="momentum", lr=0.1)),
    _add("switch-balanced", _digits(lambda: Switch(top=1, gain=HE), loss=balanced)),
    _add(
        "top-2-of-8", _digits(lambda: Mixture(top=2, experts=8, gain=HE)), row=UNTOUCHED
    ),
    _add(
        "untouched-experts",
        _digits(lambda: Mixture(top=1, experts=6, gain=HE, closed=3)),
        row=UNTOUCHED,
    ),
    _add(
        "transformer-block",
        builder(MixtureBlock, tasks.rows, size=32, lr=5e-3),
        row="mean pool before the head",
    ),
    _add("two-in-a-row", _digits(Stack, opt="adamw")),
    _add("tanh-xavier", _digits(lambda: Mixture(3, torch.tanh, gain=1.0))),
    _add(
        "sigmoid-deep",
        _digits(lambda: Mixture(10, torch.sigmoid), opt="sgd", lr=0.05),
        s.VANISHING,
        s.VANISHES,
    ),
    _add(
        "relu-default-deep-sgd",
        _digits(lambda: Mixture(16), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "top-1-small-init",
        _digits(lambda: Mixture(12, top=1, gain=0.4), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "large-init",
        _digits(lambda: Mixture(10, gain=6.0), lr=1e-3),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add(
        "tanh-chaos",
        _digits(lambda: Mixture(24, torch.tanh, experts=2, gain=4.0), lr=1e-3),
        s.EXPLODING,
        s.CHAOS,
    ),
    _add("dead-bias", _digits(lambda: Mixture(3, gain=HE, bias=-10.0)), s.DEAD, s.DIES),
    _add(
        "tanh-saturated",
        _digits(lambda: Mixture(4, torch.tanh, gain=40.0), opt="sgd", lr=0.02),
        s.SATURATED,
        s.CHAOS | s.SATURATES,
    ),
    _add("experts-as-data", _digits(Cut), s.NO_GRADIENT, s.CUT),
    _add(
        "rate-too-high",
        _digits(lambda: Mixture(4, gain=HE), lr=2.0),
        s.UNSTABLE,
        s.TOO_FAST_RELU,
    ),
    _add(
        "rate-too-low",
        _digits(lambda: Mixture(top=2, gain=HE), lr=1e-7),
        s.STALLED,
        s.TOO_SLOW,
    ),
    _add(
        "gate-divides-by-zero",
        _digits(lambda: Unnormalised(gain=HE)),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
