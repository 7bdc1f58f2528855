"""When to probe and when to take a pulse, so that the budget is kept."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from gradwatch.settings import Settings

#: Share of the budget that pulses and idle hooks may take; the rest is for probes.
_PULSE_SHARE = 0.5
#: Least part of that share that is left for pulses where idle hooks take it all.
_LEAST_PULSES = 0.1
#: Part of their share that pulses keep while the budget is overdrawn (chosen): the rest
#: pays the debt off.
_PULSES_IN_DEBT = 0.5
#: Pulses whose median cost counts (chosen).
_LAST_PULSES = 9


class Rhythm:
    """Decides, from measured costs, which steps are looked at.

    The first steps follow `Settings.probe_steps`. From `Settings.budget_after` on the
    intervals are stretched so that probes and pulses together stay within
    `Settings.budget` of the time that steps take, and no probe is taken that the time
    passed so far does not pay for. A burst is taken on credit, if there is no debt.

    Args:
        settings: Rhythm and budget.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probe_s: float | None = None
        self._pulse_s: float | None = None
        self._step_s: float | None = None
        self._pulses: deque[float] = deque(maxlen=_LAST_PULSES)
        self._idle_s = 0.0
        #: Seconds that the budget has granted since it rules, less those spent.
        self._credit: float | None = None
        self._last_probe = -1
        self._num_probes = 0
        self._burst: set[int] = set()
        self._last_burst: int | None = None
        #: Step of the next probe where several processes agreed on it.
        self._agreed: int | None = None

    def note_step(self, seconds: float) -> None:
        """Learn how long a step takes without gradwatch's own time."""
        old = self._step_s
        self._step_s = seconds if old is None else old + 0.1 * (seconds - old)

    def note_idle(self, seconds: float) -> None:
        """Learn what a step costs that is neither probed nor pulsed."""
        self._idle_s = seconds

    def note_pulse(self, seconds: float) -> None:
        """Learn what a pulse costs: the median of the last ones.

        A pulse is so short that one interruption by another process is most of it.
        """
        self._pulses.append(seconds)
        self._pulse_s = median(self._pulses)

    def note_probe(self, step: int, seconds: float) -> None:
        """Learn what a probe costs, its rules included."""
        self._last_probe = step
        self._num_probes += 1
        # The first probe also reads what later ones find known.
        old = self._probe_s if self._num_probes > 2 else None
        self._probe_s = _smooth(old, seconds)

    def note_balance(self, spent: float, wall: float) -> None:
        """Learn what was spent since the budget rules, and of how much time."""
        self._credit = self._settings.budget * wall - spent

    def burst(self, step: int) -> None:
        """Ask for extra probes after `step`, if the last such burst is long ago."""
        last = self._last_burst
        if last is not None and step - last < self._settings.burst_gap:
            return
        if self._credit is not None and self._credit < 0.0:
            return
        self._last_burst = step
        if self._agreed is not None:
            step = max(step, self._agreed)  # the others learn of it there
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
        granted = self._settings.budget * _PULSE_SHARE * self._step_s
        if self._credit is not None and self._credit < 0.0:
            granted *= _PULSES_IN_DEBT
        granted = max(granted - self._idle_s, _LEAST_PULSES * granted)
        return max(1, math.ceil(self._pulse_s / granted))

    def wants_probe(self, step: int) -> bool:
        """Whether a step is to be probed."""
        if self._agreed is not None:
            return step >= self._agreed
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
        return self._is_due(step) and self._lacks() <= 0.0

    def _is_due(self, step: int) -> bool:
        every = self.probe_every
        if every == self._settings.probe_every and not self._is_late(step):
            return step % every == 0
        return step - self._last_probe >= every

    def _is_late(self, step: int) -> bool:
        """Whether the last probe that was due could not be paid for."""
        return self._last_probe < step - 2 * self._settings.probe_every

    def _lacks(self) -> float:
        """Return the seconds that are still missing for a probe."""
        if self._credit is None or self._probe_s is None:
            return 0.0
        return self._probe_s - self._credit

    def wants_pulse(self, step: int) -> bool:
        """Whether the gradients of a step are to be read."""
        if not self._settings.pulse:
            return False
        if step < self._settings.budget_after or self._settings.every is not None:
            return True
        return step % self.pulse_every == 0

    def rest(self, step: int) -> int:
        """Return how many steps from `step` on need no look, as the costs stand.

        Args:
            step: The step that begins.

        Returns:
            Steps; 0 if `step` itself is to be looked at.
        """
        if step < self._settings.budget_after or self._settings.every is not None:
            return 0
        if self._agreed is not None:
            looks = [self._agreed]
        else:
            looks = [other for other in self._settings.probe_steps if other >= step]
            looks += [other for other in self._burst if other >= step]
            looks.append(self._due(step))
        if self._settings.pulse:
            looks.append(-(-step // self.pulse_every) * self.pulse_every)
        return min(looks) - step

    # -- several processes ----------------------------------------------------------

    def agree(self, step: int | None) -> None:
        """Probe next at a step that all processes agreed on; None: alone again."""
        self._agreed = step

    def first_common(self, step: int) -> int:
        """Return the first probe after a step that no cost has a part in.

        Args:
            step: A step.

        Returns:
            The same step in every process with these settings.
        """
        if self._settings.every is not None:
            return (step // self._settings.every + 1) * self._settings.every
        opening = [other for other in self._settings.probe_steps if other > step]
        every = self._settings.probe_every
        return min(opening, default=(step // every + 1) * every)

    def next_probe(self, step: int) -> int:
        """Return the first step after one that is to be probed, as the costs stand.

        Args:
            step: The step that ends, which was probed.

        Returns:
            The step.
        """
        self._burst = {other for other in self._burst if other > step}
        self._last_probe = step
        if self._settings.every is not None:
            return self.first_common(step)
        looks = [other for other in self._settings.probe_steps if other > step]
        if not looks:
            looks = [self._due(step + 1)]
        return min([*looks, *self._burst])

    def _due(self, step: int) -> int:
        """Return the first step from `step` on that costs and budget allow."""
        every = self.probe_every
        due = max(self._last_probe + every, step)
        if every == self._settings.probe_every and not self._is_late(step):
            due = -(-step // every) * every
        lacking = self._lacks()
        if lacking > 0.0 and self._step_s:
            paid_after = lacking / (self._settings.budget * self._step_s)
            due = max(due, step + min(math.ceil(paid_after), 10 * every))
        return due

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
