"""The numbers of one probe, by entry: gradient norms without the loss scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from gradwatch.ledger import Pending
from gradwatch.probe import Probe
from gradwatch.probe_entries import LayerEntry


class ProbeNumbers:
    """A sealed probe with its transferred numbers.

    Args:
        probe: The probe, sealed.
        pending: Its transferred numbers.
    """

    def __init__(self, probe: Probe, pending: Pending) -> None:
        self.probe = probe
        self.pending = pending
        scale = pending.get(probe.scale_ticket)
        self.scale = scale if scale else 1.0

    def gradient(self, entry: LayerEntry) -> float | None:
        """Return the norm over all outputs, the RMS over repeated backward passes."""
        squares = []
        for tickets in entry.grads.values():
            norm = rms_of(self.pending.get(ticket) for ticket in tickets)
            if norm is not None:
                squares.append(norm)
        return math.hypot(*squares) / self.scale if squares else None

    def not_skipped(self, finite: Mapping[int, bool]) -> set[int]:
        """Drop the passes that overflowed under a loss scale: no step came of them."""
        good = {number for number, is_finite in finite.items() if is_finite}
        return good if self.scale != 1.0 and good else set(finite)


def rms_of(values: Iterable[float | None]) -> float | None:
    """Return the root mean square of what is known, in the range of float64."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) == 1:
        return known[0]
    largest = max(abs(value) for value in known)
    if largest == 0.0 or not math.isfinite(largest):
        return largest if largest == 0.0 else math.nan
    return largest * math.sqrt(sum((v / largest) ** 2 for v in known) / len(known))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
