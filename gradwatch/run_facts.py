"""From a live observer and its detector to a report."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gradwatch.anatomy import Anatomy
from gradwatch.captured_trials import with_trials
from gradwatch.detector import Detector, health_of, layer_health
from gradwatch.findings import Finding, Health
from gradwatch.history import History
from gradwatch.observer import Observer
from gradwatch.recommendations import TrialResult
from gradwatch.recommender import recommend
from gradwatch.report import CheckedRule, Overhead, Report, RunFacts, UncheckedRule
from gradwatch.report_build import build_report
from gradwatch.rule_plugins import all_rules, unmet
from gradwatch.settings import Settings
from gradwatch.structure import Structure


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known at one moment beside history and structure, as plain values.

    A record of the run keeps it, so that a report can be composed of it later.

    Attributes:
        model: Class name of the model.
        name: What the user calls the model.
        num_parameters: Entries of its parameters.
        optimizers: Class names of the optimizers that stepped.
        device: Device of the parameters.
        steps: Optimizer steps watched.
        failure: The error of gradwatch's own that ended the watch; empty without one.
        notes: What else a reader must know.
        overhead: What gradwatch cost.
        standing: Findings that stand.
        cleared: Findings that came and went.
        ignored: Number of findings that the user ignores.
        trials: What was tried so far, by the name of the treatment.
    """

    model: str
    name: str
    num_parameters: int = 0
    optimizers: tuple[str, ...] = ()
    device: str = ""
    steps: int = 0
    failure: str = ""
    notes: tuple[str, ...] = ()
    overhead: Overhead = field(default_factory=Overhead)
    standing: tuple[Finding, ...] = ()
    cleared: tuple[Finding, ...] = ()
    ignored: int = 0
    trials: Mapping[str, TrialResult] = field(default_factory=dict)


def see(
    *,
    observer: Observer,
    detector: Detector,
    settings: Settings,
    model_name: str,
    num_parameters: int,
    name: str | None = None,
    notes: tuple[str, ...] = (),
    trials: Mapping[str, TrialResult] | None = None,
) -> Seen:
    """Return what an observer and its detector know now.

    Args:
        observer: Measured.
        detector: Judged.
        settings: The limits in use.
        model_name: Class name of the model.
        num_parameters: Entries of its parameters.
        name: What the user calls the model.
        notes: What else a reader must know.
        trials: What was tried so far, by the name of the treatment.

    Returns:
        What is known.
    """
    if observer.step == 0 and observer.foreign_optimizers:
        names = ", ".join(sorted(observer.foreign_optimizers))
        notes = (
            *notes,
            f"{names} stepped, but owns no parameter of {model_name}: watch "
            "the module whose parameters it updates, or build the optimizer after the "
            "model got its final parameters.",
        )
    notes = (*notes, *observer.processes.notes)
    return Seen(
        model=model_name,
        name=name or model_name,
        num_parameters=num_parameters,
        optimizers=observer.optimizer_names,
        device=observer.device,
        steps=observer.step,
        failure=(observer.hooks.failure or "").strip().rsplit("\n", 1)[-1],
        notes=notes,
        overhead=_overhead(observer, settings),
        standing=detector.standing,
        cleared=detector.cleared,
        ignored=len(detector.ignored),
        trials=dict(trials or {}),
    )


def compose_report(
    *,
    observer: Observer,
    detector: Detector,
    settings: Settings,
    model_name: str,
    num_parameters: int,
    name: str | None = None,
    notes: tuple[str, ...] = (),
    anatomy: Anatomy | None = None,
    trials: Mapping[str, TrialResult] | None = None,
) -> Report:
    """Return the report on what an observer has seen so far.

    Args:
        observer: Measured.
        detector: Judged.
        settings: The limits in use.
        model_name: Class name of the model.
        num_parameters: Entries of its parameters.
        name: What the user calls the model.
        notes: What else a reader must know.
        anatomy: What code can change of the model; None if that is not known.
        trials: What was tried so far, by the name of the treatment.

    Returns:
        The report.
    """
    seen = see(
        observer=observer,
        detector=detector,
        settings=settings,
        model_name=model_name,
        num_parameters=num_parameters,
        name=name,
        notes=notes,
        trials=trials,
    )
    return report_on(seen, observer.history, observer.structure, settings, anatomy)


