"""The cells of `nn.RNN`, `nn.LSTM` and `nn.GRU` over time, and how they pass gradients.

A sequence runs once, forward and without autograd, and leaves what the way back needs
(`recurrent_backward`): for each step the factors between the gradient of the state and
that of each gate. They are made step by step, while all of it is in the cache: memory
that is touched for the first time costs more than the arithmetic.

In LSTM and GRU `tanh(a) = 1 - 2 sigmoid(-2 a)`, of which torch computes the right side
faster; the -2 is in the weights (`recurrent_weights`). The derivative of a sigmoid is
`sigmoid(a) sigmoid(-a)`: in float32 `s (1 - s)` of a saturated gate is all rounding.

Sources: Elman (1990); Hochreiter & Schmidhuber (1997) with the forget gate of Gers et
al. (2000); Cho et al. (2014), where torch applies the reset gate after the product. The
formulas and the order of the gates are those of torch's documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch.recurrent_weights import Weights

State = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Unrolled:
    """One layer and direction after its forward; T steps, B sequences, H units.

    A slope is the derivative of a gate's effect on the state by the gate's
    preactivation: a factor on the gradient of the state that the cell made.

    Attributes:
        weights: Its weights, as its preactivations used them.
        hidden: Hidden state after each step, `[T, B, H]`.
        final: The state after the last step, each `[B, H]`.
        slopes: Of each gate, `[T, B, gates * H]`. Those of an LSTM's first three gates
            act on the gradient of its cell, all others on that of the hidden state.
        kept: Share of the state that a step keeps as it is, `[T, B, H]`: forget gate of
            an LSTM's cell, update gate of a GRU, None for a plain RNN.
        leak: Derivative of an LSTM's hidden state by its cell, `[T, B, H]`.
        new: Slope of a GRU's new gate by `W x + b`, `[T, B, H]`; that in `slopes` is by
            `U h + c`, which the reset gate scales.
        running: Which sequences still run, `[T, B, 1]`; None if all do.
    """

    weights: Weights
    hidden: Tensor
    final: State
    slopes: Tensor
    kept: Tensor | None
    leak: Tensor | None
    new: Tensor | None
    running: Tensor | None


def unroll(
    weights: Weights, sequence: Tensor, state: State, running: Tensor | None
) -> Unrolled:
    """Run a cell over a sequence.

    Padding leaves a state as it is.

    Args:
        weights: Its weights.
        sequence: Input in the order of the recurrence, `[T, B, features]`.
        state: Initial state, each `[B, H]`.
        running: Which sequences still run, `[T, B]`; None if all do.

    Returns:
        The states and what the way back needs.
    """
    if running is not None:
        running = running.unsqueeze(-1)
    cell = {"lstm": _lstm, "gru": _gru}.get(weights.kind, _rnn)
    return cell(weights, sequence, state, running)


def _rnn(
    weights: Weights, sequence: Tensor, state: State, running: Tensor | None
) -> Unrolled:
    """`h' = act(W x + b + U h + c)`, act a tanh or relu."""
    slopes, hidden = _start(weights, sequence, state[0])
    recurrent = weights.recurrent.t()
    tanh = weights.kind == "tanh"
    for slope, (h, new_h, keep) in zip(slopes, _steps(hidden, running), strict=True):
        slope.addmm_(h, recurrent)
        if tanh:
            torch.tanh(slope, out=new_h)
        else:
            torch.clamp_min(slope, 0, out=new_h)
        _hold(h, new_h, keep)
    if tanh:
        _tanh_slopes(slopes)
    else:
        torch.gt(slopes, 0, out=slopes)
    return Unrolled(
        weights,
        hidden[1:],
        (hidden[-1],),
        slopes,
        kept=None,
        leak=None,
        new=None,
        running=running,
    )


def _lstm(
    weights: Weights, sequence: Tensor, state: State, running: Tensor | None
) -> Unrolled:
    """`c' = f c + i g`, `h' = o tanh(c')` with gates in the order i, f, g, o."""
    slopes, hidden = _start(weights, sequence, state[0])
    cell, cell_after = state[1].clone(), torch.empty_like(state[1])
    kept, leak = (torch.empty_like(hidden[1:], dtype=wide(hidden)) for _ in range(2))
    recurrent = weights.recurrent.t()
    before, gates = torch.empty_like(slopes[0]), torch.empty_like(slopes[0])
    i, f, s, o = gates.chunk(4, 1)
    di, df, dg, do = before.chunk(4, 1)
    g, tanh, half = (torch.empty_like(cell) for _ in range(3))
    one = torch.ones((), dtype=cell.dtype, device=cell.device)
    for slope, keeps, leaks, (h, new_h, keep) in zip(
        slopes.unbind(),
        kept.unbind(),
        leak.unbind(),
        _steps(hidden, running),
        strict=True,
    ):
        torch.mm(h, recurrent, out=before)
        torch.sigmoid(before.add_(slope), out=gates)
        torch.sub(one, s, alpha=2, out=g)
        torch.mul(f, cell, out=cell_after).addcmul_(i, g)
        torch.mul(cell_after, -2, out=half).sigmoid_()
        torch.sub(one, half, alpha=2, out=tanh)
        torch.mul(o, tanh, out=new_h)
        # Slopes while all of it is in the cache.
        before.neg_().sigmoid_().mul_(gates)
        di.mul_(g)
        df.mul_(cell)
        dg.mul_(i)
        do.mul_(tanh)
        slope.copy_(before)
        keeps.copy_(f)
        torch.mul(cell_after, 2, out=g).sigmoid_().mul_(half)
        torch.mul(g, o, out=leaks)
        _hold(h, new_h, keep)
        _hold(cell, cell_after, keep)
        cell, cell_after = cell_after, cell
    slopes.unflatten(2, (4, -1))[:, :, 2] *= -2
    leak *= 4
    return Unrolled(
        weights,
        hidden[1:],
        (hidden[-1], cell),
        slopes,
        kept=kept,
        leak=leak,
        new=None,
        running=running,
    )


def _gru(
    weights: Weights, sequence: Tensor, state: State, running: Tensor | None
) -> Unrolled:
    """`h' = (1 - z) n + z h`, `n = tanh(W x + b + r (U h + c))`, gates r, z, n."""
    slopes, hidden = _start(weights, sequence, state[0])
    kept = torch.empty_like(hidden[1:], dtype=wide(hidden))
    by_input = torch.empty_like(hidden[1:])
    recurrent = weights.recurrent.t()
    before, gates, inner = (torch.empty_like(slopes[0]) for _ in range(3))
    width = hidden.shape[2]
    r, z, s = gates.chunk(3, 1)
    dr, dz, dn = before.chunk(3, 1)
    both, both_before, both_inner = (t[:, : 2 * width] for t in (gates, before, inner))
    m = inner[:, 2 * width :]
    n, difference = torch.empty_like(r), torch.empty_like(r)
    one = torch.ones((), dtype=slopes.dtype, device=slopes.device)
    bias = slopes.new_zeros(1) if weights.late_bias is None else weights.late_bias
    for slope, keeps, new, (h, new_h, keep) in zip(
        slopes.unbind(),
        kept.unbind(),
        by_input.unbind(),
        _steps(hidden, running),
        strict=True,
    ):
        torch.addmm(bias, h, recurrent, out=inner)
        before.copy_(slope)
        torch.sigmoid(both_before.add_(both_inner), out=both)
        torch.sigmoid(dn.addcmul_(r, m), out=s)
        torch.sub(one, s, alpha=2, out=n)
        torch.lerp(n, h, z, out=new_h)
        # Slopes while all of it is in the cache.
        before.neg_().sigmoid_()
        torch.mul(dn, dz, out=new).mul_(s).mul_(-2)
        dr.mul_(r).mul_(m).mul_(new)
        dz.mul_(z).mul_(torch.sub(h, n, out=difference))
        torch.mul(new, r, out=dn)
        slope.copy_(before)
        keeps.copy_(z)
        _hold(h, new_h, keep)
    return Unrolled(
        weights,
        hidden[1:],
        (hidden[-1],),
        slopes,
        kept=kept,
        leak=None,
        new=by_input,
        running=running,
    )


def _start(weights: Weights, sequence: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input's part of all preactivations, and room for hidden states.

    The room is `[T + 1, B, H]` and begins with the initial state.
    """
    room = first.new_empty(len(sequence) + 1, *first.shape)
    room[0] = first
    before = torch.nn.functional.linear(sequence, weights.inputs, weights.bias)
    return before, room


