"""All set-ups of the bench, and which families stay out of threshold choice."""

from __future__ import annotations

from benchmarks.faults.families import (
    autoencoder,
    cnn,
    encdec,
    mlp,
    moe,
    rnn,
    transformer,
    unet,
)
from benchmarks.faults.setups import SetUp

#: Families that no threshold may be chosen on: they are scored once.
HELD_OUT_FAMILIES = frozenset({"unet", "encdec", "autoencoder", "moe"})

SETUPS: tuple[SetUp, ...] = (
    *mlp.SETUPS,
    *cnn.SETUPS,
    *rnn.SETUPS,
    *transformer.SETUPS,
    *unet.SETUPS,
    *encdec.SETUPS,
    *autoencoder.SETUPS,
    *moe.SETUPS,
)

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(setup.family for setup in SETUPS))
