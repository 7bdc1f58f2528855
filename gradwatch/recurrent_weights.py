"""The weights of `nn.RNN`, `nn.LSTM` and `nn.GRU`, read for a replay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradwatch.layers import peek_whole


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one stacked layer and direction.

    Attributes:
        kind: `lstm`, `gru`, `tanh` or `relu`.
        inputs: W, `[gates * hidden, features]`. The rows of the third gate of LSTM and
            GRU, their tanh, are scaled by -2 (exact), so that its preactivation `a` is
            that of `tanh = 1 - 2 sigmoid(a)`; so are those of U and of the biases.
        recurrent: U, `[gates * hidden, hidden]`.
        bias: Of the preactivations, `[gates * hidden]`, None without one.
        late_bias: That of `U h` where a GRU's reset gate scales both; None without one.
    """

    kind: str
    inputs: Tensor
    recurrent: Tensor
    bias: Tensor | None
    late_bias: Tensor | None


def read_weights(
    module: nn.RNNBase, layer: int, dtype: torch.dtype, *, reverse: bool
) -> Weights | None:
    """Return the weights of one stacked layer and direction.

    Args:
        module: The recurrent module. Read only.
        layer: Which stacked layer.
        dtype: Type that the cells run in.
        reverse: Whether the direction that reads the sequence from its end.

    Returns:
        Copies where the type differs or rows are scaled; None if one cannot be read.
    """
    suffix = f"_l{layer}" + ("_reverse" if reverse else "")
    names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if module.bias else [])
    found = [peek_whole(module, name + suffix) for name in names]
    weights = [weight.to(dtype) for weight in found if weight is not None]
    if len(weights) < len(found):
        return None
    kind = "tanh"
    if isinstance(module, nn.LSTM | nn.GRU):
        kind = "lstm" if isinstance(module, nn.LSTM) else "gru"
        weights = [_scaled(weight, module.hidden_size) for weight in weights]
    elif getattr(module, "nonlinearity", "tanh") == "relu":
        kind = "relu"
    bias, late = (weights[2], weights[3]) if module.bias else (None, None)
    if bias is not None and late is not None and kind != "gru":
        bias, late = bias + late, None
    return Weights(kind, weights[0], weights[1], bias, late)


def _scaled(weight: Tensor, hidden: int) -> Tensor:
    """Scale the rows of the third gate, the tanh of LSTM and GRU, by -2."""
    weight = weight.clone()
    weight[2 * hidden : 3 * hidden] *= -2
    return weight
