"""What the loss says, where it is known: flat, risen, learning."""

from __future__ import annotations

import math

from gradwatch.history import History
from gradwatch.settings import Settings

#: Newest loss over first loss from which the loss counts as risen (facts B2b).
RISEN = 2.0


def steps_known(history: History) -> int:
    """Return the steps between the first and the newest known loss, 0 without two."""
    steps = [step for step, loss in history.losses() if math.isfinite(loss)]
    return steps[-1] - steps[0] if len(steps) >= 2 else 0


def last_loss(history: History) -> float | None:
    """Return the newest known loss; NaN where the output has become NaN since.

    A cross-entropy is not recognised in NaN: without this, the last good loss would
    stand for what came after.
    """
    known = list(history.losses())
    if not known:
        return None
    step, loss = known[-1]
    newest = history.latest
    if newest is None or newest.step <= step:
        return loss
    seen = [layer for layer in newest.layers if layer.output_finite is not None]
    last = max(seen, key=lambda layer: layer.order, default=None)
    flags = (last.output_finite, last.grad_finite) if last is not None else ()
    return math.nan if flags == (False, False) else loss


def is_flat(history: History, settings: Settings, min_steps: int) -> bool | None:
    """Say whether the loss has hardly fallen.

    Args:
        history: What was measured.
        settings: `flat_loss_ratio` is the share of the first loss.
        min_steps: Steps the loss must be known over.

    Returns:
        Whether it is flat or risen; None if it is not known for long enough.
    """
    ratio = history.loss_ratio()
    if ratio is None or steps_known(history) < min_steps:
        return None
    return ratio > settings.flat_loss_ratio


def is_learning(history: History, settings: Settings) -> bool:
    """Whether the loss is known and below `learning_loss_ratio` of its first value."""
    ratio = history.loss_ratio()
    return ratio is not None and ratio <= settings.learning_loss_ratio


def has_jumped(history: History) -> bool:
    """Whether the loss was known to be above twice its first value at any step."""
    first = history.first_loss
    if first is None or first <= 0:
        return False
    return any(loss >= RISEN * first for _, loss in history.losses())


def has_risen(history: History) -> bool:
    """Whether the loss is known and above twice its first value."""
    ratio = history.loss_ratio()
    return ratio is not None and ratio >= RISEN
