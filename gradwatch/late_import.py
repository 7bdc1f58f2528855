"""Imports that wait until they are used, and leave no trace in the user's training."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator


@contextlib.contextmanager
def draws_kept() -> Iterator[None]:
    """Put Python's global generator back to where it was before the block.

    Rich draws from it when it is first imported. It is imported when gradwatch first
    has something to show, which may be in the middle of a training whose user has
    seeded that generator.

    Yields:
        Nothing; import inside the block.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
