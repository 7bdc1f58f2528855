"""What a report says in words: its one sentence, its next step, lists of layers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from gradwatch.findings import Finding, Health
from gradwatch.recommendations import Recommendation, Verdict
from gradwatch.report import Report
from gradwatch.rules.wording import ROOT_NAME, named
from gradwatch.settings import Settings
from gradwatch.verdicts import place_after_trial

_NUMBER = re.compile(r"\d+")
_SPELLED_OUT = 3
#: Steps over those up to the newest probe from which it counts as old (chosen).
_OLD = 2


def sentence(report: Report, settings: Settings) -> str:
    """Return the one sentence that matters.

    Args:
        report: The report, complete but for its words.
        settings: The limits in use.

    Returns:
        A sentence.
    """
    steps, probes = report.run.steps, len(report.run.probe_steps)
    if report.run.failure:
        text = (
            f"gradwatch stopped at step {steps} after an error of its own: no verdict "
            "on what came later."
        )
        first = next((f for f in report.findings if f.is_alarm), None)
        return text if first is None else f"{text} Before that: {headline(first)}"
    if not steps:
        return "No optimizer step of this model was seen, so there is nothing to judge."
    if not probes:
        return f"{count(steps, 'step')} went by without a probe: nothing was judged."
    if report.health is Health.HEALTHY:
        notes = count(len(report.findings), "note")
        also = f"; {notes}, no alarm" if report.findings else ""
        weights = report.coverage.weight_layers_observed
        return (
            f"No sign of a gradient defect in {count(weights, 'weight layer')} over "
            f"{_over(report)}{also}{_last_look(report)}."
        )
    if report.findings:
        first = report.findings[0]
        if first.confirmed:
            return headline(first)
        return f"Not confirmed yet, after {_probes(probes)}: {headline(first)}"
    share = report.coverage.share
    if share is not None and share < settings.healthy_coverage:
        seen = report.coverage
        return (
            f"No defect was seen, but only {seen.weight_layers_observed} of "
            f"{seen.num_weight_layers} trainable weight layers could be observed: too "
            "few to call the network healthy."
        )
    if probes < settings.healthy_probes:
        return (
            f"{_probes(probes)}: no sign of a gradient defect yet; it takes "
            f"{settings.healthy_probes} probes to call a network healthy."
        )
    return "There is not enough evidence for a verdict."


def next_step(report: Report, settings: Settings) -> str:
    """Return the one next thing to do, or what a healthy verdict rests on.

    Args:
        report: The report, complete but for its words.
        settings: The limits in use.

    Returns:
        One or two sentences.
    """
    if report.run.failure:
        return (
            "Training was not affected. Please report the error, with the traceback of "
            f"the warning that came with it: {report.run.failure}"
        )
    if not report.run.steps:
        return (
            "Train inside the `with` block, or call `watch.step()` after each step of "
            "an optimizer that is not a torch.optim.Optimizer."
        )
    if report.health is Health.HEALTHY:
        return _checked(report)
    if report.findings and report.recommendations:
        return _treatment(report)
    if report.findings:
        first = report.findings[0]
        return f"{first.help} `gradwatch explain {first.code}` says more."
    if report.run.probe_steps and report.coverage.reasons:
        reason = report.coverage.reasons[0]
        because = f" ({reason.reason})" if reason.reason else ""
        return (
            f"Make more layers visible: {in_words(reason.layers)} could not be "
            f"seen{because}."
        )
    if len(report.run.probe_steps) < settings.healthy_probes:
        return "Train a few more steps under the watch."
    return f"See which rules could not be judged, and why. {_checked(report)}"


def by_trial(recommendations: Sequence[Recommendation]) -> list[int]:
    """Return the places of recommendations: what helped, the untried, the rest."""
    keys = list(map(place_after_trial, recommendations))
    return sorted(range(len(keys)), key=keys.__getitem__)  # stable


def tried_in_vain(recommendation: Recommendation) -> bool:
    """Whether it was tried and did not help; a replay alone may not be able to say."""
    trial = recommendation.trial
    if trial is None or trial.verdict is Verdict.HELPED:
        return False
    return trial.verdict is not Verdict.NO_CHANGE or trial.how == "training"


def _treatment(report: Report) -> str:
    """Say which recommendation comes next: one that helped, else the first untried."""
    first = report.findings[0]
    explain = f"`gradwatch explain {first.code}` says more."
    place = by_trial(report.recommendations)[0]
    chosen = report.recommendations[place]
    if tried_in_vain(chosen):
        many = len(report.recommendations)
        what = "The remedy was" if many == 1 else f"All {many} remedies were"
        return f"{what} tried; none helped. {first.help} {explain}"
    trial = chosen.trial
    well = trial is not None and trial.verdict is Verdict.HELPED
    helped = " (it helped in its trial)" if well else ""
    if not chosen.can_apply:
        where = f" at {chosen.where}" if chosen.where else ""
        return f"{chosen.title}{helped}; you change this{where}. {explain}"
    if not chosen.layers:  # of the training, not of the model
        return f"{chosen.title}{helped}: the lines stand above. {explain}"
    how = f"`gradwatch.treat(model, report.recommendations[{place}])`"
    return f"{chosen.title}{helped}: {how} returns a copy so treated."


def _checked(report: Report) -> str:
    done = count(len(report.checked), "rule")
    probes = _probes(len(report.run.probe_steps))
    of = f" (of {report.run.steps:,})" if _last_look(report) else ""
    text = f"{done} checked at {probes} over {_over(report)}{of}"
    left = len(report.not_checked)
    return f"{text}; {left} could not be judged here." if left else f"{text}."


def _over(report: Report) -> str:
    probed = report.run.probe_steps
    first, last = min(probed, default=0), max(probed, default=0)
    return f"steps {first} to {last}" if last > first else f"step {first}"


def _last_look(report: Report) -> str:
    """Say how old the newest probe is, if most of the training came after it."""
    steps, last = report.run.steps, max(report.run.probe_steps, default=0)
    if steps <= _OLD * (last + 1):
        return ""
    return f"; gradwatch last looked at every layer at step {last:,} of {steps:,}"


def _probes(number: int) -> str:
    return count(number, "probe")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 probe` or `12,000 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def headline(finding: Finding) -> str:
    """Return the first clause of a finding's message as a sentence."""
    first = re.split(r"; |(?<=[^.])\. ", finding.message, maxsplit=1)[0]
    return first.rstrip(" .;") + "."


