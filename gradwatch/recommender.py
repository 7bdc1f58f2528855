"""From findings to ranked recommendations, and what was rejected and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradwatch.anatomy import Anatomy
from gradwatch.findings import Finding, Severity
from gradwatch.history import History
from gradwatch.recommendations import Recommendation, Rejection
from gradwatch.remedies import Case, Remedy
from gradwatch.remedies.snippets import keys_known
from gradwatch.remedy_plugins import all_remedies, answers_to
from gradwatch.remedy_ranking import place
from gradwatch.settings import Settings
from gradwatch.situations import situation
from gradwatch.structure import Structure

_LOG = logging.getLogger(__name__)
#: May be behind any symptom, and knows by itself when it is not.
_ALWAYS = ("normalise-data",)
#: What people try first for any sickness, named by the rule or not: the report says why
#: it was left out.
_FOLK = frozenset({"clip-gradients", "adjust-learning-rate", "swap-activation"})


def recommend(
    findings: Sequence[Finding],
    structure: Structure,
    anatomy: Anatomy,
    history: History,
    settings: Settings,
) -> tuple[tuple[Recommendation, ...], tuple[Rejection, ...]]:
    """Return what may help, best first, and what was considered and left out.

    A note gets no recommendation: nothing is wrong yet. The order is that of the
    measured record in the finding's situation (`remedy_ranking.py`), what answers a
    worse finding first among equals; a trial orders them anew.

    Args:
        findings: Standing findings, worst first.
        structure: How the gradient flows.
        anatomy: What code can change.
        history: What was measured.
        settings: The limits.

    Returns:
        Recommendations and rejections.
    """
    offered: list[tuple[tuple[int, ...], Recommendation]] = []
    left_out: list[Rejection] = []
    for number, finding in enumerate(findings):
        if finding.severity < Severity.WARNING:
            continue
        case = Case(finding, tuple(findings), structure, anatomy, history, settings)
        where = situation(finding, structure, anatomy)
        wanted = (*answers_to(finding.code), *_ALWAYS)
        for remedy in all_remedies():
            named = remedy.name in wanted
            if not named and remedy.name not in _FOLK:
                continue
            for answer in answers(remedy, case):
                if isinstance(answer, Rejection):
                    left_out.append(answer)
                elif named:
                    offered.append(((*place(where, answer), number), answer))
    recommendations = _merged(offered)
    taken = {recommendation.remedy for recommendation in recommendations}
    rejections = {r.remedy: r for r in reversed(left_out) if r.remedy not in taken}
    return recommendations, tuple(reversed(rejections.values()))


def answers(remedy: Remedy, case: Case) -> tuple[Recommendation | Rejection, ...]:
    """Ask a remedy; an error of its own is logged, and no answer."""
    try:
        with keys_known(case.anatomy.keyed):
            return tuple(remedy.propose(case))
    except Exception:  # one remedy's bug must not take the report away
        _LOG.exception("remedy %s failed on %s", remedy.name, case.code)
        return ()


def _merged(
    offered: Iterable[tuple[tuple[int, ...], Recommendation]],
) -> tuple[Recommendation, ...]:
    """Join equal treatments of several findings; the best place first."""
    best: dict[object, tuple[tuple[int, ...], Recommendation]] = {}
    for rank, new in offered:
        key = (new.remedy, new.layers, tuple(sorted(new.options.items())))
        old_rank, old = best.get(key, (rank, new))
        codes = tuple(dict.fromkeys((*old.answers, *new.answers)))
        best[key] = (min(rank, old_rank), replace(old, answers=codes))
    ranked = sorted(best.values(), key=lambda pair: pair[0])  # stable
    return tuple(recommendation for _, recommendation in ranked)
