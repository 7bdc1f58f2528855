"""What gradwatch's own work costs, against the time that training takes."""

from __future__ import annotations

import time

#: Seconds that torch takes to reach a hook of ours and come back, beside what runs in
#: it (facts A1: an idle forward hook costs 1 to 3 us, our own part included).
_REACH_S = 1e-6


class Stopwatch:
    """Adds up the seconds of our own work.

    It runs while a hook of ours runs; what it takes to reach the hook is added by
    count, because that lies outside of it.

    Args:
        rules_after: Optimizer steps after which the budget rules.

    Attributes:
        seconds: All seconds so far.
        started_after: When the budget began to rule; None before.
        step_s: Seconds of our own in the step that ended last.
    """

    def __init__(self, rules_after: int) -> None:
        self.seconds = 0.0
        self.started_after: float | None = None
        self.step_s = 0.0
        self._rules_after = rules_after
        self._started = time.perf_counter()
        self._seconds_after = 0.0
        self._last_step = self._started
        self._in_step = 0.0
        self._in_probe = 0.0
        self._since: float | None = None

    def start(self) -> bool:
        """Start to run; return False if it runs already."""
        if self._since is not None:
            return False
        self._since = time.perf_counter()
        return True

    def stop(self) -> None:
        """Stop, and add the way to the hook and back."""
        if self._since is not None:
            self.add(time.perf_counter() - self._since + _REACH_S)
            self._since = None

    def add(self, seconds: float) -> None:
        """Add seconds of our own work."""
        self.seconds += seconds
        self._seconds_after += seconds
        self._in_step += seconds
        self._in_probe += seconds

    def _lap(self) -> float:
        """Add what ran so far, and return the time."""
        now = time.perf_counter()
        if self._since is not None:
            self.add(now - self._since)
            self._since = now
        return now

    def begin_probe(self) -> None:
        """Count the seconds of a probe from here."""
        self._lap()
        self._in_probe = 0.0

    def probe_seconds(self) -> float:
        """Return the seconds of the probe so far."""
        self._lap()
        return self._in_probe

    def end_step(self, step: int, count: int = 1) -> float:
        """Close one step or several and return what one took without our own work.

        Args:
            step: The step that begins.
            count: Steps since the last call.

        Returns:
            Seconds a step.
        """
        now = self._lap()
        # The last probe of the opening rhythm lies at this step; it is not in the sum.
        if self.started_after is None and step > self._rules_after:
            self.started_after = now
            self._seconds_after = 0.0
        step_s = (now - self._last_step - self._in_step) / count
        self._last_step = now
        self.step_s = self._in_step
        self._in_step = 0.0
        return step_s

    @property
    def ruled(self) -> bool:
        """Whether a step has ended since the budget began to rule."""
        return self.started_after is not None and self._last_step > self.started_after

    def overhead(self) -> tuple[float, float]:
        """Return our seconds and the wall time, both since the budget began to rule.

        Returns:
            The same since the start, while no step has ended under its rule.
        """
        now = self._last_step
        if self.started_after is not None and self.ruled:
            return self._seconds_after, max(now - self.started_after, 1e-9)
        return self.seconds, max(now - self._started, 1e-9)
