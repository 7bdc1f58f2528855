"""Transformers over tokens and over rows of pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.families.attention import Block
from benchmarks.faults.parts import builder, initialise
from benchmarks.faults.setups import Run, SetUp

WIDTH = 32
HE = 2**0.5


class Rows(nn.Module):
    """A small ViT: eight rows as tokens, blocks, a mean or a class token."""

    def __init__(self, blocks: list[Block], pool: str = "mean") -> None:
        super().__init__()
        self.pool = pool
        self.embed = nn.Linear(8, WIDTH)
        self.position = nn.Parameter(0.2 * torch.randn(1, 9, WIDTH))
        self.start = nn.Parameter(0.2 * torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(blocks)
        last = blocks[-1].style == "pre"
        self.norm = nn.LayerNorm(WIDTH) if last else nn.Identity()
        self.head = nn.Linear(WIDTH, 10)

    def features(self, x: Tensor) -> Tensor:
        x = torch.cat([self.start.expand(len(x), 1, WIDTH), self.embed(x)], dim=1)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x.mean(1) if self.pool == "mean" else x[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class CausalLm(nn.Module):
    """nn.TransformerEncoderLayer with a causal mask; head tied to the embedding."""

    def __init__(self, layers: int, norm_first: bool, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tasks.VOCABULARY, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(1, 16, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, tasks.VOCABULARY, bias=False)
        if tied:
            nn.init.normal_(self.embedding.weight, 0.0, WIDTH**-0.5)
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.embedding(tokens) + self.position[:, : tokens.shape[1]]
        logits: Tensor = self.head(self.encoder(x, mask=mask, is_causal=True))
        return logits


class SparseReader(nn.Module):
    """A large table of tokens of which a batch touches few rows; mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4000, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, tasks.SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


def strictly_causal() -> nn.Module:
    """Return rows whose first token may attend to nothing at all."""
    model = Rows([Block(WIDTH) for _ in range(2)])
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention.strict = True
    return model


class Detached(Rows):
    """A frozen-looking trunk: the pooled features lose their graph."""

    def __init__(self) -> None:
        super().__init__([Block(WIDTH, style="plain") for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).detach()
        logits: Tensor = self.head(features)
        return logits


def blocks(count: int, style: str = "pre", **options: float) -> list[Block]:
    return [Block(WIDTH, style, **options) for _ in range(count)]  # type: ignore[arg-type]


def bare(count: int, gain: float) -> nn.Module:
    """Return sums without norms, all matrices at one gain."""
    model = Rows(blocks(count, "bare"))
    initialise(model, gain)
    return model


def dead() -> nn.Module:
    """Return a plain stack whose feed-forward ReLU units are off for every token."""
    model = Rows([Block(WIDTH, "plain", act=F.relu) for _ in range(3)])
    for block in model.blocks:
        assert isinstance(block, Block)
        nn.init.constant_(block.expand.bias, -10.0)
    return model


def zero_head() -> nn.Module:
    model = Rows(blocks(3), pool="first")
    nn.init.zeros_(model.head.weight)
    return model


def _rows(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    for key, value in (("size", 32), ("lr", 2e-3), ("opt", "adamw")):
        options.setdefault(key, value)
    return builder(make, tasks.rows, **options)  # type: ignore[arg-type]


def _next(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    for key, value in (("size", 16), ("lr", 3e-3)):
        options.setdefault(key, value)
    return builder(make, tasks.next_token, **options)  # type: ignore[arg-type]


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
    task: str = "digits",
) -> SetUp:
    return SetUp(
        f"transformer-{name}",
        "transformer",
        task,
        kind,
        accepted,
        build,
        steps=140,
        hard_negative=row,
    )


QKV = "separate q/k/v or encoder-decoder"
SCALE = "LayerScale or ReZero"

SETUPS: tuple[SetUp, ...] = (
    _add("pre-norm-separate-qkv", _rows(lambda: Rows(blocks(4))), row=QKV),
    _add(
        "class-token-post-norm",
        _rows(lambda: Rows(blocks(3, "post"), "first"), warmup=20),
        row=QKV,
    ),
    _add(
        "layerscale-1e-4",
        _rows(lambda: Rows(blocks(4, scale=1e-4)), lr=5e-3),
        row=SCALE,
    ),
    _add(
        "rezero", _rows(lambda: Rows(blocks(4, "bare", scale=0.0)), lr=5e-3), row=SCALE
    ),
    _add("zero-head", _rows(zero_head, lr=3e-3), row="zero-init head"),
    _add(
        "causal-lm-tied",
        _next(lambda: CausalLm(2, True, True)),
        row="tied or reused modules",
        task="next-token",
    ),
    _add(
        "causal-lm-post-norm-warm-up",
        _next(lambda: CausalLm(3, False, False), warmup=30, clip=1.0),
        row="warm-up",
        task="next-token",
    ),
    _add(
        "mean-pool-sparse-table",
        builder(SparseReader, tasks.majority(32), size=32, lr=3e-3),
        row="sparse embedding",
        task="majority",
    ),
    _add("bare-sums-small", _rows(lambda: bare(3, 0.7))),
    # Neither sums nor norms: every layer pulls the tokens together and shrinks them
    # (Dong 2021), and the gradient with them.
    _add(
        "plain-12",
        _rows(lambda: Rows(blocks(12, "plain")), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "plain-8-sigmoid",
        _rows(
            lambda: Rows([Block(WIDTH, "plain", act=torch.sigmoid) for _ in range(8)])
        ),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add("bare-he-24", _rows(lambda: bare(24, 2.0), size=16), s.EXPLODING, s.EXPLODES),
    _add(
        "bare-large-init",
        _rows(lambda: bare(6, 10.0), size=16),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add("dead-feed-forward", _rows(dead), s.DEAD, s.DIES),
    _add(
        "rate-too-high-adam",
        _rows(lambda: Rows(blocks(4, "post")), lr=0.5),
        s.UNSTABLE,
        s.TOO_FAST,
    ),
    _add(
        "rate-too-high-lm",
        _next(lambda: CausalLm(2, False, False), lr=0.3),
        s.UNSTABLE,
        s.TOO_FAST_RELU,
        task="next-token",
    ),
    _add(
        "rate-too-low",
        _next(lambda: CausalLm(2, True, False), lr=1e-7),
        s.STALLED,
        s.TOO_SLOW,
        task="next-token",
    ),
    _add("detached-features", _rows(Detached, lr=3e-4), s.NO_GRADIENT, s.CUT),
    _add(
        "fully-masked-row",
        _rows(strictly_causal),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
