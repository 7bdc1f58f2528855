"""From a live observer and its detector to a report."""

from __future__ import annotations

from gradwatch.detector import Detector, health_of, layer_health
from gradwatch.findings import Health
from gradwatch.observer import Observer
from gradwatch.report import CheckedRule, Overhead, Report, RunFacts, UncheckedRule
from gradwatch.report_build import build_report
from gradwatch.rules import RULES
from gradwatch.settings import Settings


def compose_report(
    *,
    observer: Observer,
    detector: Detector,
    settings: Settings,
    model_name: str,
    num_parameters: int,
    notes: tuple[str, ...] = (),
) -> Report:
    """Return the report on what an observer has seen so far.

    Args:
        observer: Measured.
        detector: Judged.
        settings: The limits in use.
        model_name: Class name of the model.
        num_parameters: Entries of its parameters.
        notes: What else a reader must know.

    Returns:
        The report.
    """
    history, structure = observer.history, observer.structure
    standing = detector.standing
    health = health_of(standing, history, structure, settings)
    if observer.hooks.failure is not None and health is Health.HEALTHY:
        health = Health.UNKNOWN  # nothing is known of what came after
    checked, unchecked = [], []
    for rule in RULES:
        reason = rule.unmet(history, structure, settings)
        if reason is not None:
            unchecked.append(
                UncheckedRule(code=rule.code, name=rule.name, reason=reason)
            )
            continue
        steps = history.window(settings.max_probes)
        checked.append(CheckedRule(code=rule.code, name=rule.name, steps=steps))
    if observer.hooks.failure is not None:
        cause = observer.hooks.failure.strip().rsplit("\n", 1)[-1]
        notes = (*notes, f"gradwatch met an error of its own and detached: {cause}")
    if observer.step == 0 and observer.foreign_optimizers:
        names = ", ".join(sorted(observer.foreign_optimizers))
        notes = (
            *notes,
            f"{names} stepped, but owns no parameter of {model_name}: watch "
            "the module whose parameters it updates, or build the optimizer after the "
            "model got its final parameters.",
        )
    return build_report(
        history=history,
        structure=structure,
        settings=settings,
        findings=standing,
        cleared=detector.cleared,
        ignored=len(detector.ignored),
        health=health,
        layer_health=layer_health(standing, history, structure, settings),
        overhead=_overhead(observer, settings),
        run=RunFacts(
            model=model_name,
            num_parameters=num_parameters,
            optimizers=observer.optimizer_names,
            device=observer.device,
            steps=max(observer.step, history.last_step + 1),
            notes=notes,
        ),
        checked=checked,
        not_checked=unchecked,
    )


def _overhead(observer: Observer, settings: Settings) -> Overhead:
    spent, wall = observer.overhead()
    ruled = observer.started_after is not None
    return Overhead(
        share=spent / wall if ruled else None,
        budget=settings.budget,
        seconds=observer.seconds,
        probes=observer.num_probes,
        pulses=observer.history.num_pulses,
        rhythm=observer.rhythm.text(),
    )
