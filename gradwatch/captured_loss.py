"""Runs a copy on a captured batch: its loss where that is known, else its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.capture import CapturedBatch, as_captured, cloned, outputs_of
from gradwatch.errors import ModelError
from gradwatch.losses import RecognisedLoss, own_loss, random_cotangent, recover_loss
from gradwatch.twin import OWN_LOSS, RANDOM_COTANGENT, Forward

_COTANGENT = "captured cotangent"


class CapturedLoss:
    """What the loss of a captured batch is, found once and computed for any copy.

    Args:
        batch: The captured batch.

    Attributes:
        how: What will be back-propagated where the model has no loss of its own and
            its outputs keep their shapes.
    """

    def __init__(self, batch: CapturedBatch) -> None:
        self.batch = batch
        # Of a part of a batch, so that the gradient is about as large as the whole's.
        self._share = batch.kept / batch.of if batch.of else 1.0
        self._losses = [
            recover_loss(output, cotangent) for output, cotangent in self._pairs()
        ]
        kinds = [loss.kind for loss in self._losses if loss is not None]
        if self._losses and len(kinds) == len(self._losses):
            self.how = f"{', '.join(dict.fromkeys(kinds))} recognised"
        else:
            self.how = _COTANGENT if self._losses else RANDOM_COTANGENT

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        batch = self.batch
        if not all(bool(torch.isfinite(c).all()) for c in batch.cotangents):
            return []
        scale = 1.0 if batch.scale is None else float(batch.scale)
        return [
            (output, cotangent / scale)
            for output, cotangent in zip(batch.outputs, batch.cotangents, strict=True)
        ]

    def forward(self, twin: nn.Module) -> tuple[Tensor, str]:
        """Run a copy in the captured modes and random state; call in `no_trace`.

        Args:
            twin: The copy.

        Returns:
            A scalar to back-propagate and what it is.

        Raises:
            ModelError: If no output of the copy has a gradient.
        """
        batch = self.batch
        args, kwargs = cloned((batch.args, batch.kwargs))
        with as_captured(batch, twin):
            output = twin(*args, **kwargs)
        loss = own_loss(output)
        if loss is not None:
            return loss, OWN_LOSS
        outputs = outputs_of(output)
        if not outputs:
            raise ModelError("The copy returned no tensor with a gradient.")
        shapes = [tensor.shape for tensor in batch.outputs]
        if not shapes or self.how == RANDOM_COTANGENT:
            return random_cotangent(outputs), RANDOM_COTANGENT
        if shapes != [tensor.shape for tensor in outputs]:
            return random_cotangent(outputs), RANDOM_COTANGENT
        pairs = zip(outputs, self._losses, batch.cotangents, strict=True)
        terms = [self._term(*pair) for pair in pairs]
        return torch.stack(terms).sum(), self.how

    def _term(
        self, output: Tensor, loss: RecognisedLoss | None, cotangent: Tensor
    ) -> Tensor:
        if loss is not None and self.how != _COTANGENT:
            return loss(output) / self._share
        return (output * cotangent).sum()


def forward_of(batch: CapturedBatch) -> Forward:
    """Return what runs a copy on a captured batch."""
    return CapturedLoss(batch).forward


def captured_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a `CapturedLoss`, as a `loss_fn` for training.

    Args:
        model: The copy.
        batch: The `CapturedLoss`.

    Returns:
        The loss.

    Raises:
        ModelError: If the loss is not known, only its gradient at the old output.
    """
    loss, how = batch.forward(model)
    if "cotangent" in how:
        raise ModelError("The loss of the captured batch is not known.")
    tensor: Tensor = loss
    return tensor
