"""What the demo shows of treatments: the remedy, its trial, the treated network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from gradwatch.console_layers import health_style
from gradwatch.console_recommendations import RISK_WORDS
from gradwatch.console_text import MISSING, inert, percent
from gradwatch.console_trials import trial_text
from gradwatch.demo_nets import Outcome
from gradwatch.findings import Health
from gradwatch.report_words import count


def cure_rows(outcome: Outcome, trained: str) -> Iterator[tuple[str, Text]]:
    """Yield label and text of what came of a remedy.

    Args:
        outcome: A sick network.
        trained: How the treated network was trained; empty if it was not.

    Yields:
        Rows of the network's card.
    """
    cure, recommended = outcome.cure, outcome.report.recommendations
    if cure is None:
        none = "none that code can apply"
        first = f"; for you: {inert(recommended[0].title)}" if recommended else ""
        yield "remedy", Text(none + first)
        return
    for place, item in enumerate(cure.tried):
        title = Text(inert(item.title), style="bold")
        if place == 0 and len(recommended) > 1:
            title.append(f"  (the first of {len(recommended)})", style="dim")
        yield ("else" if place else "remedy"), title
        yield "", Text(f"{item.risk.name}: {RISK_WORDS[item.risk]}")
        if item.trial is not None:
            yield "trial", trial_text(item.trial, item.answers)
    if cure.treated is not None:
        health = cure.treated.report.health
        text = Text(f"{trained}; ")
        text.append(health.value.upper(), style=health_style(health))
        finding = cure.treated.finding
        if finding is not None:
            text.append(f" ({finding.code} {finding.name})")
        yield "treated", text


def treated_accuracy(outcome: Outcome) -> str:
    """Return the accuracy of the treated network; empty for a healthy one."""
    if outcome.well:
        return ""
    treated = outcome.cure.treated if outcome.cure is not None else None
    return MISSING if treated is None else percent(treated.accuracy)


def tally(outcomes: Sequence[Outcome]) -> str:
    """Return how many were treated, and how many of those learn; empty if none was."""
    sick = [outcome for outcome in outcomes if not outcome.well]
    cures = [outcome.cure for outcome in sick if outcome.cure is not None]
    if not cures:
        return ""
    treated = [cure.treated for cure in cures if cure.treated is not None]
    healthy = sum(outcome.report.health is Health.HEALTHY for outcome in treated)
    first = sum(len(cure.tried) == 1 for cure in cures if cure.treated is not None)
    return (
        f"{len(cures)} of {count(len(sick), 'sick network')} had a remedy that code "
        f"can apply. A trial found one that helps for {len(treated)} (the first one "
        f"for {first}); {healthy} of those, trained again, came out healthy."
    )
