"""Which defect explains which: one table, and the grouping of findings by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from gradwatch.findings import Finding, Health, Severity


class When(Enum):
    """When a cause must have been seen first, relative to its effect."""

    ALWAYS = "always"
    NOT_LATER = "not later"
    EARLIER = "earlier"


@dataclass(frozen=True, slots=True)
class Link:
    """One line of the causal table.

    Attributes:
        cause: Code of the cause.
        effects: Codes that it may explain.
        when: When the cause must have been seen first.
        same_layers: Whether cause and effect must share a layer.
        only_notes: Whether only notes are explained; a warning stands for itself.
    """

    cause: str
    effects: tuple[str, ...]
    when: When
    same_layers: bool = False
    only_notes: bool = False


#: Causes before effects: an effect goes to the first line that explains it. A learning
#: rate that is too large comes first in time where it is the cause; where the profile
#: was sick at the same probe, the large updates follow from the profile (facts C: a
#: smaller rate cured 0 of 21 nets that explode at initialisation).
LINKS: tuple[Link, ...] = (
    Link(
        "GW301",
        (
            *("GW101", "GW102", "GW103", "GW104", "GW105", "GW106"),
            *("GW201", "GW202", "GW203"),
        ),
        When.EARLIER,
    ),
    Link("GW301", ("GW205",), When.EARLIER),
    Link("GW202", ("GW201", "GW203", "GW204", "GW303"), When.ALWAYS),
    Link("GW202", ("GW205", "GW301"), When.NOT_LATER),
    Link("GW203", ("GW201",), When.EARLIER),
    Link("GW201", ("GW203", "GW104", "GW103", "GW301"), When.NOT_LATER),
    Link("GW201", ("GW205", "GW105"), When.NOT_LATER),
    Link("GW201", ("GW204", "GW303"), When.ALWAYS),
    Link("GW203", ("GW104", "GW103", "GW301", "GW205"), When.NOT_LATER),
    Link("GW203", ("GW204", "GW303"), When.ALWAYS),
    Link("GW205", ("GW101", "GW102", "GW103", "GW104", "GW105"), When.NOT_LATER),
    Link("GW205", ("GW106", "GW107", "GW201", "GW202", "GW203"), When.NOT_LATER),
    Link("GW205", ("GW204", "GW301", "GW302", "GW303"), When.NOT_LATER),
    Link("GW107", ("GW106", "GW302"), When.ALWAYS),
    Link("GW103", ("GW101",), When.NOT_LATER),
    Link("GW103", ("GW105", "GW106", "GW302"), When.ALWAYS),
    Link("GW104", ("GW101",), When.NOT_LATER, same_layers=True),
    Link("GW101", ("GW105", "GW302"), When.ALWAYS),
    Link("GW101", ("GW103", "GW104"), When.ALWAYS, only_notes=True),
    Link("GW102", ("GW105", "GW302"), When.ALWAYS),
    Link("GW104", ("GW105",), When.NOT_LATER),
    Link("GW105", ("GW302",), When.ALWAYS),
    Link("GW105", ("GW103",), When.ALWAYS, only_notes=True),
    Link("GW106", ("GW302",), When.ALWAYS),
    Link("GW108", ("GW101", "GW105", "GW302"), When.ALWAYS),
    Link("GW301", ("GW204", "GW303"), When.ALWAYS),
    Link("GW204", ("GW303",), When.ALWAYS),
)


def explains(link: Link, cause: Finding, effect: Finding) -> bool:
    """Say whether one finding explains another by one line of the table.

    A note explains no alarm, and what is not confirmed explains nothing confirmed:
    otherwise a guess would decide what kind of sickness a network has.

    Args:
        link: A line of the table.
        cause: The finding that may explain.
        effect: The finding that may be explained.

    Returns:
        Whether it does.
    """
    if cause.code != link.cause or effect.code not in link.effects:
        return False
    if cause.severity < min(effect.severity, Severity.WARNING):
        return False
    if effect.confirmed and not cause.confirmed:
        return False
    if link.only_notes and effect.severity > Severity.NOTE:
        return False
    if link.same_layers and not set(cause.layers) & {*effect.layers, effect.origin}:
        return False
    if link.when is When.EARLIER:
        return cause.since_step < effect.since_step
    if link.when is When.NOT_LATER:
        return cause.since_step <= effect.since_step
    return True


def group(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Attach every finding that another one explains to its cause.

    Args:
        findings: Standing findings, one a code.

    Returns:
        The causes and what stands alone, most severe first. A group is as severe as
        its worst member.
    """
    by_code = {finding.code: finding for finding in findings}
    parent: dict[str, str] = {}
    for effect in by_code.values():
        for link in LINKS:
            cause = by_code.get(link.cause)
            if cause is not None and explains(link, cause, effect):
                parent[effect.code] = cause.code
                break
    members: dict[str, list[Finding]] = {}
    for code in by_code:
        root = _root(code, parent)
        members.setdefault(root, []).append(by_code[code])
    groups = [_merge(by_code[root], found) for root, found in members.items()]
    return tuple(sorted(groups, key=lambda f: (-f.severity, -f.confidence, f.code)))


def _root(code: str, parent: dict[str, str]) -> str:
    """Follow causes up; a circle ends at its smallest code."""
    seen = [code]
    while seen[-1] in parent:
        above = parent[seen[-1]]
        if above in seen:
            return min(seen[seen.index(above) :])
        seen.append(above)
    return seen[-1]


def _merge(cause: Finding, members: Sequence[Finding]) -> Finding:
    effects = [finding for finding in members if finding.code != cause.code]
    if not effects:
        return cause
    layers = [
        layer for effect in effects for layer in (*effect.layers, *effect.affected)
    ]
    affected = dict.fromkeys(
        layer for layer in (*cause.affected, *layers) if layer not in cause.layers
    )
    sentences = [
        f"{effect.message} ({effect.code} {effect.name})" for effect in effects
    ]
    broken = any(f.health is Health.NON_FINITE and f.confirmed for f in effects)
    return replace(
        cause,
        message=f"{cause.message} It ends in NaN or Inf." if broken else cause.message,
        ends_in=Health.NON_FINITE if broken else None,
        severity=max(finding.severity for finding in members),
        consequences=(*cause.consequences, *sentences),
        affected=tuple(affected),
    )
