"""Drawing weights anew: what the remedies that initialise share of their `apply`."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from gradwatch.layers import fans, peek
from gradwatch.remedies.initialisers import Initialiser
from gradwatch.treatment import ModelEditor


def redraw(editor: ModelEditor, layer: str, initialiser: Initialiser) -> None:
    """Draw a layer's weight anew and set its bias to zero.

    Args:
        editor: The editor of the copy.
        layer: Name of the weight layer.
        initialiser: What to draw from.
    """
    module = editor.module(layer)
    fan_in, fan_out = fans(module) or (1, 1)
    draw = partial(_draw, initialiser, fan_in, fan_out)
    editor.fill(layer, "weight", draw, initialiser.title)
    if peek(module, "bias") is not None:
        editor.fill(layer, "bias", nn.init.zeros_, "zeros")


def _draw(initialiser: Initialiser, fan_in: int, fan_out: int, weight: Tensor) -> None:
    initialiser.draw(weight, fan_in, fan_out)


def slope_of(module: nn.Module) -> float | None:
    """Return the slope below zero of a leaky ReLU module; None for others."""
    if isinstance(module, nn.LeakyReLU):
        return float(module.negative_slope)
    if isinstance(module, nn.PReLU):
        return float(module.weight.detach().float().mean())
    if isinstance(module, nn.RReLU):
        return (float(module.lower) + float(module.upper)) / 2
    return None
