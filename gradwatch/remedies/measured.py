"""How the remedies on depth fared on small sick networks, in words (facts C).

Each treatment was applied alone to networks of that sickness (169 small networks, 3
seeds, see `docs/benchmarks.md`); repaired means at least 0.7 of the way from chance to
the reference, and 0.8 of the gap closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_VANISHING = frozenset({"GW101", "GW105"})
_EXPLODING = frozenset({"GW201", "GW203"})


@dataclass(frozen=True, slots=True)
class Measured:
    """Networks that a treatment repaired, of those it was tried on.

    Attributes:
        vanishing: Vanishing sigmoid, tanh and ReLU networks; None if not tried.
        exploding: Exploding feed-forward networks.
        dead: Networks of dead units.
    """

    vanishing: tuple[int, int] | None = None
    exploding: tuple[int, int] | None = None
    dead: tuple[int, int] | None = None


#: By treatment, facts C.
MEASURED: Mapping[str, Measured] = MappingProxyType(
    {
        "relu+he": Measured((29, 30), (17, 24), (3, 5)),
        "relu+keep": Measured((10, 30), (3, 24), (3, 5)),
        "selu+lecun": Measured((30, 30), (20, 24), (3, 5)),
        "tanh+xavier": Measured((30, 30), (19, 24), (3, 5)),
        "init": Measured((17, 30), (14, 24), (3, 5)),
        "init relu-like": Measured((12, 13), (14, 24), (3, 5)),
        "init tanh": Measured((5, 5), (14, 24), (3, 5)),
        "kumar": Measured((4, 12)),
        "yilmaz-poli": Measured((0, 12)),
        "batch norm": Measured((28, 30), (14, 24), (3, 5)),
        "layer norm": Measured((21, 30), (16, 24), (3, 5)),
        "residual": Measured((26, 30), (2, 24), (3, 5)),
        "residual+he+pre-norm": Measured((30, 30), (19, 24), (3, 5)),
        "amplification": Measured((1, 36), (0, 27), (0, 5)),
    }
)


def record(treatment: str, code: str) -> str:
    """Return how a treatment fared on the sickness of a finding.

    Args:
        treatment: Key of `MEASURED`.
        code: Code of the finding.

    Returns:
        One sentence without its full stop; "not measured" where it was not tried.
    """
    measured = MEASURED.get(treatment, Measured())
    for codes, counts, kind in (
        (_VANISHING, measured.vanishing, "vanishing"),
        (_EXPLODING, measured.exploding, "exploding"),
        (frozenset({"GW103"}), measured.dead, "dead"),
    ):
        if code in codes and counts is not None:
            return f"repaired {counts[0]} of {counts[1]} {kind} networks in our bench"
    return "not measured on this sickness"
