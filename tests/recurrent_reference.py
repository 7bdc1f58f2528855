"""The gradient through time by autograd over torch's cells, in float64: a reference."""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


def reference(capture):
    """Return {direction: norms} of a capture, one cell call a time step."""
    module = capture.module
    x, grad, running = aligned(capture)
    directions = 2 if module.bidirectional else 1
    profiles, finals, layer_input = {}, [], x.double()
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            cell = cell_of(module, f"_l{layer}" + "_reverse" * direction)
            state = initial(capture, layer * directions + direction, x.shape[1])
            made, hidden = [], [None] * len(x)
            steps = range(len(x))
            for t in reversed(steps) if direction else steps:
                new = cell(layer_input[t], state)
                made.append(new)
                keep = running[t].unsqueeze(1)
                pairs = zip(new, state, strict=True)
                state = tuple(torch.where(keep, *pair) for pair in pairs)
                hidden[t] = state[0]
            name = "reverse" if direction else "forward"
            if module.num_layers > 1:
                name += f", stacked layer {layer}"
            profiles[name] = made
            finals.append(state)
            outputs.append(torch.stack(hidden))
        layer_input = torch.cat(outputs, -1)
    loss = 0 if grad is None else (layer_input * grad.double()).sum()
    for kind, final_grad in enumerate(capture.cotangents[1:]):
        if final_grad is not None:
            final = torch.stack([state[kind] for state in finals])
            loss = loss + (final * final_grad.double().view_as(final)).sum()
    flat = [part for steps in profiles.values() for step in steps for part in step]
    grads = iter(torch.autograd.grad(loss, flat, materialize_grads=True))
    return {
        name: [float(torch.stack([next(grads) for _ in step]).norm()) for step in steps]
        for name, steps in profiles.items()
    }


def aligned(capture):
    """Return input, output gradient and mask with time first and a batch axis."""
    x, grad = capture.inputs, capture.cotangents[0]
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x)
        if grad is not None:
            grad, _ = pad_packed_sequence(x._replace(data=grad))
        return padded, grad, torch.arange(len(padded)).unsqueeze(1) < lengths
    if x.dim() == 2:
        x, grad = x.unsqueeze(1), None if grad is None else grad.unsqueeze(1)
    elif capture.module.batch_first:
        x, grad = x.transpose(0, 1), None if grad is None else grad.transpose(0, 1)
    return x, grad, torch.ones(x.shape[:2], dtype=torch.bool)


def initial(capture, index, rows):
    """Return the initial state of one layer and direction."""
    width = 2 if isinstance(capture.module, nn.LSTM) else 1
    size = capture.module.hidden_size
    if capture.state is None:
        state = [torch.zeros(rows, size).double() for _ in range(width)]
    else:
        state = [part[index].view(rows, size).double() for part in capture.state]
    return tuple(part.requires_grad_() for part in state)


def cell_of(module, suffix):
    """Return one step of a recurrent module, by torch's cell functions."""
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * module.bias
    weights = [getattr(module, name + suffix).detach().double() for name in names]
    if isinstance(module, nn.LSTM):
        return lambda x, s: torch.lstm_cell(x, s, *weights)
    if isinstance(module, nn.GRU):
        return lambda x, s: (torch.gru_cell(x, s[0], *weights),)
    relu = module.nonlinearity == "relu"
    step = torch.rnn_relu_cell if relu else torch.rnn_tanh_cell
    return lambda x, s: (step(x, s[0], *weights),)
