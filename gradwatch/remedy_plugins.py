"""Our remedies and those of plug-ins."""

from __future__ import annotations

from functools import cache

from gradwatch.plugins import check_name, load
from gradwatch.recommendations import Risk
from gradwatch.remedies import REMEDIES, Remedy
from gradwatch.rule_plugins import all_rules

#: Group of entry points that name remedies.
GROUP = "gradwatch.remedies"


@cache
def all_remedies() -> tuple[Remedy, ...]:
    """Return our remedies, then those of installed plug-ins. They are loaded once."""
    taken = {remedy.name for remedy in REMEDIES}

    def accept(thing: object) -> Remedy:
        remedy = _checked(thing, taken)
        taken.add(remedy.name)
        return remedy

    return (*REMEDIES, *load(GROUP, accept))


def _checked(thing: object, taken: set[str]) -> Remedy:
    if not isinstance(thing, Remedy):
        raise TypeError(f"{thing!r} is no `gradwatch.remedies.Remedy`")
    check_name(getattr(thing, "name", None), taken, "remedy")
    if not isinstance(getattr(thing, "summary", None), str):
        raise TypeError("a remedy needs a `summary`, one line for the catalogue")
    if not isinstance(getattr(thing, "risk", None), Risk):
        raise TypeError("a remedy needs a `risk`, a member of `gradwatch.Risk`")
    return thing


def answers_to(code: str) -> tuple[str, ...]:
    """Return the names of the remedies that may answer a rule, by its code.

    Those that the rule names come first, best first; then those that name the rule.
    """
    named = next((rule.remedies for rule in all_rules() if rule.code == code), ())
    more = [remedy.name for remedy in all_remedies() if code in remedy.for_rules]
    return tuple(dict.fromkeys([*named, *more]))
