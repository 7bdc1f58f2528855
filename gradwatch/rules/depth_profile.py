"""The activation gradient along a trunk: decades, allowance, slope or break."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradwatch.records import ChainRecord, PointRecord, StepRecord
from gradwatch.rules.wording import named, unique
from gradwatch.settings import Settings

#: A single step that makes at least this share of D is a break, not a slope (chosen).
_BREAK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """One chain that can be judged.

    Attributes:
        chain: The chain.
        points: Its points with a finite, non-zero gradient, source first.
        decades: D; positive when the gradient shrinks towards the source.
        allowance: Decades that finite width may add by chance.
    """

    chain: ChainRecord
    points: tuple[PointRecord, ...]
    decades: float
    allowance: float

    @property
    def source(self) -> str:
        """Label of the point at the input end."""
        return self.points[0].label

    @property
    def top(self) -> str:
        """Label of the point below the head."""
        return self.points[-1].label

    @property
    def per_layer(self) -> float:
        """Decades lost per point on the way from the top to the source."""
        return self.decades / (len(self.points) - 1)

    @property
    def chain_layers(self) -> tuple[str, ...]:
        """Layers of the chain, source first, each once."""
        return unique([point.layer for point in self.chain.points])

    def relative(self) -> list[float]:
        """Return log10 of each point's gradient over the top's, source first."""
        logs = [math.log10(point.grad_norm or 1.0) for point in self.points]
        return [log - logs[-1] for log in logs]

    def beyond(self, share: float, *, above: bool) -> list[PointRecord]:
        """Return points beyond a share of the top, from the source on.

        Args:
            share: Limit on gradient over the top's gradient.
            above: Whether points above the inverse of `share` are meant.

        Returns:
            The points; the source alone if none lies beyond.
        """
        limit = math.log10(share)
        found = [
            point
            for point, log in zip(self.points, self.relative(), strict=True)
            if (log > -limit if above else log < limit)
        ]
        return found or [self.points[0]]

    def steepest(self) -> tuple[int, float]:
        """Return the index below the largest single step, and its signed decades."""
        logs = self.relative()
        sign = 1.0 if self.decades >= 0 else -1.0
        steps = [logs[i + 1] - logs[i] for i in range(len(logs) - 1)]
        index = max(range(len(steps)), key=lambda i: sign * steps[i])
        return index, steps[index]

    def shape(self) -> str:
        """Say in words whether it is an even slope or a single break."""
        index, step = self.steepest()
        if len(self.points) > 3 and abs(step) >= _BREAK_SHARE * abs(self.decades):
            upper, lower = self.points[index + 1].label, self.points[index].label
            between = f"{named(upper)} and {named(lower)}"
            return f"{abs(step):.1f} of them in one break between {between}"
        return "a smooth slope"

    def where(self) -> str:
        """Name the stream if it is not the one that carries the output."""
        source = named(self.chain.source)
        return "" if self.chain.main else f" in the stream from {source}"


def depth_profiles(record: StepRecord, settings: Settings) -> list[DepthProfile]:
    """Return the chains of a probe that can be judged.

    Chains with fewer than 3 non-zero points are left out, and so are chains with exact
    zeros below an all-zero weight, because those zeros say nothing yet.
    """
    found = []
    for chain in record.chains:
        decades = chain.decades()
        if decades is None:
            continue
        zeros = any(point.grad_norm == 0.0 for point in chain.points)
        if zeros and record.zero_init_downstream:
            continue
        points = chain.positive_points()
        found.append(DepthProfile(chain, points, decades, _allowance(points, settings)))
    return found


def _allowance(points: tuple[PointRecord, ...], settings: Settings) -> float:
    """Return two standard deviations of log10 of the gradient by narrow widths.

    Var ln |g|^2 is about 5 sum(1/n) (Hanin & Nica 2018); 4.6 = 2 ln 10 turns it into
    decades of |g|.
    """
    spread = sum(
        1.0 / point.width
        for point in points
        if point.width is not None and 0 < point.width < settings.narrow_width
    )
    return 2.0 * math.sqrt(5.0 * spread) / 4.6


def depth_unmet(record: StepRecord, settings: Settings) -> str | None:
    """Say why no chain can be judged; None if one can."""
    if depth_profiles(record, settings):
        return None
    if not record.chains:
        seen = any(layer.grad_norm is not None for layer in record.layers)
        few = "fewer than 3 hidden points on the trunk"
        return few if seen else "no layer's gradient was observed"
    if record.zero_init_downstream:
        return "the weights above are all zero at initialisation"
    return "fewer than 3 trunk points with a gradient"
