"""Numbers on their way from the device: when they arrive they become records."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from gradwatch.history import History
from gradwatch.ledger import Pending
from gradwatch.probe import Probe
from gradwatch.probe_record import ProbeContext, build_record
from gradwatch.pulse import PulseReading
from gradwatch.records import NonFiniteOrigin, PulseRecord, StepRecord
from gradwatch.rhythm import Rhythm
from gradwatch.settings import Settings


class Filling(Protocol):
    """What a replay on a copy knows of the inside of compiled regions."""

    def fill(self, record: StepRecord) -> StepRecord:
        """Return the record with what the probe could not see."""


@dataclass(slots=True)
class PendingPulse:
    """A pulse that was read, with what the host knew then."""

    step: int
    reading: PulseReading
    loss: float | None
    lr: float | None


@dataclass(slots=True)
class PendingProbe:
    """A sealed probe, with what the host knew then and what it cost so far."""

    probe: Probe
    pending: Pending
    context: ProbeContext
    seconds: float
    replayed: Filling | None = None


class Deliveries:
    """Pulses and probes under way; delivers them to the history in order.

    Args:
        settings: Options.
        history: Receives the records.
        rhythm: Learns what a probe cost; asked for a burst after a spike.
        on_probe: Called after a probe was added; whether a rule fired anew.

    Attributes:
        step: Optimizer step that training has reached.
        scaler: Gradient scaler, if one is known.
        loss_scale: Loss scale of the newest pulse.
        origin: Where a non-finite value came from, if a replay found it.
        num_probes: Probes delivered.
        join: Makes a record that of all processes; None without any.
    """

    def __init__(
        self,
        settings: Settings,
        history: History,
        rhythm: Rhythm,
        on_probe: Callable[[StepRecord], bool],
    ) -> None:
        self._settings = settings
        self._history = history
        self._rhythm = rhythm
        self._on_probe = on_probe
        self._pulses: deque[PendingPulse] = deque()
        self._probes: deque[PendingProbe] = deque()
        self.step = 0
        self.scaler: Any = None
        self.loss_scale: float | None = None
        self.origin: NonFiniteOrigin | None = None
        self.num_probes = 0
        self.join: Callable[[StepRecord, Probe], StepRecord] | None = None

    def add_pulse(self, pulse: PendingPulse) -> None:
        """Take a pulse that is under way."""
        self._pulses.append(pulse)

    def add_probe(self, probe: PendingProbe) -> None:
        """Take a probe that is under way."""
        self._probes.append(probe)

    @property
    def scale(self) -> Tensor | None:
        """The scaler's loss scale, on the device."""
        scale = getattr(self.scaler, "_scale", None)
        return scale if isinstance(scale, Tensor) else None

    @property
    def under_way(self) -> bool:
        """Whether something has not been delivered yet."""
        return bool(self._pulses or self._probes)

    def deliver(self, *, wait: bool) -> None:
        """Turn arrived numbers into records, oldest first.

        Args:
            wait: Whether to wait for what has not arrived.
        """
        while self._pulses:
            pending = self._pulses[0].reading.pending
            assert pending is not None
            if not wait and not pending.ready():
                break
            self._add_pulse(self._pulses.popleft())
        while self._probes:
            if not wait and not self._probes[0].pending.ready():
                break
            self._add_probe(self._probes.popleft())

    def _add_pulse(self, waiting: PendingPulse) -> None:
        reading = waiting.reading
        assert reading.pending is not None
        before, after, factor = reading.norms()
        scale = reading.pending.get(reading.scale) or 1.0
        self._note_skipped(waiting, scale)
        loss = waiting.loss
        if loss is None:
            loss = reading.pending.get(reading.loss)
        inside = reading.unscales_inside
        first = scale if inside or not reading.at_step else 1.0
        last = scale if inside else 1.0
        level = before if before is not None else after
        skipped = bool(reading.pending.get(reading.found_inf))
        record = PulseRecord(
            step=waiting.step,
            grad_norm=None if before is None else before / first,
            step_grad_norm=None if after is None else after / last,
            clip_factor=None if factor is None else factor * first / last,
            finite=skipped or level is None or level - level == 0,
            skipped=skipped,
            loss=loss,
            loss_scale=scale,
            lr=waiting.lr,
        )
        self._history.add_pulse(record)
        origin = self.origin
        if record.finite and origin is not None and record.step > origin.step:
            self.origin = None  # it recovered; another NaN has another origin
        if self._is_spike(record):
            self._rhythm.burst(max(record.step, self.step))

    def _note_skipped(self, waiting: PendingPulse, scale: float) -> None:
        """Count the steps that the scaler skipped since the last pulse.

        No optimizer step is called then, so they show as backward passes too many and a
        loss scale that fell meanwhile.
        """
        before, self.loss_scale = self.loss_scale, scale
        if before is None:
            before = getattr(self.scaler, "_init_scale", scale)
        backoff = getattr(self.scaler, "_backoff_factor", 0.5)
        spare = waiting.reading.num_backwards - 1
        if scale >= before or spare < 1 or not 0 < backoff < 1:
            return
        count = round(math.log(before / scale) / -math.log(backoff))
        for _ in range(min(count, spare)):
            record = PulseRecord(waiting.step, skipped=True, loss_scale=scale)
            self._history.add_pulse(record)

    def _is_spike(self, record: PulseRecord) -> bool:
        if record.skipped:
            return False
        if not record.finite:
            return True
        if record.grad_norm is None:
            return False
        median = self._history.running_median(
            self._history.num_kept_pulses - 1, self._settings.spike_window, _grad_norm
        )
        if not median:
            return False
        return record.grad_norm > self._settings.spike_ratio * median

    def _add_probe(self, waiting: PendingProbe) -> None:
        started = time.perf_counter()
        pulses = self._history.pulses
        if pulses and pulses[-1].step == waiting.context.step:
            waiting.context.clip_factor = pulses[-1].clip_factor
            if waiting.context.loss is None:
                waiting.context.loss = pulses[-1].loss
        record = build_record(waiting.probe, waiting.pending, waiting.context)
        if waiting.replayed is not None:
            record = waiting.replayed.fill(record)
        if self.join is not None:  # also where this process has nothing to add
            record = self.join(record, waiting.probe)
        if waiting.pending.get(waiting.context.found_inf):
            return  # an overflow that the scaler let the optimizer skip: no step
        if self.origin is not None and (
            record.non_finite is None or self.origin.step < record.non_finite.step
        ):
            # After the first update every layer is NaN: the replay saw where it began.
            record = replace(record, non_finite=self.origin)
        self._history.add_probe(record)
        self.num_probes += 1
        if self._on_probe(record):
            self._rhythm.burst(max(record.step, self.step))
        cost = waiting.seconds + time.perf_counter() - started
        self._rhythm.note_probe(record.step, cost)


def _grad_norm(pulse: PulseRecord) -> float | None:
    return pulse.grad_norm
