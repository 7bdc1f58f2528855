"""Tasks of the fault bench: deterministic batches, and the loss of chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor

from benchmarks.faults.setups import Batch

VOCABULARY = 16
SYMBOLS = 4
CLASSES = 8
SIDE = 16


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """Return the digits as grey values 0 to 16, shape [1797, 64], and their labels."""
    data, target = load_digits(return_X_y=True)
    return torch.tensor(data, dtype=torch.float32), torch.tensor(target)


def _pick(generator: Generator, size: int) -> tuple[Tensor, Tensor]:
    images, labels = _digits()
    chosen = torch.randint(len(images), (size,), generator=generator)
    return images[chosen], labels[chosen]


def digits(generator: Generator, size: int) -> Batch:
    """Digits with mean 0 and standard deviation 1 overall, shape [size, 64]."""
    images, labels = _pick(generator, size)
    return (images - 4.88) / 6.02, labels


def raw_digits(generator: Generator, size: int) -> Batch:
    """Digits as bytes 0 to 255, as a forgotten normalisation leaves them."""
    images, labels = _pick(generator, size)
    return images * 16.0, labels


def images(generator: Generator, size: int) -> Batch:
    """Digits as pictures, shape [size, 1, 8, 8]."""
    flat, labels = digits(generator, size)
    return flat.view(size, 1, 8, 8), labels


def raw_images(generator: Generator, size: int) -> Batch:
    """Digits as pictures of bytes."""
    flat, labels = raw_digits(generator, size)
    return flat.view(size, 1, 8, 8), labels


def rows(generator: Generator, size: int) -> Batch:
    """Digits as eight rows of eight pixels, shape [size, 8, 8]."""
    flat, labels = digits(generator, size)
    return flat.view(size, 8, 8), labels


def even(generator: Generator, size: int) -> Batch:
    """Whether a digit is even: targets 0. or 1., shape [size, 1]."""
    flat, labels = digits(generator, size)
    return flat, (labels % 2 == 0).float().unsqueeze(1)


def reconstruction(generator: Generator, size: int) -> Batch:
    """Digits as input and target."""
    flat, _ = digits(generator, size)
    return flat, flat


def regression(generator: Generator, size: int) -> Batch:
    """A smooth function of 8 inputs, mean 0 and variance 1, shape [size, 1]."""
    x = torch.randn(size, 8, generator=generator)
    y = torch.sin(x[:, 0]) + 0.5 * x[:, 1] - 0.5 * x[:, 2] * x[:, 3].tanh()
    return x, (y / 0.97).unsqueeze(1)


def recall(length: int) -> Callable[[Generator, int], Batch]:
    """Return a task: name the first symbol of a sequence of `length` steps."""

    def sample(generator: Generator, size: int) -> Batch:
        x = 0.1 * torch.randn(size, length, SYMBOLS + 1, generator=generator)
        y = torch.randint(SYMBOLS, (size,), generator=generator)
        x[torch.arange(size), 0, y] += 1.0
        return x, y

    return sample


def majority(length: int) -> Callable[[Generator, int], Batch]:
    """Return a task: the most frequent of 4 symbols, shape [size, length] of tokens."""

    def sample(generator: Generator, size: int) -> Batch:
        y = torch.randint(SYMBOLS, (size,), generator=generator)
        noise = torch.randint(VOCABULARY, (size, length), generator=generator)
        keep = torch.rand(size, length, generator=generator) < 0.4
        return torch.where(keep, y.unsqueeze(1), noise), y

    return sample


def next_token(generator: Generator, size: int) -> Batch:
    """Tokens that follow a fixed permutation; inputs and targets [size, 16]."""
    start = torch.randint(VOCABULARY, (size, 1), generator=generator)
    tokens = (start + 5 * torch.arange(17)) % VOCABULARY
    return tokens[:, :-1], tokens[:, 1:]


def translation(length: int = 8) -> Callable[[Generator, int], Batch]:
    """Return a task: source [size, length], decoder input and target [size, 6].

    The first two source tokens hold the class, the target counts on from it. The
    decoder's input is its position: nothing but the source tells the answer.
    """

    def sample(generator: Generator, size: int) -> Batch:
        kind = torch.randint(CLASSES, (size, 1), generator=generator)
        source = torch.randint(CLASSES, (size, length), generator=generator) + CLASSES
        source[:, :2] = kind
        out = (kind + torch.arange(6)) % CLASSES
        queries = torch.arange(6).expand(size, 6)
        return source, queries, out

    return sample


def disks(generator: Generator, size: int) -> Batch:
    """Noisy pictures of one disk each and its mask, both [size, 1, 16, 16]."""
    grid = torch.arange(SIDE, dtype=torch.float32)
    centre = 5 + 6 * torch.rand(size, 2, 1, 1, generator=generator)
    radius = 4 + 2 * torch.rand(size, 1, 1, generator=generator)
    square = (grid.view(1, -1, 1) - centre[:, 0]) ** 2
    square = square + (grid.view(1, 1, -1) - centre[:, 1]) ** 2
    mask = (square < radius**2).float().unsqueeze(1)
    noise = torch.randn(mask.shape, generator=generator)
    return 2 * mask - 0.6 + 0.6 * noise, mask


@lru_cache(maxsize=1)
def _disk_entropy() -> float:
    _, mask = disks(Generator().manual_seed(0), 4096)
    share = float(mask.mean())
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


@lru_cache(maxsize=1)
def _pixel_variance() -> float:
    return float((_digits()[0] / 6.02).var(0, correction=0).mean())


def chance(task: str) -> float:
    """Return the loss of the best constant answer to a task."""
    return {
        "digits": math.log(10),
        "one-batch": math.log(10),
        "even": 0.25,
        "reconstruction": _pixel_variance(),
        "regression": 1.0,
        "recall": math.log(SYMBOLS),
        "majority": math.log(SYMBOLS),
        "next-token": math.log(VOCABULARY),
        "translation": math.log(CLASSES),
        "disks": _disk_entropy(),
    }[task]


def feed(
    sample: Callable[[Generator, int], Batch], seed: int, size: int, fixed: bool = False
) -> Callable[[int], Batch]:
    """Return the batches of a seed by step; `fixed`: every step sees the same."""

    def batches(step: int) -> Batch:
        number = 0 if fixed else step
        return sample(Generator().manual_seed(1_000_003 * (seed + 1) + number), size)

    return batches