def in_words(layers: Sequence[str]) -> str:
    """Return a list of layers for a sentence, where a bare number is `layer 22`."""
    return name_layers([named(layer) for layer in layers])


def name_layers(layers: Sequence[str], order: Mapping[str, int] | None = None) -> str:
    """Return a list of layers in few words, such as `fc.0 … fc.9 (10 layers)`.

    Three dots stand for layers in between only where nothing else lies between: the
    names count up in equal steps, or follow each other in `order`.

    Args:
        layers: Names.
        order: Place of each layer in the report's table, if known.

    Returns:
        The list; empty without any layer.
    """
    keys = list(dict.fromkeys(layers))
    names = [key or ROOT_NAME for key in keys]
    if len(names) <= _SPELLED_OUT:
        return ", ".join(names)
    ordered = _range(keys, order or {})
    if ordered:
        ends = ordered[0] or ROOT_NAME, ordered[-1] or ROOT_NAME
        return f"{ends[0]} … {ends[1]} ({len(names)} layers)"
    return f"{', '.join(names[:_SPELLED_OUT])} and {len(names) - _SPELLED_OUT} more"


def _range(names: Sequence[str], order: Mapping[str, int]) -> list[str]:
    """Return the names in order if they are a run without gaps, else nothing."""
    if all(name in order for name in names):
        by_place = sorted(names, key=order.__getitem__)
        if order[by_place[-1]] - order[by_place[0]] == len(names) - 1:
            return by_place
    numbers = [tuple(map(int, _NUMBER.findall(name))) for name in names]
    if len({_NUMBER.sub("#", name) for name in names}) > 1 or not numbers[0]:
        return []
    by_number = sorted(range(len(names)), key=numbers.__getitem__)
    steps = {
        tuple(b - a for a, b in zip(numbers[left], numbers[right], strict=True))
        for left, right in itertools.pairwise(by_number)
    }
    return [names[index] for index in by_number] if len(steps) == 1 else []
