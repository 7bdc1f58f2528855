"""What a rule may say: health, severity, confidence, evidence, finding. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Health(str, Enum):
    """The state of a layer or of a whole network."""

    HEALTHY = "healthy"
    VANISHING = "vanishing"
    EXPLODING = "exploding"
    DEAD = "dead"
    SATURATED = "saturated"
    NON_FINITE = "non-finite"
    UNSTABLE = "unstable"
    STALLED = "stalled"
    UNDERFLOW = "underflow"
    NO_GRADIENT = "no-gradient"
    UNKNOWN = "unknown"


#: Health of a report, worst first (design section 4).
HEALTH_ORDER: tuple[Health, ...] = (
    Health.NON_FINITE,
    Health.EXPLODING,
    Health.VANISHING,
    Health.DEAD,
    Health.SATURATED,
    Health.UNSTABLE,
    Health.STALLED,
    Health.UNDERFLOW,
    Health.UNKNOWN,
    Health.HEALTHY,
)


class Severity(IntEnum):
    """How bad a finding is. An alarm is a confirmed WARNING or CRITICAL."""

    NOTE = 1
    WARNING = 2
    CRITICAL = 3


class Confidence(IntEnum):
    """How sure a finding is."""

    LOW = 1
    """Seen, but not yet confirmed by enough probes."""
    MEDIUM = 2
    """Confirmed by the fewest probes that confirm (2 of 3)."""
    HIGH = 3
    """Seen at 3 or more consecutive probes, or an exact fact such as a NaN."""


class Trend(str, Enum):
    """How the first evidence of a finding moves since the finding was first seen."""

    GROWING = "growing"
    STEADY = "steady"
    SHRINKING = "shrinking"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One number that supports a finding.

    Attributes:
        quantity: Name of the quantity in the field's terms, such as `D`.
        value: Measured value.
        limit: Limit the value is compared with; None for context that does not decide.
        unit: Unit of value and limit, such as `decades`; `share` for a part of 1.
        steps: First and last optimizer step of the window the value stands for.
        layer: Layer the value belongs to, if it belongs to one.
        note: What else a reader must know, such as `pre-clip` or `context only`.
    """

    quantity: str
    value: float
    limit: float | None
    unit: str
    steps: tuple[int, int]
    layer: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found. A value: it prints nothing and changes nothing.

    Attributes:
        code: Code of the rule, such as `GW101`.
        name: Name of the rule, such as `vanishing-gradient`.
        health: What the layers suffer from.
        severity: How bad it is.
        confidence: How sure it is.
        layers: Layers that are sick, worst or first first. Names of `named_modules()`.
        message: One sentence that says what is, without advice.
        help: One sentence that says what to look at next.
        evidence: The numbers that decided, first the deciding one, then context.
        since_step: Optimizer step of the probe at which it was first seen.
        origin: The layer where it starts, if one is known.
        cleared_step: Step at which it was gone again; None while it stands.
        trend: Whether the deciding number grows.
        consequences: Sentences on what follows from this cause elsewhere.
        affected: Layers that suffer the consequence but are not the cause.
        ends_in: NON_FINITE if the cause ended in NaN or Inf, else None.
    """

    code: str
    name: str
    health: Health
    severity: Severity
    confidence: Confidence
    layers: tuple[str, ...]
    message: str
    help: str
    evidence: tuple[Evidence, ...]
    since_step: int = 0
    origin: str | None = None
    cleared_step: int | None = None
    trend: Trend = Trend.UNKNOWN
    consequences: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    ends_in: Health | None = None

    @property
    def confirmed(self) -> bool:
        """Whether enough probes agree (confidence above LOW)."""
        return self.confidence > Confidence.LOW

    @property
    def is_alarm(self) -> bool:
        """Whether this is a standing, confirmed WARNING or CRITICAL."""
        return (
            self.confirmed
            and self.severity >= Severity.WARNING
            and self.cleared_step is None
        )

    @property
    def url(self) -> str:
        """Address of the page that explains the rule."""
        if not self.code.startswith("GW"):
            return ""  # a plug-in's rule has its page in `gradwatch explain`
        return f"https://gradwatch.readthedocs.io/rules/{self.name}/"
