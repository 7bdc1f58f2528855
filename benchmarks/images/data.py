"""Synthetic images whose class shows in colour and stripes, and the losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_BATCHES = 4
BATCH = 8
CLASSES = 4

Inputs = tuple[Tensor, ...]
Batch = tuple[Inputs, Tensor]
MakeBatch = Callable[[int], Batch]
Loss = Callable[[Any, Tensor], Tensor]


def _labels(generator: torch.Generator) -> Tensor:
    """Return balanced labels in random order."""
    order = torch.randperm(BATCH, generator=generator)
    return (torch.arange(BATCH) % CLASSES)[order]


def _stripes(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return normalised images: a colour and a direction of stripes for each class."""
    axis = torch.linspace(0.0, 6.0 * math.pi, size)
    angle = labels.float() * math.pi / CLASSES
    phase = torch.rand(len(labels), generator=generator) * 2 * math.pi
    wave = torch.sin(
        torch.cos(angle)[:, None, None] * axis[None, :, None]
        + torch.sin(angle)[:, None, None] * axis[None, None, :]
        + phase[:, None, None]
    )
    colours = torch.tensor(
        [[1.0, 0.2, -0.5], [-0.5, 1.0, 0.2], [0.2, -0.5, 1.0], [0.6, 0.6, -1.0]]
    )
    colour = colours[labels][:, :, None, None]
    noise = torch.randn(len(labels), 3, size, size, generator=generator)
    return 0.8 * wave[:, None] + 0.7 * colour + 0.4 * noise


def _generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + step % NUM_BATCHES)


def images(size: int = 32) -> MakeBatch:
    """Return batches of images with one label each."""

    def make(step: int) -> Batch:
        generator = _generator(step)
        labels = _labels(generator)
        return (_stripes(labels, size, generator),), labels

    return make


def videos(step: int) -> Batch:
    """Return clips of moving stripes."""
    generator = _generator(step)
    labels = _labels(generator)
    frames = [_stripes(labels, 32, generator) for _ in range(4)]
    return (torch.stack(frames, dim=2),), labels


def masks(step: int) -> Batch:
    """Return images whose left and right halves have classes of their own."""
    generator = _generator(step)
    left, right = _labels(generator), _labels(generator)
    size = 32
    first = _stripes(left, size, generator)
    second = _stripes(right, size, generator)
    columns = torch.arange(size) < size // 2
    target = torch.where(columns, left[:, None, None], right[:, None, None])
    image = torch.where(columns, first, second)
    return (image,), target.expand(-1, size, size).contiguous()


def pairs(step: int) -> Batch:
    """Return two images and whether they show the same class."""
    generator = _generator(step)
    left = _labels(generator)
    same = torch.arange(BATCH) % 2
    right = torch.where(same.bool(), left, (left + 1) % CLASSES)
    first = _stripes(left, 32, generator)
    return (first, _stripes(right, 32, generator)), same


def copies(step: int) -> Batch:
    """Return images in [0, 1] that are their own target."""
    generator = _generator(step)
    pictures = torch.sigmoid(_stripes(_labels(generator), 32, generator))
    return (pictures,), pictures


def real_or_fake(step: int) -> Batch:
    """Return striped images (1) and noise (0)."""
    generator = _generator(step)
    real = (torch.arange(BATCH) % 2).float()
    stripes = _stripes(_labels(generator), 32, generator)
    noise = torch.randn(stripes.shape, generator=generator)
    return (torch.where(real[:, None, None, None] > 0, stripes, noise),), real


def classified(output: Any, labels: Tensor) -> Tensor:
    """Cross-entropy of the first output, a third of it for each auxiliary one."""
    if isinstance(output, Tensor):
        return functional.cross_entropy(output, labels)
    main, *others = output
    loss = functional.cross_entropy(main, labels)
    for other in others:
        loss = loss + 0.3 * functional.cross_entropy(other, labels)
    return loss


def distilled(output: Any, labels: Tensor) -> Tensor:
    """Both heads have the same weight, as in DeiT."""
    pair = [functional.cross_entropy(head, labels) for head in output]
    return (pair[0] + pair[1]) / 2


def segmented(output: Any, labels: Tensor) -> Tensor:
    """Cross-entropy by pixel, half of it for the auxiliary head."""
    if isinstance(output, Tensor):
        return functional.cross_entropy(output, labels)
    loss = functional.cross_entropy(output["out"], labels)
    return loss + 0.5 * functional.cross_entropy(output["aux"], labels)


def detected(output: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Every anchor is of the image's class and has a box that depends on it."""
    scores, boxes = output["scores"], output["boxes"]
    target = labels[:, None].expand(-1, scores.shape[2])
    box = functional.one_hot(labels, 4).float()[:, :, None].expand_as(boxes)
    return functional.cross_entropy(scores, target) + functional.smooth_l1_loss(
        boxes, box
    )


def reconstructed(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(output, target)


def binary(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities."""
    return nn.functional.binary_cross_entropy(output, target)
