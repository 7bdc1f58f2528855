"""The gradient through time of `nn.RNN`, `nn.LSTM` and `nn.GRU`, by local replay.

Hooks on these modules only see the direct gradient of their outputs: the recurrence is
inside the kernel (facts A4). So the probed input and output gradient are kept for one
step and the same weights are run once forward and once back through time, which gives
dL/d(state) exactly (dropout between stacked layers aside, which is left out).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gradwatch.layers import peek_whole
from gradwatch.recurrent_backward import back_through_time, to_input
from gradwatch.recurrent_cells import State, Unrolled, unroll
from gradwatch.recurrent_weights import read_weights

#: Sequences of a batch that are replayed: the profile is a norm over samples, and each
#: sample's states have gradients of their own.
_MAX_SEQUENCES = 16
_MAX_STEPS = 2048
#: On accelerators weights up to this many entries run in float64.
_MAX_DOUBLE = 4_000_000


@dataclass(slots=True)
class RecurrentCapture:
    """What a replay needs, kept from the forward to the optimizer step.

    Attributes:
        layer: Qualified name.
        module: The recurrent module.
        inputs: Its input sequence.
        state: Its initial state, None for zeros.
        outputs: Its output tensors: sequence, then final states.
        cotangents: Gradient of each output, None until it arrives.
    """

    layer: str
    module: nn.RNNBase
    inputs: Tensor | PackedSequence
    state: State | None
    outputs: tuple[Tensor, ...]
    cotangents: list[Tensor | None]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Gradient norm of the state at each time step, in the order of the recurrence."""

    layer: str
    direction: str
    norms: Tensor


def replay(capture: RecurrentCapture) -> Iterator[Replayed]:
    """Yield the time profile of each stacked layer and direction.

    Args:
        capture: Inputs and output gradients of one call. Read, never changed.

    Yields:
        One profile a layer and direction; nothing if no gradient arrived, the module
        has a projection (`proj_size`), a weight cannot be read (a parametrization that
        does not copy), or the sequence is longer than 2048 steps.
    """
    module = capture.module
    sequence, output_grad, running = _aligned(capture)
    if sequence is None or module.proj_size > 0:
        return
    if sequence.shape[0] > _MAX_STEPS or sequence.shape[0] < 2:
        return
    with torch.no_grad(), torch.autocast(sequence.device.type, enabled=False):
        yield from _unrolled(capture, sequence, output_grad, running)


def _unrolled(
    capture: RecurrentCapture,
    sequence: Tensor,
    output_grad: Tensor | None,
    running: Tensor | None,
) -> Iterator[Replayed]:
    module = capture.module
    rows = min(sequence.shape[1], _MAX_SEQUENCES)
    if running is not None:
        running = running[:, :rows].to(sequence.device)
    runs = _forward(capture, sequence[:, :rows], running)
    if runs is None:
        return
    direct = None if output_grad is None else output_grad[:, :rows]
    profiles: list[Replayed] = []
    for layer in reversed(range(module.num_layers)):
        below: Tensor | None = None
        mine = []
        for direction, run in enumerate(runs[layer]):
            part = None if direct is None else direct.chunk(len(runs[layer]), -1)
            grad = None if part is None else _ordered(part[direction], direction)
            finals = _final_grads(capture, layer * len(runs[layer]) + direction, rows)
            back = back_through_time(run, grad, finals)
            name = "reverse" if direction else "forward"
            if module.num_layers > 1:
                name = f"{name}, stacked layer {layer}"
            mine.append(
                Replayed(
                    capture.layer,
                    name,
                    torch.linalg.vector_norm(back.norms, dim=(1, 2)),
                )
            )
            if layer > 0:
                reached = _ordered(to_input(run, back), direction)
                below = reached if below is None else below + reached
        direct = below
        profiles = mine + profiles
    yield from profiles


def _forward(
    capture: RecurrentCapture, sequence: Tensor, running: Tensor | None
) -> list[list[Unrolled]] | None:
    """Run all stacked layers and directions; None if a weight cannot be read."""
    module = capture.module
    directions = 2 if module.bidirectional else 1
    dtype = _dtype(module)
    layer_input = sequence.to(dtype)
    runs: list[list[Unrolled]] = []
    for layer in range(module.num_layers):
        runs.append([])
        for direction in range(directions):
            weights = read_weights(module, layer, dtype, reverse=direction == 1)
            if weights is None:
                return None
            state = _initial(capture, layer * directions + direction, sequence, dtype)
            mask = None if running is None else _ordered(running, direction)
            run = unroll(weights, _ordered(layer_input, direction), state, mask)
            runs[-1].append(run)
        outputs = [_ordered(run.hidden, i) for i, run in enumerate(runs[-1])]
        layer_input = torch.cat(outputs, dim=-1)
    return runs


