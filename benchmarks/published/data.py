"""Synthetic, learnable batches: fixed by seed and step, without global random state.

A seed owns `NUM_BATCHES` batches that come round and round, so that every task can be
fitted: classes have their own tokens, patterns or pitch; sequences follow a cycle.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from benchmarks.published.architecture import Batch, BatchFn

BATCH_SIZE = 8
NUM_BATCHES = 4
NUM_CLASSES = 4
VOCAB_SIZE = 64
FIRST_TOKEN = 8
"""Ids below are left to special tokens (padding, separators, mask)."""
SEQUENCE_LENGTH = 16
IMAGE_SIZE = 32
MASK_TOKEN = 4


def _generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of one batch of the cycle."""
    generator = torch.Generator()
    return generator.manual_seed(100_003 * (seed + 1) + step % NUM_BATCHES)


def _classes(num_classes: int, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return balanced labels, `[batch]`."""
    return torch.arange(batch_size) % num_classes


def class_tokens(
    generator: torch.Generator, labels: Tensor, length: int, vocab_size: int
) -> Tensor:
    """Return tokens of which half come from a range that belongs to the class."""
    shape = (len(labels), length)
    free = torch.randint(FIRST_TOKEN, vocab_size, shape, generator=generator)
    span = (vocab_size - FIRST_TOKEN) // NUM_CLASSES
    owned = torch.randint(0, span, shape, generator=generator)
    owned = FIRST_TOKEN + owned % span + span * (labels[:, None] % NUM_CLASSES)
    pick = torch.rand(shape, generator=generator) < 0.5
    return torch.where(pick, owned, free)


def cyclic_tokens(generator: torch.Generator, length: int, vocab_size: int) -> Tensor:
    """Return sequences in which each token is its predecessor plus one, cyclically."""
    start = torch.randint(0, 1_000, (BATCH_SIZE, 1), generator=generator)
    return FIRST_TOKEN + (start + torch.arange(length)) % (vocab_size - FIRST_TOKEN)


def class_images(
    generator: torch.Generator, labels: Tensor, size: int, channels: int = 3
) -> Tensor:
    """Return a fixed smooth pattern per class plus noise, `[batch, channel, y, x]`."""
    patterns = torch.randn(
        (64, channels, 4, 4), generator=torch.Generator().manual_seed(7)
    )
    chosen = torch.nn.functional.interpolate(
        patterns[labels], size=(size, size), mode="bilinear", align_corners=False
    )
    return chosen + 0.3 * torch.randn(chosen.shape, generator=generator)


def class_waves(generator: torch.Generator, labels: Tensor, length: int) -> Tensor:
    """Return a tone whose pitch belongs to the class plus noise, `[batch, time]`."""
    time = torch.arange(length, dtype=torch.float32)
    period = 8.0 * 2.0 ** labels.to(torch.float32)
    phase = 6.28 * torch.rand((len(labels), 1), generator=generator)
    tone = torch.sin(6.2832 * time / period[:, None] + phase)
    return tone + 0.1 * torch.randn(tone.shape, generator=generator)


def classified_text(
    seed: int,
    step: int,
    *,
    length: int = SEQUENCE_LENGTH,
    vocab_size: int = VOCAB_SIZE,
    end_token: int | None = None,
) -> Batch:
    """Return token sequences with a class each."""
    labels = _classes(NUM_CLASSES)
    tokens = class_tokens(_generator(seed, step), labels, length, vocab_size)
    if end_token is not None:
        tokens[:, -1] = end_token
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
    }


def masked_text(
    seed: int, step: int, *, length: int = SEQUENCE_LENGTH, vocab_size: int = VOCAB_SIZE
) -> Batch:
    """Return cyclic sequences with a quarter of the tokens masked, to be restored."""
    generator = _generator(seed, step)
    tokens = cyclic_tokens(generator, length, vocab_size)
    masked = torch.rand(tokens.shape, generator=generator) < 0.25
    masked[:, 1] = True
    return {
        "input_ids": tokens.masked_fill(masked, MASK_TOKEN),
        "attention_mask": torch.ones_like(tokens),
        "labels": tokens.masked_fill(~masked, -100),
    }


def next_token(
    seed: int, step: int, *, length: int = SEQUENCE_LENGTH, vocab_size: int = VOCAB_SIZE
) -> Batch:
    """Return cyclic sequences for a causal language model."""
    tokens = cyclic_tokens(_generator(seed, step), length, vocab_size)
    return {"input_ids": tokens, "labels": tokens.clone()}


def translation(seed: int, step: int, *, length: int = SEQUENCE_LENGTH) -> Batch:
    """Return cyclic sequences to be copied."""
    tokens = cyclic_tokens(_generator(seed, step), length, VOCAB_SIZE)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": tokens[:, : length // 2].clone(),
    }


def classified_images(
    seed: int,
    step: int,
    *,
    size: int = IMAGE_SIZE,
    channels: int = 3,
    batch_size: int = BATCH_SIZE,
) -> Batch:
    """Return images with a class each."""
    labels = _classes(NUM_CLASSES, batch_size)
    images = class_images(_generator(seed, step), labels, size, channels)
    return {"pixel_values": images, "labels": labels}


def plain_images(seed: int, step: int, *, size: int = IMAGE_SIZE) -> Batch:
    """Return one pattern with class details, for models that reconstruct images."""
    images = classified_images(seed, step, size=size)["pixel_values"]
    return {
        "pixel_values": 0.3 * images
        + class_images(
            _generator(seed, step), torch.zeros(len(images), dtype=torch.long), size
        )
    }


def segmented_images(seed: int, step: int, *, size: int = IMAGE_SIZE) -> Batch:
    """Return images whose first channel decides the class of each pixel."""
    images = classified_images(seed, step, size=size)["pixel_values"]
    return {"pixel_values": images, "labels": (images[:, 0] > 0).long()}


def classified_waves(seed: int, step: int, *, length: int = 800) -> Batch:
    """Return waveforms with a class each."""
    labels = _classes(NUM_CLASSES)
    waves = class_waves(_generator(seed, step), labels, length)
    return {"input_values": waves, "labels": labels}


def transcribed_waves(seed: int, step: int, *, length: int = 800) -> Batch:
    """Return waveforms whose transcription is one letter, the class, for CTC."""
    batch = classified_waves(seed, step, length=length)
    batch["labels"] = batch["labels"][:, None] + 1
    return batch


def _spectrogram(
    generator: torch.Generator, labels: Tensor, bins: int, frames: int
) -> Tensor:
    """Return a bump over mel bins that belongs to the class, `[batch, bin, time]`."""
    centre = (labels + 0.5)[:, None, None] * bins / NUM_CLASSES
    mel = torch.arange(bins)[None, :, None]
    bump = torch.exp(-0.5 * ((mel - centre) / 1.5) ** 2).expand(-1, -1, frames)
    return bump + 0.1 * torch.randn(bump.shape, generator=generator)


def classified_spectrograms(
    seed: int, step: int, *, bins: int = 16, frames: int = 32
) -> Batch:
    """Return spectrograms with a class each, `[batch, time, bin]`."""
    labels = _classes(NUM_CLASSES)
    mel = _spectrogram(_generator(seed, step), labels, bins, frames)
    return {"input_values": mel.transpose(1, 2).contiguous(), "labels": labels}


def transcribed_spectrograms(
    seed: int,
    step: int,
    *,
    bins: int = 16,
    frames: int = 32,
    time_first: bool = False,
) -> Batch:
    """Return spectrograms with a cyclic token sequence that starts at the class."""
    labels = _classes(NUM_CLASSES)
    mel = _spectrogram(_generator(seed, step), labels, bins, frames)
    text = FIRST_TOKEN + 4 * labels[:, None] + torch.arange(6)
    features = mel.transpose(1, 2).contiguous() if time_first else mel
    return {"input_features": features, "labels": text}


def paired(
    seed: int,
    step: int,
    *,
    end_token: int | None = None,
    length: int = 8,
    mask: bool = True,
    vocab_size: int = VOCAB_SIZE,
) -> Batch:
    """Return images and captions of the same classes, all different in a batch."""
    generator = _generator(seed, step)
    labels = torch.arange(BATCH_SIZE)
    tokens = FIRST_TOKEN + labels[:, None] * 4 + torch.arange(length) % 4
    noise = torch.randint(FIRST_TOKEN, vocab_size, tokens.shape, generator=generator)
    swap = torch.rand(tokens.shape, generator=generator) < 0.2
    tokens = torch.where(swap, noise, tokens)
    if end_token is not None:
        tokens[:, -1] = end_token
    batch = {
        "input_ids": tokens,
        "pixel_values": class_images(generator, labels, IMAGE_SIZE),
    }
    if mask:
        batch["attention_mask"] = torch.ones_like(tokens)
    return batch


def series(seed: int, step: int, *, length: int, channels: int = 3) -> Tensor:
    """Return sine waves with random phase, `[batch, time, channel]`."""
    generator = _generator(seed, step)
    phase = 6.28 * torch.rand((BATCH_SIZE, 1, channels), generator=generator)
    time = torch.arange(length, dtype=torch.float32)[None, :, None]
    pitch = torch.tensor([0.2, 0.35, 0.5])[:channels]
    wave = torch.sin(time * pitch + phase)
    return wave + 0.05 * torch.randn(wave.shape, generator=generator)


def label_entropy(batches: Iterable[Batch]) -> float | None:
    """Return the entropy of integer labels: the loss of the best constant prediction.

    Args:
        batches: Batches whose `labels` are class or token ids; -100 is left out.

    Returns:
        The entropy in nats, or None without integer labels.
    """
    counts: Counter[int] = Counter()
    for batch in batches:
        labels = batch.get("labels")
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            return None
        counts.update(labels[labels != -100].tolist())
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def with_options(function: Callable[..., Batch], **options: object) -> BatchFn:
    """Return `function(seed, step)` with keyword options bound."""
    return partial(function, **options)