def _tanh_slopes(before: Tensor) -> None:
    """Turn preactivations of a tanh into its slopes, in place and step by step."""
    room = torch.empty_like(before[0])
    for step in before:
        torch.mul(step, -2, out=room).sigmoid_()
        step.mul_(2).sigmoid_().mul_(room)
    before *= 4


def wide(like: Tensor) -> torch.dtype:
    """Return the type of gradients: the widest of the device."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _steps(
    states: Tensor, running: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield state before, room for the state after, and the mask if a row ended."""
    each = states.unbind()
    return zip(each[:-1], each[1:], masks(running, len(each) - 1), strict=True)


def masks(running: Tensor | None, steps: int) -> list[Tensor | None]:
    """Return each step's mask.

    Args:
        running: Which sequences still run, `[T, B, 1]`; None if all do.
        steps: Number of steps T.

    Returns:
        `[B, 1]` a step; None where every sequence runs, so far as the CPU knows without
        waiting for a device.
    """
    if running is None:
        return [None] * steps
    if running.device.type != "cpu":
        return list(running.unbind())
    full = running.flatten(1).all(1).tolist()
    pairs = zip(running.unbind(), full, strict=True)
    return [None if all_run else mask for mask, all_run in pairs]


def _hold(old: Tensor, new: Tensor, keep: Tensor | None) -> None:
    """Leave the state of sequences that have ended as it was."""
    if keep is not None:
        torch.where(keep, new, old, out=new)
