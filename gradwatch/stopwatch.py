"""What gradwatch's own work costs, against the time that training takes."""

from __future__ import annotations

import time


class Stopwatch:
    """Adds up the seconds of our own work.

    Args:
        rules_after: Optimizer steps after which the budget rules.

    Attributes:
        seconds: All seconds so far.
        started_after: When the budget began to rule; None before.
    """

    def __init__(self, rules_after: int) -> None:
        self.seconds = 0.0
        self._rules_after = rules_after
        self._started = time.perf_counter()
        self._seconds_after = 0.0
        self.started_after: float | None = None
        self._last_step = self._started
        self._in_step = 0.0
        self._in_probe = 0.0

    def spend(self, started: float) -> None:
        """Add the seconds since `started`, a reading of `time.perf_counter`."""
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self._seconds_after += seconds
        self._in_step += seconds
        self._in_probe += seconds

    def begin_probe(self) -> None:
        """Count the seconds of a probe from here."""
        self._in_probe = 0.0

    def probe_seconds(self, started: float) -> float:
        """Return the seconds of the probe, those since `started` included."""
        return self._in_probe + time.perf_counter() - started

    def end_step(self, step: int, now: float) -> float:
        """Close a step and return how long it took without our own work.

        Args:
            step: The step that begins.
            now: Reading of the clock at the end of the one before.

        Returns:
            Seconds.
        """
        # The last probe of the opening rhythm lies at this step; it is not in the sum.
        if step == self._rules_after + 1:
            self.started_after = now
            self._seconds_after = 0.0
        step_s = now - self._last_step - self._in_step
        self._last_step = now
        self._in_step = 0.0
        return step_s

    def overhead(self) -> tuple[float, float]:
        """Return our seconds and the wall time, both since the budget began to rule.

        Returns:
            The same since the start, while the budget does not rule.
        """
        now = self._last_step
        if self.started_after is not None:
            return self._seconds_after, max(now - self.started_after, 1e-9)
        return self.seconds, max(now - self._started, 1e-9)
