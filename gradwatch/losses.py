"""Recognise cross-entropy and its kin from a model's output and its gradient.

A training loop does not tell a hook its loss. But the gradient of softmax cross-entropy
is :math:`r (p - y)` with one-hot :math:`y`, so output and gradient together give the
targets, and the loss, exactly (facts A6). Whatever does not fit is not claimed.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest distance of a recovered target from 0 or 1 (facts A6 saw at most 6e-8).
_TOLERANCE = 1e-3
#: The same for 16-bit tensors: a bfloat16 gradient is off by up to 2^-8.
_TOLERANCE_16_BIT = 3e-2
#: Rows read; the loss is their mean.
_MAX_ROWS = 256
_MAX_CLASSES = 200_000


def recognise_loss(output: Tensor, cotangent: Tensor) -> Tensor | None:
    """Return the mean loss if it is a cross-entropy of `output`, else NaN.

    The factor `r` (mean, sum, a loss scale, a class weight) is solved for row by row,
    so the returned value is the plain loss, whatever it was multiplied by.

    Args:
        output: Logits `[rows..., classes]` (or `[batch, classes, ...]` for 4 and more
            dimensions), log-probabilities, or binary logits of any shape.
        cotangent: Gradient of the loss with respect to `output`, of its shape.

    Returns:
        0-dim tensor, NaN where the loss was not recognised; None for shapes that no
        cross-entropy has.
    """
    if output.shape != cotangent.shape or output.dim() < 1 or output.numel() == 0:
        return None
    if output.dim() >= 4:
        output, cotangent = output.movedim(1, -1), cotangent.movedim(1, -1)
    classes = output.shape[-1]
    if classes > _MAX_CLASSES:
        return None
    half = torch.finfo(output.dtype).bits == 16
    tolerance = _TOLERANCE_16_BIT if half else _TOLERANCE
    logits = output.detach().reshape(-1, classes)[:_MAX_ROWS].double()
    grad = cotangent.detach().reshape(-1, classes)[:_MAX_ROWS].double()
    binary = _binary(logits, grad, tolerance)
    if classes < 2:
        return binary
    result = _categorical(logits, grad, tolerance)
    result = torch.where(result.isnan(), _nll(logits, grad, tolerance), result)
    return torch.where(result.isnan(), binary, result)


def _categorical(logits: Tensor, grad: Tensor, tolerance: float) -> Tensor:
    """Softmax cross-entropy: grad = r (softmax(z) - onehot)."""
    used = grad.abs().sum(-1) > 0
    probabilities = logits.softmax(-1)
    others = grad > 0
    factor = (grad * others).sum(-1) / (probabilities * others).sum(-1)
    target = probabilities - grad / factor.unsqueeze(-1)
    label = target.argmax(-1, keepdim=True)
    onehot = torch.zeros_like(target).scatter_(-1, label, 1.0)
    fits = (target - onehot).abs().amax(-1) < tolerance
    losses = -logits.log_softmax(-1).gather(-1, label).squeeze(-1)
    return _mean(losses, fits, used)


def _nll(logits: Tensor, grad: Tensor, tolerance: float) -> Tensor:
    """Negative log-likelihood of log-probabilities: one negative entry a row."""
    used = grad.abs().sum(-1) > 0
    normalised = (logits.exp().sum(-1) - 1.0).abs() < tolerance
    single = (grad < 0).sum(-1).eq(1) & (grad != 0).sum(-1).eq(1)
    losses = -logits.gather(-1, grad.argmin(-1, keepdim=True)).squeeze(-1)
    return _mean(losses, normalised & single, used)


def _binary(logits: Tensor, grad: Tensor, tolerance: float) -> Tensor:
    """Binary cross-entropy with logits: grad = r (sigmoid(z) - y)."""
    probabilities = logits.sigmoid()
    toward_one = grad < 0
    reference = torch.where(toward_one, 1.0 - probabilities, probabilities)
    factors = grad.abs() / reference.clamp_min(1e-300)
    used = grad != 0
    count = used.sum().clamp_min(1)
    factor = (factors * used).sum() / count
    spread = ((factors - factor).abs() * used).amax() / factor
    losses = -torch.where(toward_one, probabilities, 1.0 - probabilities).log()
    both = toward_one.any() & (grad > 0).any()
    fits = (spread < tolerance) & both
    return _mean(losses.reshape(-1), fits.expand(losses.numel()), used.reshape(-1))


def _mean(losses: Tensor, fits: Tensor, used: Tensor) -> Tensor:
    count = used.sum()
    mean = torch.where(used, losses, torch.zeros_like(losses)).sum() / count
    good = (fits | ~used).all() & (count > 0)
    return torch.where(good, mean, torch.full_like(mean, float("nan")))
