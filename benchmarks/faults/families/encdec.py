"""Encoder-decoders: nn.Transformer, cross-attention, GRU pairs, convolutions.

Held out of threshold choice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.faults import setups as s
from benchmarks.faults import tasks
from benchmarks.faults.families.attention import Block
from benchmarks.faults.parts import Activation, builder, initialise, mask_entropy
from benchmarks.faults.setups import Run, SetUp

WIDTH = 32
HE = 2**0.5
LENGTH = 6


class Translator(nn.Module):
    """Own blocks with separate projections; the decoder sees positions only."""

    def __init__(self, layers: int = 2, style: str = "pre") -> None:
        super().__init__()
        self.source = nn.Embedding(2 * tasks.CLASSES, WIDTH)
        self.target = nn.Embedding(LENGTH, WIDTH)
        self.encoder = nn.ModuleList(Block(WIDTH, style) for _ in range(layers))
        self.decoder = nn.ModuleList(
            Block(WIDTH, style, cross=True) for _ in range(layers)
        )
        self.head = nn.Linear(WIDTH, tasks.CLASSES)

    def encode(self, source: Tensor) -> Tensor:
        memory: Tensor = self.source(source)
        for block in self.encoder:
            memory = block(memory)
        return memory

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        memory = self.encode(source)
        y = self.target(queries)
        for block in self.decoder:
            y = block(y, memory)
        logits: Tensor = self.head(y)
        return logits


class TorchTransformer(nn.Module):
    """nn.Transformer as it comes."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.source = nn.Embedding(2 * tasks.CLASSES, WIDTH)
        self.target = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        # Made here only to switch off nested tensors, which warn about themselves.
        encoder = nn.TransformerEncoder(
            layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.transformer = nn.Transformer(
            WIDTH,
            4,
            2,
            2,
            64,
            dropout=0.0,
            custom_encoder=encoder,
            batch_first=True,
            norm_first=norm_first,
        )
        self.head = nn.Linear(WIDTH, tasks.CLASSES)

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        y = self.transformer(self.source(source), self.target(queries))
        logits: Tensor = self.head(y)
        return logits


class LengthScaled(Translator):
    """Memory weighted by the length left after padding, which is counted wrongly."""

    def encode(self, source: Tensor) -> Tensor:
        memory = super().encode(source)
        length = (source < 0).sum(1, keepdim=True).unsqueeze(-1)
        return memory * (1 / length) * 8


class GruPair(nn.Module):
    """The encoder's last state starts the decoder."""

    def __init__(self, hidden: int = WIDTH, slow: float | None = None) -> None:
        super().__init__()
        self.source = nn.Embedding(2 * tasks.CLASSES, 16)
        self.target = nn.Embedding(LENGTH, 16)
        self.encoder = nn.GRU(16, hidden, batch_first=True)
        self.decoder = nn.GRU(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, tasks.CLASSES)
        if slow is not None:
            with torch.no_grad():
                bias = self.encoder.get_parameter("bias_ih_l0")
                bias[hidden : 2 * hidden] = slow

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        _, state = self.encoder(self.source(source))
        out, _ = self.decoder(self.target(queries), state)
        logits: Tensor = self.head(out)
        return logits


class TanhPair(nn.Module):
    """Two plain tanh RNNs."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.source = nn.Embedding(2 * tasks.CLASSES, 16)
        self.target = nn.Embedding(LENGTH, 16)
        self.encoder = nn.RNN(16, WIDTH, batch_first=True)
        self.decoder = nn.RNN(16, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, tasks.CLASSES)
        for rnn in (self.encoder, self.decoder):
            nn.init.normal_(rnn.get_parameter("weight_hh_l0"), 0.0, gain / WIDTH**0.5)

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        _, state = self.encoder(self.source(source))
        out, _ = self.decoder(self.target(queries), state)
        logits: Tensor = self.head(out)
        return logits


class DetachedMemory(GruPair):
    """A single number of the encoder's state goes on, without its graph."""

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        _, state = self.encoder(self.source(source))
        hint = state[:, :, :1].detach().expand_as(state).contiguous()
        out, _ = self.decoder(self.target(queries), hint)
        logits: Tensor = self.head(out)
        return logits


class Hourglass(nn.Module):
    """Convolutions down, transposed convolutions up, no skips."""

    def __init__(
        self,
        act: Activation = F.relu,
        norm: Callable[[int], nn.Module] | None = None,
        gain: float | None = None,
        bias: float = 0.0,
        extra: int = 0,
    ) -> None:
        super().__init__()
        self.act = act
        layers: list[nn.Module] = [
            nn.Conv2d(1, 8, 2, stride=2),
            nn.Conv2d(8, 16, 2, stride=2),
            *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(1 + extra)),
            nn.ConvTranspose2d(16, 8, 2, stride=2),
            nn.ConvTranspose2d(8, 8, 2, stride=2),
        ]
        widths = (8, 16, *([16] * (1 + extra)), 8, 8)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(norm(w) if norm else nn.Identity() for w in widths)
        self.out = nn.Conv2d(8, 1, 3, padding=1)
        if gain is not None:
            initialise(self, gain, bias)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        mask: Tensor = self.out(x)
        return mask