def report_on(
    seen: Seen,
    history: History,
    structure: Structure,
    settings: Settings,
    anatomy: Anatomy | None = None,
    versions: Mapping[str, str] | None = None,
) -> Report:
    """Return the report on what was seen, measured and understood.

    Args:
        seen: What observer and detector knew.
        history: What was measured.
        structure: The network.
        settings: The limits.
        anatomy: What code can change of the model; None if that is not known.
        versions: Versions that the run had, if they are not those of this process:
            fields `gradwatch`, `python` and `torch` of `RunFacts`.

    Returns:
        The report.
    """
    health = health_of(seen.standing, history, structure, settings)
    if seen.failure and health is Health.HEALTHY:
        health = Health.UNKNOWN  # nothing is known of what came after
    checked, unchecked = what_was_checked(
        history, structure, settings, (*seen.standing, *seen.cleared)
    )
    recommendations, rejections = recommend(
        seen.standing if anatomy is not None else (),
        structure,
        anatomy or Anatomy(),
        history,
        settings,
    )
    run = RunFacts(
        name=seen.name,
        model=seen.model,
        num_parameters=seen.num_parameters,
        optimizers=seen.optimizers,
        device=seen.device,
        steps=max(seen.steps, history.last_step + 1),
        failure=seen.failure,
        notes=seen.notes,
    )
    return build_report(
        history=history,
        structure=structure,
        settings=settings,
        findings=seen.standing,
        cleared=seen.cleared,
        ignored=seen.ignored,
        health=health,
        layer_health=layer_health(seen.standing, history, structure, settings),
        overhead=seen.overhead,
        run=run.model_copy(update=dict(versions or {})),
        checked=checked,
        not_checked=unchecked,
        recommendations=with_trials(recommendations, seen.trials),
        rejections=rejections,
    )


def broken_report(name: str, failure: str, findings: Iterable[Finding]) -> Report:
    """Return what can be said where a report could not be composed.

    Args:
        name: What the user calls the model.
        failure: The error of gradwatch's own.
        findings: What stood.

    Returns:
        A report without measurements.
    """
    return Report(
        health=Health.UNKNOWN,
        sentence="gradwatch met an error of its own and cannot tell what it measured.",
        next_step="Please report the error; the training itself is unaffected.",
        findings=tuple(findings),
        run=RunFacts(name=name, failure=failure.strip().rsplit("\n", 1)[-1]),
    )


def what_was_checked(
    history: History,
    structure: Structure,
    settings: Settings,
    findings: Iterable[Finding],
) -> tuple[list[CheckedRule], list[UncheckedRule]]:
    """Tell the rules that could be judged at some kept probe from the others.

    The newest probe alone would not do: after a NaN there is no trunk to judge any
    more, and what was judged before it was judged all the same.

    Args:
        history: What was measured.
        structure: The network.
        settings: The limits.
        findings: Standing and cleared findings: their rules were judged.

    Returns:
        Rules with the first and last step at which they were judged, and the others
        with what is missing at the newest probe.
    """
    judged: dict[str, tuple[int, int]] = {}
    for finding in findings:
        last = max((item.steps[1] for item in finding.evidence), default=0)
        last = max(last, finding.since_step, finding.cleared_step or 0)
        judged[finding.code] = (finding.since_step, last)
    rules = all_rules()
    reasons = {r.code: unmet(r, history, structure, settings) for r in rules}
    # A rule that can be judged now is asked again only until its first step is known.
    asked = [rule for rule in rules if history.latest is not None]
    past = History(settings.max_probes, settings.max_pulses, settings.max_records)
    pulses = deque(history.pulses)
    for probe in history.probes:
        while pulses and pulses[0].step <= probe.step:
            past.add_pulse(pulses.popleft())
        past.add_probe(probe)
        for rule in tuple(asked):
            if unmet(rule, past, structure, settings) is not None:
                continue
            first, last = judged.get(rule.code, (probe.step, probe.step))
            judged[rule.code] = (min(first, probe.step), max(last, probe.step))
            if reasons[rule.code] is None:
                asked.remove(rule)
    newest = history.window(1)[1]
    checked, unchecked = [], []
    for rule in rules:
        code, name, reason = rule.code, rule.name, reasons[rule.code]
        first, last = judged.get(code, (newest, newest))
        if reason is None:
            last = max(last, newest)
        elif code not in judged:
            unchecked.append(UncheckedRule(code=code, name=name, reason=reason))
            continue
        checked.append(CheckedRule(code=code, name=name, steps=(first, last)))
    return checked, unchecked


def _overhead(observer: Observer, settings: Settings) -> Overhead:
    spent, wall = observer.overhead()
    return Overhead(
        share=spent / wall if observer.ruled else None,
        budget=settings.budget,
        seconds=observer.seconds,
        probes=observer.num_probes,
        pulses=observer.history.num_pulses,
        rhythm=observer.rhythm.text(),
    )
