"""Gated layers that stand in for plain ones, and the bias that keeps their state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.remedies.recurrences import suffixes

#: Which quarter (LSTM) or third (GRU) of a bias belongs to the gate that keeps the
#: state: torch orders them input, forget, cell, output and reset, update, new.
_KEEPS = 1


class DropInLSTM(nn.LSTM):
    """An LSTM that is called like `nn.RNN`: it takes and returns the hidden state only.

    The cell state starts at zero at every call and is not handed out.
    """

    def forward(  # type: ignore[override]
        self, input: Any, hx: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, Tensor]:
        """Return the output sequence and the last hidden state.

        Args:
            input: Sequence or packed sequence, as for `nn.RNN`.
            hx: First hidden state, or the pair of `nn.LSTM`.

        Returns:
            Output sequence and last hidden state, as from `nn.RNN`.
        """
        if isinstance(hx, Tensor):
            hx = (hx, torch.zeros_like(hx))
        output, state = super().forward(input, hx)
        return output, state[0]


def gated_like(module: nn.Module, kind: str) -> nn.Module:
    """Return a gated layer of the same sizes as a plain one.

    Args:
        module: `nn.RNN` or `nn.RNNCell`. Read only.
        kind: `LSTM` or `GRU`; for a cell `GRU`.

    Returns:
        A layer with new weights on the same device, always with biases (the gates need
        them), that is called like the old one.

    Raises:
        TypeError: If `module` is neither `nn.RNN` nor `nn.RNNCell`, or is a cell that
            is to become an LSTM.
    """
    weight = next(module.parameters())
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    new: nn.Module
    if isinstance(module, nn.RNN):
        make = DropInLSTM if kind == "LSTM" else nn.GRU
        new = make(
            module.input_size,
            module.hidden_size,
            module.num_layers,
            batch_first=module.batch_first,
            dropout=module.dropout,
            bidirectional=module.bidirectional,
            **place,
        )
    elif isinstance(module, nn.RNNCell) and kind == "GRU":
        new = nn.GRUCell(module.input_size, module.hidden_size, **place)
    else:
        raise TypeError(
            f"`module` (={type(module).__name__}) must be nn.RNN, or nn.RNNCell that "
            f"becomes a GRU (`kind` is {kind!r}); exchange it by hand."
        )
    return new.train(module.training)


def is_lstm(module: nn.Module) -> bool:
    """Whether a module has the gates of an LSTM."""
    return isinstance(module, nn.LSTM | nn.LSTMCell)


def draw_gate_bias(
    bias: Tensor, hidden_size: int, *, lstm: bool, value: float | None, steps: int
) -> None:
    """Set the part of an input bias that belongs to the gates, in place.

    Chrono initialisation (Tallec & Ollivier 2018, section 4): forget bias log U(1, T-1)
    and input bias its negative, so that units remember from 1 to T steps; the update
    gate of a GRU likewise.

    Args:
        bias: `bias_ih` of one stacked layer and direction.
        hidden_size: Units.
        lstm: Whether the gates are those of an LSTM.
        value: The same bias for all units; None for chrono.
        steps: Time steps T, for chrono.
    """
    keep = bias[_KEEPS * hidden_size : (_KEEPS + 1) * hidden_size]
    if value is not None:
        keep.fill_(value)
        return
    keep.uniform_(1.0, float(max(steps, 3) - 1)).log_()
    if lstm:
        bias[:hidden_size] = -keep


def clear_gate_bias(
    bias: Tensor, hidden_size: int, *, lstm: bool, value: float | None
) -> None:
    """Set to zero, in `bias_hh`, the part that `draw_gate_bias` set in `bias_ih`.

    Args:
        bias: `bias_hh` of the same stacked layer and direction; it is added.
        hidden_size: Units.
        lstm: Whether the gates are those of an LSTM.
        value: As for `draw_gate_bias`.
    """
    bias[_KEEPS * hidden_size : (_KEEPS + 1) * hidden_size] = 0.0
    if lstm and value is None:
        bias[:hidden_size] = 0.0


def set_gate_bias(module: nn.Module, value: float | None, steps: int) -> None:
    """Set the gate bias of a new layer that is not part of a model yet.

    Args:
        module: LSTM, GRU or a cell of them, with biases.
        value: The same bias for all units; None for chrono.
        steps: Time steps T, for chrono.
    """
    size, lstm = int(module.hidden_size), is_lstm(module)  # type: ignore[arg-type]
    with torch.no_grad():
        for suffix in suffixes(module):
            first = getattr(module, f"bias_ih{suffix}")
            draw_gate_bias(first, size, lstm=lstm, value=value, steps=steps)
            second = getattr(module, f"bias_hh{suffix}")
            clear_gate_bias(second, size, lstm=lstm, value=value)