def _words(
    make: Callable[[], nn.Module], length: int = 8, **options: object
) -> Callable[[int], Run]:
    for key, value in (("size", 32), ("lr", 3e-3)):
        options.setdefault(key, value)
    return builder(make, tasks.translation(length), **options)  # type: ignore[arg-type]


def _disks(make: Callable[[], nn.Module], **options: object) -> Callable[[int], Run]:
    for key, value in (("size", 16), ("loss", mask_entropy), ("lr", 3e-3)):
        options.setdefault(key, value)
    return builder(make, tasks.disks, **options)  # type: ignore[arg-type]


def bare(gain: float, layers: int) -> nn.Module:
    model = Translator(layers, "bare")
    initialise(model, gain)
    return model


def _add(
    name: str,
    build: Callable[[int], Run],
    kind: str = s.HEALTHY,
    accepted: frozenset[str] = s.NONE,
    row: str | None = None,
    task: str = "translation",
) -> SetUp:
    return SetUp(
        f"encdec-{name}",
        "encdec",
        task,
        kind,
        accepted,
        build,
        steps=140,
        hard_negative=row,
    )


QKV = "separate q/k/v or encoder-decoder"

SETUPS: tuple[SetUp, ...] = (
    _add("separate-qkv-pre-norm", _words(lambda: Translator(2)), row=QKV),
    _add(
        "separate-qkv-post-norm",
        _words(lambda: Translator(2, "post"), opt="adamw", warmup=20),
        row=QKV,
    ),
    _add("nn-transformer-post-norm", _words(TorchTransformer, warmup=20), row=QKV),
    _add("nn-transformer-pre-norm", _words(lambda: TorchTransformer(True)), row=QKV),
    _add("gru-pair", _words(lambda: GruPair(slow=2.0), lr=1e-2)),
    _add(
        "gru-pair-slow-50",
        _words(lambda: GruPair(slow=4.0), length=50, lr=1e-2),
        row="long RNN",
    ),
    _add("hourglass-he", _disks(lambda: Hourglass(gain=HE), lr=5e-3), task="disks"),
    _add(
        "hourglass-batchnorm",
        _disks(lambda: Hourglass(norm=nn.BatchNorm2d), opt="momentum", lr=0.1),
        task="disks",
    ),
    # The source's first two tokens are 60 and more steps away.
    _add(
        "gru-pair-default-80",
        _words(GruPair, length=80, lr=1e-3),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "tanh-pair-60-sgd",
        _words(lambda: TanhPair(0.5), length=60, opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
    ),
    _add(
        "tanh-pair-chaos-60",
        _words(lambda: TanhPair(5.0), length=60, lr=1e-3),
        s.EXPLODING,
        s.CHAOS,
    ),
    _add(
        "hourglass-sigmoid-sgd",
        _disks(lambda: Hourglass(torch.sigmoid, extra=4), opt="sgd", lr=0.05),
        s.VANISHING,
        s.VANISHES,
        task="disks",
    ),
    _add(
        "hourglass-small-init",
        _disks(lambda: Hourglass(gain=0.3, extra=6), opt="sgd", lr=0.05),
        s.VANISHING,
        s.COLLAPSES,
        task="disks",
    ),
    _add(
        "bare-large-init",
        _words(lambda: bare(8.0, 3), lr=1e-3),
        s.EXPLODING,
        s.EXPLODES,
    ),
    _add(
        "hourglass-dead-bias",
        _disks(lambda: Hourglass(gain=HE, bias=-10.0)),
        s.DEAD,
        s.DIES,
        task="disks",
    ),
    _add("detached-memory", _words(DetachedMemory, lr=1e-3), s.NO_GRADIENT, s.CUT),
    _add(
        "rate-too-high", _words(TorchTransformer, lr=1.0), s.UNSTABLE, s.TOO_FAST_RELU
    ),
    _add("rate-too-low", _words(lambda: Translator(2), lr=1e-7), s.STALLED, s.TOO_SLOW),
    _add(
        "division-by-length",
        _words(lambda: LengthScaled(2)),
        s.NON_FINITE,
        s.BREAKS,
    ),
)
