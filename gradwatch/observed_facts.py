"""What others may ask of an observer, and what it asks of a replay."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol

from gradwatch.capture import Capture
from gradwatch.deliveries import Deliveries, Filling
from gradwatch.hooks import HookManager
from gradwatch.nan_origin import LastForward
from gradwatch.optimizer_roles import OptimizerRoles
from gradwatch.records import NonFiniteOrigin
from gradwatch.stopwatch import Stopwatch
from gradwatch.structure import Structure
from gradwatch.watched_model import WatchedModel


class Replayed(Filling, Protocol):
    """What a replay of compiled regions found."""

    @property
    def structure(self) -> Structure | None:
        """Structure of the copy."""


class Replay(Protocol):
    """Reads the inside of compiled regions: `compiled_replay.CompiledReplay`."""

    def run(
        self, watched: WatchedModel, capture: Capture, step: int
    ) -> Replayed | None:
        """Replay a step on a copy, before the update; None if none is."""


class ObservedFacts:
    """What an observer knows beside its records."""

    hooks: HookManager
    watched: WatchedModel
    optimizers: OptimizerRoles
    _deliveries: Deliveries
    _stopwatch: Stopwatch
    _last: LastForward
    _step: int

    @property
    def step(self) -> int:
        """Steps of the clock so far."""
        return self._step + self.hooks.rested

    @property
    def num_probes(self) -> int:
        """Probes delivered so far."""
        return self._deliveries.num_probes

    @property
    def last_inputs(self) -> tuple[Any, Any]:
        """Positional and keyword inputs of the last training forward, if kept."""
        return self._last.args, self._last.kwargs

    @property
    def origin(self) -> NonFiniteOrigin | None:
        """Where a non-finite value came from, if a replay found it."""
        return self._deliveries.origin

    @property
    def optimizer_names(self) -> tuple[str, ...]:
        """Class names of those optimizers, the clock first."""
        return self.optimizers.names

    @property
    def foreign_optimizers(self) -> Set[str]:
        """Class names of optimizers that stepped and own nothing here."""
        return self.optimizers.foreign

    @property
    def device(self) -> str:
        """Devices of the parameters."""
        return self.watched.device

    @property
    def seconds(self) -> float:
        """Seconds of our own work so far."""
        return self._stopwatch.seconds

    @property
    def ruled(self) -> bool:
        """Whether a step has ended since the budget began to rule."""
        return self._stopwatch.ruled

    def overhead(self) -> tuple[float, float]:
        """Return our seconds and the wall time, both since the budget began to rule."""
        return self._stopwatch.overhead()

    @property
    def attached(self) -> bool:
        """Whether hooks are on."""
        return self.hooks.attached
