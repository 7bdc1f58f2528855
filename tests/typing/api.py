"""Use every public name as a user would; read by mypy and pyright, never run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from typing_extensions import assert_type

import gradwatch


def settings() -> gradwatch.Settings:
    """Settings come from keywords, a mapping or a file."""
    by_keyword = gradwatch.Settings(budget=0.02, probe_steps=(0, 1))
    try:
        return gradwatch.Settings.coerce({"budget": by_keyword.budget})
    except gradwatch.SettingsError as error:
        _: gradwatch.GradWatchError = error
    return gradwatch.Settings.load(Path("gradwatch.toml"))


def train(model: nn.Module, batch: torch.Tensor) -> gradwatch.Report:
    """The main job, with every option."""
    with gradwatch.watch(
        model,
        settings={"probe_every": 50},
        include=["encoder.*", nn.Linear],
        exclude=(),
        loss_fn=lambda module, batch: module(batch).mean(),
        budget=0.02,
        every=None,
        record="runs",
        console=None,
        on_finding=lambda found: None,
        ignore=["GW302"],
        name="encoder",
    ) as watch:
        assert_type(watch, gradwatch.Watch)
        watch.log(loss=model(batch).mean())
        watch.step()
    report = watch.report()
    assert_type(report.health, gradwatch.Health)
    return report


def before(model: nn.Module, batch: torch.Tensor) -> gradwatch.Report | None:
    """One probe of a copy."""
    try:
        return gradwatch.check(model, batch)
    except gradwatch.ModelError:
        return None


def saved(report: gradwatch.Report, path: Path) -> gradwatch.Report | None:
    """A report is saved and read back."""
    report.save(path)
    for picture in report.plot().values():
        picture.savefig(path)
    report.plot("heat map").savefig(path)
    try:
        return gradwatch.Report.load(path)
    except gradwatch.ReportError:
        return None


def finding(found: gradwatch.Finding) -> tuple[str, gradwatch.Health]:
    """A finding is data."""
    evidence: tuple[gradwatch.Evidence, ...] = found.evidence
    assert_type(evidence[0].value, float)
    severity: gradwatch.Severity = found.severity
    confidence: gradwatch.Confidence = found.confidence
    trend: gradwatch.Trend = found.trend
    return f"{found.code} {severity} {confidence} {trend}", found.health


def treat(
    model: nn.Module, optimizer: torch.optim.Optimizer, report: gradwatch.Report
) -> gradwatch.Treatment | None:
    """A recommendation is applied to a copy, and to a new optimizer for it."""
    recommendations: tuple[gradwatch.Recommendation, ...] = report.recommendations
    rejections: tuple[gradwatch.Rejection, ...] = report.rejections
    if rejections or recommendations[0].risk is gradwatch.Risk.ADVICE:
        return None
    try:
        treated = gradwatch.treat(model, recommendations[:2])
    except gradwatch.TreatmentError:
        return None
    assert_type(
        gradwatch.treat_optimizer(
            optimizer, recommendations[0], model=model, treated=treated
        ),
        torch.optim.Optimizer,
    )
    treatment = gradwatch.treatment_of(treated)
    changes: tuple[gradwatch.Change, ...] = treatment.changes
    assert_type(changes[0].line() + treatment.diff(), str)
    return treatment


def names() -> tuple[str, tuple[type[Warning], ...]]:
    """The version, and the warnings a user may filter."""
    return (
        gradwatch.__version__,
        (
            gradwatch.GradWatchWarning,
            gradwatch.DetachedWarning,
            gradwatch.ListenerWarning,
            gradwatch.PluginWarning,
            gradwatch.RecordWarning,
            gradwatch.TreatmentWarning,
        ),
    )


class Notes:
    """Follows a watch."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_probe(self, watch: gradwatch.Watch) -> None:
        """Note what stands."""
        self.lines += [finding.code for finding in watch.findings]

    def on_close(self, watch: gradwatch.Watch, report: gradwatch.Report) -> None:
        """Note the verdict."""
        self.lines.append(report.health.value)


def followed(watch: gradwatch.Watch) -> float | torch.Tensor | None:
    """A logger follows a watch."""
    watch.attach(Notes())
    return watch.loss


def tried(
    model: nn.Module, batch: torch.Tensor, watch: gradwatch.Watch
) -> gradwatch.TrialResult:
    """A remedy is tried on copies."""
    ranked: tuple[gradwatch.Recommendation, ...] = watch.trial(steps=20, limit_s=5.0)
    assert_type(
        watch.trial(ranked[0], optimizer=torch.optim.AdamW), gradwatch.TrialResult
    )
    result = gradwatch.trial(
        model,
        ranked[0],
        batches=[batch],
        loss_fn=lambda module, batch: module(batch).mean(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        steps=100,
        limit_s=60.0,
        seed=0,
        progress=False,
    )
    assert_type(result.verdict, gradwatch.Verdict)
    return result
