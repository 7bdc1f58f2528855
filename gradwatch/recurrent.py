"""The gradient through time of `nn.RNN`, `nn.LSTM` and `nn.GRU`, by local replay.

Hooks on these modules only see the direct gradient of their outputs: the recurrence is
inside the kernel (facts A4). So the probed input and output gradient are kept for one
step and the same weights are run once a time step, which gives dL/d(state) exactly
(dropout between stacked layers aside, which is left out).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gradwatch.layers import peek_whole

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]

#: Sequences of a batch that are replayed: the profile is a norm over samples, and each
#: sample's states have gradients of their own.
_MAX_SEQUENCES = 16
_MAX_STEPS = 2048
#: Recurrent weights up to this many entries are replayed in float64, in which a
#: gradient of 1e-60 is still a number.
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
    with torch.enable_grad(), torch.autocast(sequence.device.type, enabled=False):
        yield from _unrolled(capture, sequence, output_grad, running)


def _unrolled(
    capture: RecurrentCapture,
    sequence: Tensor,
    output_grad: Tensor | None,
    running: Tensor | None,
) -> Iterator[Replayed]:
    module = capture.module
    directions = 2 if module.bidirectional else 1
    rows = min(sequence.shape[1], _MAX_SEQUENCES)
    dtype = _dtype(module)
    layer_input = sequence[:, :rows].to(dtype)
    if running is not None:
        running = running[:, :rows].to(sequence.device)
    profiles: list[tuple[str, str, list[State]]] = []
    finals: list[State] = []
    outputs: list[Tensor] = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            cell = _cell(module, layer, direction == 1, dtype)
            if cell is None:
                return
            state = _initial(capture, layer * directions + direction, rows, dtype)
            states, carried = _run(
                cell, layer_input, state, running, reverse=direction == 1
            )
            name = "reverse" if direction else "forward"
            if module.num_layers > 1:
                name = f"{name}, stacked layer {layer}"
            profiles.append((capture.layer, name, states))
            finals.append(carried[-1])
            hidden = torch.stack([step[0] for step in carried])
            outputs.append(hidden.flip(0) if direction else hidden)
        layer_input = torch.cat(outputs, dim=-1)
    targets, cotangents = _targets(capture, layer_input, finals, output_grad, rows)
    flat = [tensor for _, _, states in profiles for step in states for tensor in step]
    if not targets:
        return
    filled = torch.autograd.grad(targets, flat, cotangents, materialize_grads=True)
    position = 0
    for label, name, states in profiles:
        width = len(states[0])
        mine = filled[position : position + width * len(states)]
        position += width * len(states)
        stacked = torch.stack(
            [torch.cat(mine[i : i + width], -1) for i in range(0, len(mine), width)]
        )
        yield Replayed(label, name, torch.linalg.vector_norm(stacked, dim=(1, 2)))


def _dtype(module: nn.RNNBase) -> torch.dtype:
    weight = next(module.parameters())
    small = sum(p.numel() for p in module.parameters()) <= _MAX_DOUBLE
    if small and weight.device.type != "mps":
        return torch.float64
    return torch.float32


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
    capture: RecurrentCapture, index: int, rows: int, dtype: torch.dtype
) -> State:
    module = capture.module
    width = 2 if isinstance(module, nn.LSTM) else 1
    if capture.state is None:
        device = next(module.parameters()).device
        zero = torch.zeros(rows, module.hidden_size, dtype=dtype, device=device)
        return tuple(zero.clone().requires_grad_() for _ in range(width))
    state = []
    for tensor in capture.state:
        mine = tensor.detach()[index]
        mine = mine.unsqueeze(0) if mine.dim() == 1 else mine
        state.append(mine[:rows].to(dtype).clone().requires_grad_())
    while len(state) < width:  # an LSTM that is called like an RNN starts its cell at 0
        state.append(torch.zeros_like(state[0]).requires_grad_())
    return tuple(state)


def _run(
    cell: Cell,
    sequence: Tensor,
    state: State,
    running: Tensor | None,
    *,
    reverse: bool,
) -> tuple[list[State], list[State]]:
    """Return the states that the cell made and those that were carried on.

    They differ in padding, which leaves a state as it is: what the cell makes of it is
    dropped and so has no gradient.
    """
    made, carried = [], []
    steps: Sequence[int] = range(sequence.shape[0])
    for step in reversed(steps) if reverse else steps:
        new = cell(sequence[step], state)
        if running is not None:
            keep = running[step].unsqueeze(1)
            pairs = zip(new, state, strict=True)
            state = tuple(torch.where(keep, after, before) for after, before in pairs)
        else:
            state = new
        made.append(new)
        carried.append(state)
    return made, carried


def _cell(
    module: nn.RNNBase, layer: int, reverse: bool, dtype: torch.dtype
) -> Cell | None:
    suffix = f"_l{layer}" + ("_reverse" if reverse else "")
    names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if module.bias else [])
    found = [peek_whole(module, name + suffix) for name in names]
    weights = [weight.to(dtype) for weight in found if weight is not None]
    if len(weights) < len(found):
        return None
    if isinstance(module, nn.LSTM):
        return lambda x, state: torch.lstm_cell(x, state, *weights)
    if isinstance(module, nn.GRU):
        return lambda x, state: (torch.gru_cell(x, state[0], *weights),)
    relu = getattr(module, "nonlinearity", "tanh") == "relu"
    step = torch.rnn_relu_cell if relu else torch.rnn_tanh_cell
    return lambda x, state: (step(x, state[0], *weights),)


def _targets(
    capture: RecurrentCapture,
    output: Tensor,
    finals: Sequence[State],
    output_grad: Tensor | None,
    rows: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Pair the replayed outputs with the gradients that arrived for them."""
    targets, cotangents = [], []
    if output_grad is not None:
        targets.append(output)
        cotangents.append(output_grad[:, :rows].to(output.dtype))
    for kind, grad in enumerate(capture.cotangents[1:]):
        if grad is None:
            continue
        final = torch.stack([state[kind] for state in finals])
        batched = grad.unsqueeze(1) if grad.dim() == 2 else grad
        targets.append(final)
        cotangents.append(batched[:, :rows].to(final.dtype))
    return targets, cotangents


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
