"""How often a remedy repaired a network in a situation, as measured (facts C).

The order of recommendations before a trial. Each line of the table says how many
networks of the experiment behind `shared/facts.md` (169 small networks, 3 seeds) a
treatment repaired, of how many it was tried on; what was not measured has no line and
comes after what was. Where facts C names an order but no count, the count is left at
the smallest one that keeps the order, and the line says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradwatch.recommendations import Option, Recommendation, Risk
from gradwatch.situations import Situation as S  # noqa: N817 - a table is read, not run

#: Prior of a treatment that was never measured: one success in three tries.
_UNKNOWN = (0, 1)
#: What breaks ties: the less is lost, the better.
_RISK_ORDER = (Risk.SAFE, Risk.REINITIALISES, Risk.RESHAPES, Risk.ADVICE)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        remedy: Name of the remedy.
        repaired: Networks repaired.
        tried: Networks tried on.
        options: Options that a recommendation must have for the line to be its own.
    """

    remedy: str
    repaired: int
    tried: int
    options: Mapping[str, Option] = field(default_factory=dict)


#: Filled below, by situation; the best line that fits counts.
_TABLE: Mapping[S, tuple[Line, ...]] = {}


def expected_success(where: S, offer: Recommendation) -> float:
    """Return the share of networks that a treatment is expected to repair.

    Laplace's rule of succession, (repaired + 1) / (tried + 2): one lucky try of one
    does not outrank 29 of 30.

    Args:
        where: The situation.
        offer: The treatment.

    Returns:
        A share in (0, 1); ties are broken by risk, the smallest first.
    """
    repaired, tried = _UNKNOWN
    fitting = [line for line in _TABLE.get(where, ()) if _fits(line, offer)]
    if fitting:  # the most particular line
        line = max(fitting, key=lambda line: len(line.options))
        repaired, tried = line.repaired, line.tried
    return (repaired + 1) / (tried + 2) - 1e-6 * _RISK_ORDER.index(offer.risk)


def _fits(line: Line, offer: Recommendation) -> bool:
    return line.remedy == offer.remedy and all(
        offer.options.get(key) == value for key, value in line.options.items()
    )
