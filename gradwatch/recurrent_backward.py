"""The way back through time: the gradient of every state that a cell made.

The derivative of each gate is known before (`recurrent_cells`), so a step costs one
product with the recurrent weight and a few elementwise ones.

Gradients are float64, in which 1e-60 is still a number. For the products, which may be
float32, each sequence's gradient is brought to size one first.

Sources: Werbos (1990), Backpropagation through time; for the whole gradient of an LSTM
Graves & Schmidhuber (2005), Framewise phoneme classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.recurrent_cells import Unrolled, masks, wide


@dataclass(frozen=True, slots=True)
class Gradients:
    """What came back through one layer and direction; T steps, B sequences, H units.

    Attributes:
        norms: Of the state's gradient at each step, over hidden and cell state,
            `[T, B, 1]`.
        unit_deltas: Gradient of `W x + b`, `[T, B, gates * H]`, divided by `norms`.
    """

    norms: Tensor
    unit_deltas: Tensor


def back_through_time(
    run: Unrolled, direct: Tensor | None, final: Sequence[Tensor | None]
) -> Gradients:
    """Return the gradient of the state that the cell made at each step.

    With the gates' `delta = slope dh` the hidden state before receives `delta U`, in a
    GRU also `z dh`. In an LSTM `dc += dh o (1 - tanh(c)^2)`, the first three gates'
    `delta = slope dc`, and the cell before receives `f dc`. What a cell makes of
    padding is dropped and so has no gradient.

    Args:
        run: The layer and direction after its forward. Its slopes are used up.
        direct: Gradient that each step's output receives from outside, in the order of
            the recurrence, `[T, B, H]`; None without one.
        final: Gradient of each final state, `[B, H]`; None without one.

    Returns:
        Norms, and the gradient of the preactivations for the layer below.
    """
    steps, rows, width = run.hidden.shape
    state = run.hidden.new_zeros(rows, len(final), width, dtype=wide(run.hidden))
    for kind, grad in enumerate(final):
        if grad is not None:
            state[:, kind] = grad
    norms, size = state.new_empty(steps, rows, 1), state.new_empty(rows, 1)
    flat, hidden, cell = state.flatten(1), state[:, 0], state[:, -1]
    unit = torch.empty_like(state, dtype=run.slopes.dtype)
    flat_unit, by_hidden, by_cell = unit.flatten(1), unit[:, :1], unit[:, -1:]
    if direct is not None:
        direct = direct.to(state.dtype)
    blocks = run.slopes.unflatten(2, (-1, width))
    lstm, gru = run.leak is not None, run.new is not None
    # An LSTM's output gate acts on its hidden state, the gates before on its cell.
    front, output = (blocks[:, :, :3], blocks[:, :, 3:]) if lstm else (blocks, None)
    each = zip(
        run.slopes.unbind(),
        front.unbind(),
        *(_unbound(part, steps) for part in (output, run.new, run.kept, run.leak)),
        _unbound(direct, steps),
        masks(run.running, steps),
        norms.unbind(),
        strict=True,
    )
    least, most = _range(state.dtype)
    for slopes, ahead, last, new, kept, leak, grad, keep, norm in reversed(list(each)):
        if grad is not None:
            hidden += grad
        rest = _dropped(flat, keep)
        if leak is not None:
            cell.addcmul_(hidden, leak)
        torch.linalg.vector_norm(flat, dim=1, keepdim=True, out=norm)
        torch.clamp(norm, least, most, out=size)
        torch.div(flat, size, out=flat_unit)
        ahead.mul_(by_cell)
        if last is not None:
            last.mul_(by_hidden)
        if new is not None:
            new.mul_(unit[:, 0])
        product = slopes @ run.weights.recurrent
        if kept is not None:
            cell.mul_(kept)
        if gru:
            hidden.addcmul_(product, size)
        else:
            torch.mul(product, size, out=hidden)
        if rest is not None:
            flat += rest
    deltas = run.slopes
    if run.new is not None:
        deltas[:, :, -width:] = run.new
    return Gradients(norms, deltas)


def to_input(run: Unrolled, back: Gradients) -> Tensor:
    """Return the gradient of a layer's input, in one product over all steps.

    Args:
        run: The layer and direction.
        back: What came back through it.

    Returns:
        `[T, B, features]`, in the order of the recurrence.
    """
    sizes = back.norms.clamp(*_range(back.norms.dtype))
    return (back.unit_deltas @ run.weights.inputs) * sizes


def _unbound(each: Tensor | None, steps: int) -> Sequence[Tensor | None]:
    """Return each step's part, None for each where there is none."""
    return [None] * steps if each is None else each.unbind()


def _range(dtype: torch.dtype) -> tuple[float, float]:
    """Return between which norms are computed: outside the squares are no numbers."""
    return torch.finfo(dtype).tiny ** 0.5, torch.finfo(dtype).max ** 0.5


def _dropped(grad: Tensor, keep: Tensor | None) -> Tensor | None:
    """Zero the rows that have ended, in place, and return what they pass on."""
    if keep is None:
        return None
    rest = grad.masked_fill(keep, 0)
    grad.masked_fill_(~keep, 0)
    return rest
