"""TensorBoard, Weights & Biases and MLflow with their real libraries, offline."""

import json

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.integrations.loggers import RunLogger, told
from gradwatch.integrations.scalars import NAMES, scalars


def train(logger, steps=12):
    """Train a sick net with a logger and return the watch."""
    torch.manual_seed(0)
    hidden = [m for _ in range(10) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 16), torch.randint(4, (32,))
    with gradwatch.watch(model, console=None) as watch:
        watch.attach(logger)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return watch


class Memory(RunLogger):
    """Keeps what would be written."""

    def __init__(self):
        super().__init__()
        self.scalars, self.texts, self.files = [], {}, {}

    def write_scalars(self, values, step):
        self.scalars.append((step, dict(values)))

    def write_text(self, name, text, step):
        self.texts[name] = text

    def write_files(self, files):
        self.files.update({file.name: file.read_text("utf-8") for file in files})


def test_only_what_a_probe_measured_anew_is_written():
    """One row a probe, at its step; names that stay."""
    kept = Memory()
    watch = train(kept)
    steps = [step for step, _ in kept.scalars]
    assert steps == [probe.step for probe in watch.history.probes]
    assert set(kept.scalars[-1][1]) <= set(NAMES)
    assert kept.scalars[-1][1]["gradwatch/D_decades"] > 2.0


def test_findings_and_the_report_are_kept_as_text():
    """The code, the number and its limit; the report as a file too."""
    kept = Memory()
    train(kept)
    assert "GW101 vanishing-gradient" in kept.texts["gradwatch/GW101"]
    assert "(limit 2)" in kept.texts["gradwatch/GW101"]
    assert "VANISHING" in kept.texts["gradwatch/report"]
    saved = json.loads(kept.files["gradwatch-report.json"])
    assert saved["format"] == "gradwatch-report"
    assert "VANISHING" in kept.files["gradwatch-report.txt"]


def test_a_logger_that_fails_is_dropped_and_training_goes_on():
    """A run that its owner has closed: one warning, and the report as ever."""

    class Closed(Memory):
        def write_scalars(self, values, step):
            super().write_scalars(values, step)
            if step > 0:
                raise OSError("the run is closed")

    kept = Closed()
    with pytest.warns(gradwatch.ListenerWarning, match="Closed cannot write .* closed"):
        watch = train(kept)
    assert [step for step, _ in kept.scalars] == [0, 1]
    assert "gradwatch/report" not in kept.texts
    assert watch.report().run.failure == ""
    assert watch.report().run.steps == 12


def test_a_closed_watch_is_written_at_once():
    """A logger that comes late has the last numbers and the report."""
    watch = train(Memory())
    kept = Memory()
    watch.attach(kept)
    assert [step for step, _ in kept.scalars] == [watch.history.latest.step]
    assert "VANISHING" in kept.texts["gradwatch/report"]


def test_what_is_not_measured_is_left_out():
    """No zero for what nobody saw."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with gradwatch.watch(model, console=None) as watch:
        values = scalars(watch)
    assert set(values) == {"gradwatch/findings", "gradwatch/overhead"}


def test_a_finding_is_told_with_its_evidence():
    """Every number with its limit, unit and steps."""
    finding = gradwatch.Finding(
        code="GW101",
        name="vanishing-gradient",
        health=gradwatch.Health.VANISHING,
        severity=gradwatch.Severity.CRITICAL,
        confidence=gradwatch.Confidence.HIGH,
        layers=("a",),
        message="It fades.",
        help="Look at a.",
        evidence=(gradwatch.Evidence("D", 6.1234567, 2.0, "decades", (0, 9)),),
    )
    text = told(finding)
    assert "- D = 6.123 decades (limit 2), steps 0 to 9" in text
    assert "It fades." in text


def test_tensorboard_reads_back_what_was_written(tmp_path):
    """The real writer, the real reader."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from gradwatch.integrations.tensorboard import TensorBoardLogger

    writer = SummaryWriter(tmp_path)
    train(TensorBoardLogger(writer))
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    values = [event.value for event in events.Scalars("gradwatch/D_decades")]
    assert values
    assert values[-1] > 2.0
    assert any("GW101" in tag for tag in events.Tags()["tensors"])


def test_wandb_keeps_the_run_offline(tmp_path, monkeypatch):
    """Summary, history and artifact of a real run; its steps stay the user's."""
    wandb = pytest.importorskip("wandb")
    from gradwatch.integrations.wandb import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="x", mode="offline", dir=str(tmp_path))
    train(WandbLogger(run))
    assert run.step == 0
    run.log({"accuracy": 0.5}, step=1)  # once an epoch: wandb must not have gone by
    assert run.step == 1
    train(WandbLogger(run, commit=True))
    assert run.step > 1
    summary = dict(run.summary)
    run.finish()
    assert summary["accuracy"] == 0.5
    assert summary["gradwatch/D_decades"] > 2.0
    assert "GW101" in summary["gradwatch/GW101"]
    assert list(tmp_path.rglob("*.wandb"))


def test_mlflow_keeps_metrics_and_artifacts(tmp_path, monkeypatch):
    """A local store of files, read back by MLflow itself."""
    mlflow = pytest.importorskip("mlflow")
    from gradwatch.integrations.mlflow import MLflowLogger

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracking_uri=tmp_path.as_uri())
    experiment = client.create_experiment("x")
    run = client.create_run(experiment)
    train(MLflowLogger(client, run.info.run_id))
    history = client.get_metric_history(run.info.run_id, "gradwatch/D_decades")
    assert history[-1].value > 2.0
    names = {item.path for item in client.list_artifacts(run.info.run_id, "gradwatch")}
    assert "gradwatch/gradwatch-report.json" in names