def _ordered(steps: Tensor, direction: int) -> Tensor:
    """Turn from the order of the sequence to that of the recurrence, or back."""
    return steps.flip(0) if direction else steps


def _final_grads(
    capture: RecurrentCapture, index: int, rows: int
) -> list[Tensor | None]:
    """Return the gradient of each final state of one layer and direction."""
    kinds = 2 if isinstance(capture.module, nn.LSTM) else 1
    grads: list[Tensor | None] = [None] * kinds
    for kind, grad in enumerate(capture.cotangents[1:]):
        if grad is not None:
            batched = grad.unsqueeze(1) if grad.dim() == 2 else grad
            grads[kind] = batched[index, :rows]
    return grads


def _dtype(module: nn.RNNBase) -> torch.dtype:
    """Return the type in which the cells run; gradients are float64 anyway.

    On a CPU a float32 product costs a third. An accelerator waits for launches more
    than for arithmetic, and its float32 products may be rounded to TF32.
    """
    weight = next(module.parameters())
    if weight.dtype == torch.float64:
        return torch.float64
    small = sum(p.numel() for p in module.parameters()) <= _MAX_DOUBLE
    launches = weight.device.type not in ("cpu", "mps")
    return torch.float64 if small and launches else torch.float32


def _aligned(
    capture: RecurrentCapture,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return input and output gradient as `[time, batch, features]`.

    Third, for packed sequences: which of them still run, `[time, batch]`.
    """
    grad = capture.cotangents[0]
    if all(cotangent is None for cotangent in capture.cotangents):
        return None, None, None
    if isinstance(capture.inputs, PackedSequence):
        packed = capture.inputs
        sequence, lengths = pad_packed_sequence(packed)
        if grad is not None:
            grad, _ = pad_packed_sequence(packed._replace(data=grad))
        running = torch.arange(len(sequence)).unsqueeze(1) < lengths
        return sequence.detach(), grad, running
    sequence = capture.inputs.detach()
    if sequence.dim() == 2:
        grad = None if grad is None else grad.unsqueeze(1)
        return sequence.unsqueeze(1), grad, None
    if capture.module.batch_first:
        grad = None if grad is None else grad.transpose(0, 1)
        return sequence.transpose(0, 1), grad, None
    return sequence, grad, None


def _initial(
    capture: RecurrentCapture, index: int, sequence: Tensor, dtype: torch.dtype
) -> State:
    module = capture.module
    rows = sequence.shape[1]
    width = 2 if isinstance(module, nn.LSTM) else 1
    if capture.state is None:
        zero = torch.zeros(
            rows, module.hidden_size, dtype=dtype, device=sequence.device
        )
        return (zero,) * width
    state = []
    for tensor in capture.state:
        mine = tensor.detach()[index]
        mine = mine.unsqueeze(0) if mine.dim() == 1 else mine
        state.append(mine[:rows].to(dtype))
    while len(state) < width:  # an LSTM that is called like an RNN starts its cell at 0
        state.append(torch.zeros_like(state[0]))
    return tuple(state)


def recurrent_spectrum(module: nn.Module) -> tuple[float | None, float | None]:
    """Return spectral radius and largest singular value of the recurrent weight.

    Context for a reader, it decides nothing (facts B1). Only for plain RNNs and up to
    512 hidden units, since it costs O(hidden^3).

    Args:
        module: Recurrent module or cell.

    Returns:
        The pair; None where it was not computed.
    """
    weight = peek_whole(module, "weight_hh_l0")
    if weight is None:
        weight = peek_whole(module, "weight_hh")
    if weight is None or weight.shape[0] != weight.shape[1]:
        return None, None
    if weight.shape[0] > 512 or not bool(torch.isfinite(weight).all()):
        return None, None
    matrix = weight.detach().double().cpu()
    radius = float(torch.linalg.eigvals(matrix).abs().max())
    return radius, float(torch.linalg.matrix_norm(matrix, 2))
