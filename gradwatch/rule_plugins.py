"""Our rules and those of plug-ins, whose errors stay their own."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from gradwatch.findings import Finding, Health
from gradwatch.history import History
from gradwatch.plugins import check_name, described, load
from gradwatch.rules import RULES, Rule
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Group of entry points that name rules.
GROUP = "gradwatch.rules"
_CODE = re.compile(r"[A-Z]{2,8}\d{3}")


class Answer(NamedTuple):
    """What a rule said of the newest probe.

    Attributes:
        finding: What is wrong, or None.
        error: What a plug-in's rule raised, in words; empty if it answered.
    """

    finding: Finding | None
    error: str = ""


@cache
def all_rules() -> tuple[Rule, ...]:
    """Return our rules, then those of installed plug-ins. They are loaded once."""
    taken: list[Rule] = list(RULES)

    def accept(thing: object) -> Rule:
        taken.append(_checked(thing, taken))
        return taken[-1]

    return (*RULES, *load(GROUP, accept))


def _checked(thing: object, taken: list[Rule]) -> Rule:
    if not isinstance(thing, Rule):
        raise TypeError(f"{thing!r} is no `gradwatch.rules.Rule`")
    code: object = getattr(thing, "code", None)
    if not isinstance(code, str) or not _CODE.fullmatch(code) or code[:2] == "GW":
        raise ValueError(
            f"`code` (={code!r}) of a rule must be 2 to 8 capital letters and three "
            "digits, such as LAB101; GW is gradwatch's own"
        )
    if code in {rule.code for rule in taken}:
        raise ValueError(f"there is a rule {code} already")
    check_name(getattr(thing, "name", None), {rule.name for rule in taken}, "rule")
    if not isinstance(getattr(thing, "summary", None), str):
        raise TypeError("a rule needs a `summary`, one line for the catalogue")
    if not isinstance(getattr(thing, "health", None), Health):
        raise TypeError("a rule needs a `health`, a member of `gradwatch.Health`")
    unknown = sorted(set(thing.settings_used) - set(Settings.model_fields))
    if unknown:
        raise ValueError(f"`settings_used` names what is no setting: {unknown}")
    return thing


def ask(
    rule: Rule, history: History, structure: Structure, settings: Settings
) -> Answer:
    """Let a rule judge the newest probe.

    An error of a plug-in's rule is told in words; one of ours passes, and is caught
    where all of ours are.

    Args:
        rule: The rule.
        history: What was measured.
        structure: The network.
        settings: The limits.

    Returns:
        Its answer.
    """
    if rule in RULES:
        return Answer(rule.judge(history, structure, settings))
    try:
        found: object = rule.judge(history, structure, settings)
    except Exception as error:  # a stranger's bug must not take the watch away
        return Answer(None, described(error))
    if found is None:
        return Answer(None)
    if not isinstance(found, Finding) or found.code != rule.code or not found.evidence:
        return Answer(
            None,
            f"`judge` returned {found!r}; it must return None or `self.finding(...)` "
            "with evidence",
        )
    return Answer(found)


def unmet(
    rule: Rule, history: History, structure: Structure, settings: Settings
) -> str | None:
    """Say why a rule cannot be judged here; None if it can.

    Args:
        rule: The rule.
        history: What was measured.
        structure: The network.
        settings: The limits.

    Returns:
        What is missing. Of a plug-in's rule that raises, the error.
    """
    if rule in RULES:
        return rule.unmet(history, structure, settings)
    try:
        reason = rule.unmet(history, structure, settings)
    except Exception as failure:
        return f"it failed: {described(failure)}"
    error = "" if reason else ask(rule, history, structure, settings).error
    return f"it failed: {error}" if error else reason
