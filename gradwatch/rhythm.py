"""When to probe and when to take a pulse, so that the budget is kept."""

from __future__ import annotations

import math

from gradwatch.settings import Settings

#: Share of the budget that pulses may take; the rest is for probes.
_PULSE_SHARE = 0.5


class Rhythm:
    """Decides, from measured costs, which steps are looked at.

    The first steps follow `Settings.probe_steps`. From `Settings.budget_after` on the
    interval of probes is stretched so that probes and pulses together stay within
    `Settings.budget` of the time that steps take.

    Args:
        settings: Rhythm and budget.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probe_s: float | None = None
        self._pulse_s: float | None = None
        self._step_s: float | None = None
        self._last_probe = -1
        self._burst: set[int] = set()
        self._last_burst: int | None = None

    def note_step(self, seconds: float) -> None:
        """Learn how long a step takes without gradwatch's own time."""
        self._step_s = _smooth(self._step_s, seconds)

    def note_pulse(self, seconds: float) -> None:
        """Learn what a pulse costs."""
        self._pulse_s = _smooth(self._pulse_s, seconds)

    def note_probe(self, step: int, seconds: float) -> None:
        """Learn what a probe costs, its rules included."""
        self._last_probe = step
        self._probe_s = _smooth(self._probe_s, seconds)

    def burst(self, step: int) -> None:
        """Ask for extra probes after `step`, if the last such burst is long ago."""
        last = self._last_burst
        if last is not None and step - last < self._settings.burst_gap:
            return
        self._last_burst = step
        self._burst.update(range(step + 1, step + 1 + self._settings.burst_probes))

    @property
    def probe_every(self) -> int:
        """Steps between regular probes as the costs stand."""
        every = self._settings.probe_every
        if self._probe_s is None or not self._step_s:
            return every
        share = self._settings.budget * (1 - _PULSE_SHARE)
        return max(every, math.ceil(self._probe_s / (share * self._step_s)))

    @property
    def pulse_every(self) -> int:
        """Steps between pulses as the costs stand."""
        if self._pulse_s is None or not self._step_s:
            return 1
        share = self._settings.budget * _PULSE_SHARE
        return max(1, math.ceil(self._pulse_s / (share * self._step_s)))

    def wants_probe(self, step: int) -> bool:
        """Whether a step is to be probed."""
        if self._settings.every is not None:
            return step % self._settings.every == 0
        if step in self._settings.probe_steps:
            return True
        if step in self._burst:
            self._burst = {other for other in self._burst if other > step}
            return True
        if step <= max(self._settings.probe_steps, default=-1):
            return False
        if step >= self._settings.probe_every and self._last_probe < 0:
            return True
        return self._is_due(step)

    def _is_due(self, step: int) -> bool:
        every = self.probe_every
        if every == self._settings.probe_every:
            return step % every == 0
        return step - self._last_probe >= every

    def wants_pulse(self, step: int) -> bool:
        """Whether the gradients of a step are to be read."""
        if not self._settings.pulse:
            return False
        if step < self._settings.budget_after or self._settings.every is not None:
            return True
        return step % self.pulse_every == 0

    def text(self) -> str:
        """Say the rhythm in words."""
        if self._settings.every is not None:
            return f"a probe every {self._settings.every} steps, as asked"
        first = ", ".join(map(str, self._settings.probe_steps))
        pulses = self.pulse_every
        pulse = "at every step" if pulses == 1 else f"every {pulses} steps"
        if not self._settings.pulse:
            pulse = "off"
        return f"probes at steps {first}, then every {self.probe_every}; pulses {pulse}"


def _smooth(old: float | None, new: float) -> float:
    """Follow a cost that varies; quick to rise so that the budget is not overrun."""
    if old is None:
        return new
    return old + (0.5 if new > old else 0.1) * (new - old)
