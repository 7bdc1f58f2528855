"""What follows a watch: loggers that write at each probe, and once at its end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from gradwatch.errors import ListenerWarning
from gradwatch.report import Report


class Listener(Protocol):
    """What `Watch.attach` takes."""

    def on_probe(self, watch: Any) -> None:
        """Called after each probe was judged, inside the training step."""

    def on_close(self, watch: Any, report: Report) -> None:
        """Called once when the watch has closed."""


class Listeners:
    """The listeners of a watch; one that raises is dropped, and training goes on."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: Listener) -> None:
        """Add one; a second time does nothing."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def on_probe(self, watch: object) -> None:
        """Tell all of a probe."""
        for listener in list(self._listeners):
            self._tell(listener, partial(listener.on_probe, watch))

    def on_close(self, watch: object, report: Report) -> None:
        """Tell all of the end, and let go of them."""
        for listener in list(self._listeners):
            self._tell(listener, partial(listener.on_close, watch, report))
        self._listeners.clear()

    def _tell(self, listener: Listener, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a logger of the user's: a full disk, a closed run
            self._listeners.remove(listener)
            with warnings.catch_warnings():
                # A user's `-W error` must not turn a logger's failure into the run's.
                warnings.simplefilter("default", ListenerWarning)
                warnings.warn(
                    f"{type(listener).__name__} cannot write what gradwatch measures "
                    f"({type(error).__name__}: {error}), so it gets no more of it; "
                    "training and the watch go on.",
                    ListenerWarning,
                    stacklevel=2,
                )
