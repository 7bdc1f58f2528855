"""A bounded memory of what was measured: probes, pulses, windows, medians."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

from gradwatch.records import Coverage, PulseRecord, StepRecord

#: First pulses whose median is the early gradient norm (chosen, not measured).
_EARLY_PULSES = 10

#: Steps within which a known loss counts as the loss at the start.
_FIRST_STEPS = 2
#: Probes kept however large they are: a window of every rule, and some before it.
_FEWEST_PROBES = 8
_SIGHT = {Coverage.NOT_SEEN: 0, Coverage.NO_GRADIENT: 1, Coverage.OBSERVED: 2}


@dataclass(frozen=True, slots=True)
class Tally:
    """What a history knows of records that it may have dropped.

    Attributes:
        num_probes: Probes added so far.
        num_pulses: Pulses added so far.
        num_skipped: Of these, steps that the gradient scaler skipped.
        last_step: Newest step.
        first_loss: First known loss.
        max_lr: Largest learning rate.
        early_grad_norms: First global gradient norms.
    """

    num_probes: int = 0
    num_pulses: int = 0
    num_skipped: int = 0
    last_step: int = -1
    first_loss: float | None = None
    max_lr: float | None = None
    early_grad_norms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """What a history held at one moment: pictures of a run are drawn from it.

    All series are equal: two reports that say the same are the same, also when one of
    them was read from a file and knows no series.

    Attributes:
        probes: Probes, oldest first.
        pulses: Pulses, oldest first.
    """

    probes: tuple[StepRecord, ...] = field(default=(), compare=False, repr=False)
    pulses: tuple[PulseRecord, ...] = field(default=(), compare=False, repr=False)


class History:
    """Ring buffers of probes and pulses; memory does not grow with steps.

    The first probe, the first known loss, the first gradient norms and the largest
    learning rate are kept apart, because "half of the first loss" and "at
    initialisation" are asked about for as long as training runs.

    Args:
        max_probes: Probes kept; older ones are dropped.
        max_pulses: Pulses kept; older ones are dropped.
        max_records: Records of layers, activations and parameters kept, in all probes
            together; the newest eight probes stay however large they are.
    """

    def __init__(
        self, max_probes: int = 64, max_pulses: int = 512, max_records: int = 24_000
    ) -> None:
        self._max_probes = max_probes
        self._max_records = max_records
        self._num_records = 0
        self._probes: deque[StepRecord] = deque()
        self._pulses: deque[PulseRecord] = deque(maxlen=max_pulses)
        self.first_probe: StepRecord | None = None
        self.first_loss: float | None = None
        self.max_lr: float | None = None
        self._early_grad_norms: list[float] = []
        # What was asked of past pulses and probes, which do not change any more.
        self._medians: dict[tuple[object, int], dict[int, float | None]] = {}
        self._derived: dict[int, dict[str, float | None]] = {}
        self.num_probes = 0
        self.num_pulses = 0
        self.num_skipped = 0
        self.last_step = -1

    def add_probe(self, record: StepRecord) -> None:
        """Append a probe."""
        if self.first_probe is None:
            self.first_probe = record
        self._note_loss(record.step, record.loss)
        self._note_lr(record.lr)
        self._probes.append(record)
        self._num_records += _size(record)
        while len(self._probes) > self._max_probes or (
            self._num_records > self._max_records and len(self._probes) > _FEWEST_PROBES
        ):
            oldest = self._probes.popleft()
            self._num_records -= _size(oldest)
            self._derived.pop(id(oldest), None)
        self.num_probes += 1
        self.last_step = max(self.last_step, record.step)

    def add_pulse(self, record: PulseRecord) -> None:
        """Append a pulse."""
        self._note_loss(record.step, record.loss)
        self._note_lr(record.lr)
        self._note_grad_norm(record.grad_norm)
        self._pulses.append(record)
        self.num_pulses += 1
        self.num_skipped += record.skipped
        self.last_step = max(self.last_step, record.step)

    def _note_loss(self, step: int, loss: float | None) -> None:
        if loss is None or not math.isfinite(loss):
            return
        # A loss first recognised in the middle of training is not the first loss.
        if self.first_loss is None and step <= _FIRST_STEPS:
            self.first_loss = loss

    def _note_lr(self, lr: float | None) -> None:
        if lr is not None and math.isfinite(lr):
            self.max_lr = lr if self.max_lr is None else max(self.max_lr, lr)

    def _note_grad_norm(self, norm: float | None) -> None:
        wanted = len(self._early_grad_norms) < _EARLY_PULSES
        if wanted and norm is not None and math.isfinite(norm) and norm > 0:
            self._early_grad_norms.append(norm)

    @property
    def tally(self) -> Tally:
        """What outlives the records that are dropped."""
        return Tally(
            self.num_probes,
            self.num_pulses,
            self.num_skipped,
            self.last_step,
            self.first_loss,
            self.max_lr,
            tuple(self._early_grad_norms),
        )

    def resume(self, tally: Tally) -> None:
        """Take over what another history knew of records that this one never had.

        Args:
            tally: Of the other history, whose newest records are those of this one.
        """
        self.num_probes = tally.num_probes
        self.num_pulses = tally.num_pulses
        self.num_skipped = tally.num_skipped
        self.last_step = tally.last_step
        self.first_loss = tally.first_loss
        self.max_lr = tally.max_lr
        self._early_grad_norms = list(tally.early_grad_norms)
        self._medians.clear()  # they go by number

    @property
    def early_grad_norm(self) -> float | None:
        """Median of the first global gradient norms, what later ones compare with."""
        return median(self._early_grad_norms) if self._early_grad_norms else None

    @property
    def probes(self) -> tuple[StepRecord, ...]:
        """Probes kept, oldest first."""
        return tuple(self._probes)

    @property
    def pulses(self) -> tuple[PulseRecord, ...]:
        """Pulses kept, oldest first."""
        return tuple(self._pulses)

    @property
    def num_kept_pulses(self) -> int:
        """Number of pulses kept."""
        return len(self._pulses)

    @property
    def latest(self) -> StepRecord | None:
        """The newest probe."""
        return self._probes[-1] if self._probes else None

    def recent(self, num_probes: int) -> tuple[StepRecord, ...]:
        """Return the newest `num_probes` probes, oldest first."""
        return tuple(self._probes)[-num_probes:] if num_probes > 0 else ()

    def series(self) -> Series:
        """Return what is kept now; records that follow do not change it."""
        return Series(tuple(self._probes), tuple(self._pulses))

    def window(self, num_probes: int) -> tuple[int, int]:
        """Return first and last step of the newest `num_probes` probes."""
        probes = self.recent(num_probes)
        if not probes:
            return (0, 0)
        return (probes[0].step, probes[-1].step)

    def best_coverage(self) -> tuple[dict[str, Coverage], dict[str, str]]:
        """Return the best coverage any kept probe had of each layer, and the reasons.

        An expert that the newest batch left out, or a layer that LayerDrop skipped, was
        seen all the same.
        """
        best: dict[str, Coverage] = {}
        reasons: dict[str, str] = {}
        for probe in self._probes:
            why = dict(probe.coverage_reasons)
            for name, state in probe.coverage:
                if name not in best or _SIGHT[state] >= _SIGHT[best[name]]:
                    best[name] = state
                    reasons[name] = why.get(name, "")
        return best, reasons

    def losses(self) -> Iterator[tuple[int, float]]:
        """Yield (step, loss) where the loss is known, oldest first, one a step."""
        known = {r.step: r.loss for r in self._probes if r.loss is not None}
        known |= {r.step: r.loss for r in self._pulses if r.loss is not None}
        yield from sorted(known.items())

    def loss_ratio(self, num_last: int = 5) -> float | None:
        """Return median of the newest losses over the first one.

        Probes lie ever further apart, so only losses from the last two thirds of the
        steps count as new.

        Args:
            num_last: Number of newest known losses, at most.

        Returns:
            The ratio; None if the loss is not known at two steps or the first is not
            positive.
        """
        known = [(step, loss) for step, loss in self.losses() if math.isfinite(loss)]
        if self.first_loss is None or self.first_loss <= 0 or len(known) < 2:
            return None
        newest = [loss for step, loss in known if 3 * step >= known[-1][0]]
        return median(newest[-num_last:]) / self.first_loss

    def running_median(
        self,
        index: int,
        window: int,
        value: Callable[[PulseRecord], float | None],
    ) -> float | None:
        """Return the median of a pulse quantity over the pulses before one.

        Args:
            index: Index into `pulses`; the pulses before it are used, not itself.
            window: Number of pulses at most.
            value: Reads the quantity; None and non-finite values are left out. A
                function of a module: what it was asked for is kept.

        Returns:
            The median; None with fewer than 5 values.
        """
        number = self.num_pulses - len(self._pulses) + index
        known = self._medians.setdefault((value, window), {})
        if number in known:
            return known[number]
        before = islice(self._pulses, max(0, index - window), index)
        values = [v for v in map(value, before) if v is not None and math.isfinite(v)]
        result = median(values) if len(values) >= 5 else None
        if len(known) >= 2 * (self._pulses.maxlen or 1):
            known.clear()
        known[number] = result
        return result

    def derived(
        self,
        probe: StepRecord,
        name: str,
        compute: Callable[[StepRecord], float | None],
    ) -> float | None:
        """Return a number computed from a kept probe, computed once.

        Args:
            probe: A probe of this history.
            name: What the number is.
            compute: Computes it.

        Returns:
            The number.
        """
        known = self._derived.setdefault(id(probe), {})
        if name not in known:
            known[name] = compute(probe)
        return known[name]


def _size(probe: StepRecord) -> int:
    """Return how many records a probe holds; each takes about 230 bytes (measured)."""
    return len(probe.layers) + len(probe.activations) + len(probe.parameters)
