"""Patterns that hide findings, such as ``GW302`` and ``GW103:encoder.*``."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gradwatch.errors import SettingsError
from gradwatch.findings import Finding
from gradwatch.rules.base import Rule


@dataclass(frozen=True, slots=True)
class IgnorePattern:
    """One entry of the ignore list.

    Attributes:
        code: Code of the rule.
        layers: Pattern over layer names; None for all of the finding.
    """

    code: str
    layers: str | None = None

    def strip(self, finding: Finding) -> Finding | None:
        """Return what is left of a finding; None if all of it is ignored."""
        if finding.code != self.code:
            return finding
        if self.layers is None:
            return None
        left = [n for n in finding.layers if not fnmatch.fnmatchcase(n, self.layers)]
        if len(left) == len(finding.layers):
            return finding
        return replace(finding, layers=tuple(left)) if left else None


def parse_ignore(
    patterns: Iterable[str], rules: Sequence[Rule]
) -> tuple[IgnorePattern, ...]:
    """Read the ignore list.

    Args:
        patterns: Codes or names of rules, each with an optional ``:layer pattern``.
        rules: The rules that may be named.

    Returns:
        The patterns.

    Raises:
        SettingsError: If one names no rule.
    """
    codes = {rule.code: rule.code for rule in rules}
    codes |= {rule.name: rule.code for rule in rules}
    parsed = []
    for pattern in patterns:
        name, _, layers = pattern.partition(":")
        if name not in codes:
            raise SettingsError(
                f"`ignore` (={pattern!r}) must be the code or name of a rule, with an "
                f"optional layer pattern, such as 'GW103:encoder.*'; known codes: "
                f"{', '.join(sorted({rule.code for rule in rules}))}."
            )
        parsed.append(IgnorePattern(codes[name], layers or None))
    return tuple(parsed)


def strip(finding: Finding, patterns: Iterable[IgnorePattern]) -> Finding | None:
    """Return what all patterns leave of a finding; None if nothing."""
    left: Finding | None = finding
    for pattern in patterns:
        if left is not None:
            left = pattern.strip(left)
    return left
