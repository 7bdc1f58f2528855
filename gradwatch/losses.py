"""Recognise cross-entropy and its kin from a model's output and its gradient.

A training loop does not tell a hook its loss. But the gradient of softmax cross-entropy
is :math:`r (p - y)` with one-hot :math:`y`, so output and gradient together give the
targets, and the loss, exactly (facts A6). Whatever does not fit is not claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
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
    result = None
    for _, rows in _candidates(output, cotangent, _MAX_ROWS):
        mean = _mean(rows)
        result = mean if result is None else torch.where(result.isnan(), mean, result)
        if result.device.type == "cpu" and not bool(result.isnan()):
            break  # what an accelerator recognised is not known yet
    return result


@dataclass(frozen=True, slots=True)
class RecognisedLoss:
    """A cross-entropy with the targets that it was computed with.

    Attributes:
        kind: `cross-entropy`, `negative log-likelihood` or `binary cross-entropy`.
        targets: Class of each row, or the 0 or 1 of each entry.
        weights: What the loss of each row (or entry) is multiplied with: one over
            their number for a mean, one for a sum, zero where it was left out.
        channels_first: Whether the classes are dimension 1 of the output.
    """

    kind: str
    targets: Tensor
    weights: Tensor
    channels_first: bool

    def __call__(self, output: Tensor) -> Tensor:
        """Return the loss of another output of the same shape, with its gradient."""
        if self.channels_first:
            output = output.movedim(1, -1)
        rows = output.reshape(-1, output.shape[-1])
        if torch.finfo(rows.dtype).bits == 16:
            rows = rows.float()
        if self.kind == "binary cross-entropy":
            losses = F.binary_cross_entropy_with_logits(
                rows, self.targets.to(rows.dtype), reduction="none"
            )
        elif self.kind == "cross-entropy":
            losses = F.cross_entropy(rows, self.targets, reduction="none")
        else:
            losses = F.nll_loss(rows, self.targets, reduction="none")
        return (losses * self.weights.to(losses.dtype)).sum()


def recover_loss(output: Tensor, cotangent: Tensor) -> RecognisedLoss | None:
    """Return the loss function and targets behind an output and its gradient.

    Unlike `recognise_loss` it reads every row and waits for the device.

    Args:
        output: Logits or log-probabilities, as `recognise_loss` takes them.
        cotangent: Gradient of the loss with respect to `output`.

    Returns:
        The loss; None if it is not a cross-entropy.
    """
    for kind, rows in _candidates(output, cotangent, None):
        if not bool(_mean(rows).isnan()):
            weights = torch.where(rows.used, rows.factor, torch.zeros_like(rows.factor))
            return RecognisedLoss(kind, rows.target, weights, output.dim() >= 4)
    return None


class _Rows(NamedTuple):
    """What one kind of loss makes of an output and its gradient, row by row."""

    losses: Tensor
    fits: Tensor
    used: Tensor
    target: Tensor
    factor: Tensor


def _candidates(
    output: Tensor, cotangent: Tensor, limit: int | None
) -> Iterator[tuple[str, _Rows]]:
    """Try one kind of loss after the other on at most `limit` rows."""
    if output.shape != cotangent.shape or output.dim() < 1 or output.numel() == 0:
        return
    if output.dim() >= 4:
        output, cotangent = output.movedim(1, -1), cotangent.movedim(1, -1)
    classes = output.shape[-1]
    if classes > _MAX_CLASSES:
        return
    half = torch.finfo(output.dtype).bits == 16
    tolerance = _TOLERANCE_16_BIT if half else _TOLERANCE
    logits = output.detach().reshape(-1, classes)[:limit].double()
    grad = cotangent.detach().reshape(-1, classes)[:limit].double()
    if classes > 1:
        yield "cross-entropy", _categorical(logits, grad, tolerance)
        yield "negative log-likelihood", _nll(logits, grad, tolerance)
    yield "binary cross-entropy", _binary(logits, grad, tolerance)


def _categorical(logits: Tensor, grad: Tensor, tolerance: float) -> _Rows:
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
    return _Rows(losses, fits, used, label.squeeze(-1), factor)


def _nll(logits: Tensor, grad: Tensor, tolerance: float) -> _Rows:
    """Negative log-likelihood of log-probabilities: one negative entry a row."""
    used = grad.abs().sum(-1) > 0
    normalised = (logits.exp().sum(-1) - 1.0).abs() < tolerance
    single = (grad < 0).sum(-1).eq(1) & (grad != 0).sum(-1).eq(1)
    label = grad.argmin(-1, keepdim=True)
    losses = -logits.gather(-1, label).squeeze(-1)
    factor = -grad.gather(-1, label).squeeze(-1)
    return _Rows(losses, normalised & single, used, label.squeeze(-1), factor)


def _binary(logits: Tensor, grad: Tensor, tolerance: float) -> _Rows:
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
    every = fits.expand(losses.shape)
    return _Rows(losses, every, used, toward_one, factor.expand(losses.shape))


def _mean(rows: _Rows) -> Tensor:
    losses, fits, used = rows.losses, rows.fits, rows.used
    count = used.sum()
    mean = torch.where(used, losses, torch.zeros_like(losses)).sum() / count
    good = (fits | ~used).all() & (count > 0)
    return torch.where(good, mean, torch.full_like(mean, float("nan")))


def own_loss(output: object) -> Tensor | None:
    """Return the loss that an output is or holds (`.loss`, `["loss"]`), or None."""
    return output if _is_scalar(output) else held_loss(output)


def held_loss(output: object) -> Tensor | None:
    """Return the loss that an output holds (`.loss`, `["loss"]`), or None."""
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    return loss if _is_scalar(loss) else None


def _is_scalar(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad


def random_cotangent(outputs: Sequence[Tensor]) -> Tensor:
    """Return a scalar whose gradient at the outputs is standard normal per sample."""
    terms = [
        (part * torch.randn_like(part)).sum() / (len(part) if part.dim() else 1)
        for part in outputs
        if part.numel()
    ]
    return torch.stack([term.float() for term in terms]).sum()
