"""What the Lightning callback does with findings, numbers, checkpoints and failures."""

import contextlib
import csv
import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.integrations.scalars import NAMES

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from tests.lightning_fits import (
    BATCHES,
    callback,
    data,
    fit,
    gan_class,
    module_class,
    net,
    same_weights,
    trainer_of,
)

ROOT = Path(__file__).resolve().parents[2]


# -- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_is_ended_still_gets_its_report(tmp_path, capsys, error):
    """An exception or Ctrl-C leaves the fit; the report comes, the hooks go."""

    class Breaks(module_class()):
        def training_step(self, batch, batch_idx):
            if self.global_step == 4:
                raise error("bad batch")
            return super().training_step(batch, batch_idx)

    module, ours = Breaks(), callback(console="end")
    trainer = trainer_of(tmp_path, [ours])
    # Newer Lightning turns Ctrl-C into the end of the program, 2.2 just ends the fit.
    with contextlib.suppress(RuntimeError, SystemExit):
        trainer.fit(module, data())
    assert ours.report.run.steps == 4
    assert "GW101" in capsys.readouterr().err
    assert not any(m._forward_hooks for m in module.modules())
    assert ours.watch.closed


# -- findings -------------------------------------------------------------------------


def test_stop_ends_the_fit_once_a_finding_is_confirmed(tmp_path):
    """At the batch, not at the end of the epoch; a warning says why."""
    ours = callback(act="stop")
    with pytest.warns(gradwatch.GradWatchWarning, match="GW101 .* Training stops"):
        _, trainer = fit(tmp_path, ours, max_epochs=5)
    assert trainer.global_step < BATCHES
    assert ours.report.findings[0].code == "GW101"


def test_warn_tells_the_code_in_a_warning(tmp_path):
    """One Python warning a finding; training goes on."""
    ours = callback(act="warn")
    with pytest.warns(gradwatch.GradWatchWarning) as told:
        _, trainer = fit(tmp_path, ours)
    texts = [str(one.message) for one in told]
    assert sum(text.startswith("GW101 vanishing-gradient: ") for text in texts) == 1
    assert trainer.global_step == 2 * BATCHES


def test_a_healthy_net_is_left_to_train(tmp_path):
    """`stop` stops nothing where nothing is wrong."""
    ours = callback(act="stop")
    _, trainer = fit(tmp_path, ours, net(3, nn.ReLU))
    assert trainer.global_step == 2 * BATCHES
    assert ours.report.findings == ()


TWO_PROCESSES = """
import torch
from tests.lightning_fits import callback, data, module_class, trainer_of

if __name__ == "__main__":
    torch.manual_seed(0)
    options = {"devices": 2, "strategy": "ddp", "max_epochs": 5}
    ours = callback(act="stop")
    trainer = trainer_of(".", [ours], **options)
    trainer.fit(module_class()(), data())
    codes = [finding.code for finding in ours.report.findings]
    print(f"rank {trainer.global_rank}: {trainer.global_step} {codes[0]}", flush=True)
"""


@pytest.mark.slow
def test_several_processes_stop_together(tmp_path):
    """At the end of the epoch: one that stopped alone would leave the rest waiting."""
    script = tmp_path / "fit.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Not by lines: the ranks share one terminal, and their words can meet on a line.
    told = re.findall(r"rank \d: \d+ GW\d{3}", done.stdout)
    assert sorted(told) == [f"rank {n}: {BATCHES // 2} GW101" for n in (0, 1)]


# -- numbers --------------------------------------------------------------------------


def rows_of(folder):
    """Return what a CSVLogger wrote."""
    (file,) = folder.rglob("metrics.csv")
    with file.open() as stream:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(stream)]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_loggers_get_a_handful_of_stable_names(tmp_path, package):
    """At the steps of the probes, also where the Trainer logs less often."""
    pytest.importorskip(package)
    logger = importlib.import_module(f"{package}.loggers").CSVLogger(tmp_path)
    ours = callback()
    options = {"package": package, "logger": logger, "log_every_n_steps": 6}
    fit(tmp_path, ours, **options)
    rows = [row for row in rows_of(tmp_path) if "gradwatch/D_decades" in row]
    probes = ours.watch.history.probes
    assert [int(row["step"]) for row in rows] == [probe.step for probe in probes]
    for row, probe in zip(rows, probes, strict=True):
        measured = max((c.decades() for c in probe.chains), key=abs)
        assert float(row["gradwatch/D_decades"]) == pytest.approx(measured)
        logged = {name for name in row if name.startswith("gradwatch/")}
        assert {"gradwatch/grad_norm/total", "gradwatch/overhead"} <= logged
        assert logged <= set(NAMES)


def test_the_norm_is_logged_as_often_as_the_trainer_logs(tmp_path):
    """As `track_grad_norm` did, under its name too if asked for."""
    logger = importlib.import_module("lightning.pytorch.loggers").CSVLogger(tmp_path)
    old = "grad_2.0_norm_total"
    ours = callback(every=1000, aliases={"gradwatch/grad_norm/total": old})
    fit(tmp_path, ours, net(3, nn.Tanh), logger=logger, log_every_n_steps=3)
    norms = {int(row["step"]): row[old] for row in rows_of(tmp_path) if old in row}
    assert {2, 5, 8, 11} <= set(norms)
    pulses = {pulse.step: pulse.grad_norm for pulse in ours.watch.history.pulses}
    for step, norm in norms.items():
        assert float(norm) == pytest.approx(pulses[step])


def test_numbers_can_be_monitored_by_other_callbacks(tmp_path):
    """Early stopping and checkpoints read `callback_metrics`."""
    from lightning.pytorch.callbacks import EarlyStopping

    torch.manual_seed(0)
    stopping = EarlyStopping("gradwatch/D_decades", patience=9, divergence_threshold=2)
    trainer = trainer_of(tmp_path, [callback(), stopping], max_epochs=5)
    trainer.fit(module_class()(), data())
    assert stopping.stopped_epoch == 0
    assert trainer.current_epoch == 1
    assert float(trainer.callback_metrics["gradwatch/D_decades"]) > 2.0


def test_log_false_logs_nothing(tmp_path):
    """Neither to loggers nor to other callbacks."""
    _, trainer = fit(tmp_path, callback(log=False))
    assert not any(name.startswith("gradwatch") for name in trainer.callback_metrics)


# -- checkpoints ----------------------------------------------------------------------


def saved(tmp_path, ours):
    """Train an epoch and return the checkpoint's path."""
    _, trainer = fit(tmp_path, ours, max_epochs=1)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def resumed(tmp_path, path, ours):
    """Train a second epoch from a checkpoint."""
    torch.manual_seed(1)
    module = module_class()()
    trainer_of(tmp_path, [ours] if ours else []).fit(module, data(), ckpt_path=path)
    return module


def test_a_checkpoint_carries_the_report_to_the_run_that_resumes(tmp_path):
    """`previous_report` is the one of the run before; what follows is unchanged."""
    path = saved(tmp_path, callback())
    ours = callback()
    watched = resumed(tmp_path, path, ours)
    assert ours.previous_report.run.steps == BATCHES
    assert ours.previous_report.findings[0].code == "GW101"
    assert ours.report.run.steps == BATCHES
    with warnings.catch_warnings():
        # Lightning: the checkpoint holds the state of a callback that is not there.
        warnings.simplefilter("ignore", UserWarning)
        assert same_weights(watched, resumed(tmp_path, path, None))


def test_a_checkpoint_without_our_state_resumes(tmp_path):
    """A run that was not watched before can be from now on."""
    path = saved(tmp_path, None)
    ours = callback()
    resumed(tmp_path, path, ours)
    assert ours.previous_report is None
    assert ours.report.run.steps == BATCHES


def test_a_report_that_cannot_be_read_is_no_reason_not_to_resume():
    """A newer gradwatch wrote it: a warning says so."""
    ours = callback()
    with pytest.warns(gradwatch.GradWatchWarning, match="the checkpoint's report"):
        ours.load_state_dict({"report": "{}"})
    assert ours.previous_report is None


# -- trials ---------------------------------------------------------------------------


def test_recommendations_are_tried_with_the_modules_own_training_step(tmp_path):
    """The report shows what a trial measured; the module is as it was."""
    start = net()
    plain, _ = fit(tmp_path, None, start, max_epochs=4)
    ours = callback(trial=True)
    tried, _ = fit(tmp_path, ours, start, max_epochs=4)
    assert same_weights(plain, tried)
    results = [r.trial for r in ours.report.recommendations if r.trial is not None]
    assert results
    assert all(r.verdict is not gradwatch.Verdict.FAILED for r in results)
    assert any(r.how == "training" for r in results)


def test_batches_for_a_trial_are_bounded(tmp_path):
    """No batch is held beyond `capture_limit`; the user is told what to raise."""
    ours = callback(trial=True, settings={"capture_limit": 100})
    with pytest.warns(gradwatch.GradWatchWarning, match="`capture_limit` \\(=100\\)"):
        fit(tmp_path, ours)
    assert all(r.trial is None for r in ours.report.recommendations)


def test_manual_optimization_says_that_nothing_was_tried(tmp_path):
    """A manual training step would step the user's own optimizers."""
    torch.manual_seed(0)
    module, ours = gan_class()(), callback(trial=True)
    with torch.no_grad():
        for layer in (0, 2, 4):
            module.critic[layer].weight.mul_(1e-4)
    trainer = trainer_of(tmp_path, [ours], max_epochs=3)
    with pytest.warns(gradwatch.GradWatchWarning, match="needs automatic optimization"):
        trainer.fit(module, data())
    assert ours.report.recommendations


# -- arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"act": "explode"}, "`act` \\(='explode'\\)"),
        ({"aliases": {"D": "x"}}, "`aliases` \\(='D'\\)"),
        ({"settings": {"evry": 3}}, "evry"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(options, text):
    """When the callback is made, with the value and what was expected."""
    with pytest.raises(gradwatch.SettingsError, match=text):
        callback(**options)


CONFIG = """
seed_everything: 1
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: gradwatch.integrations.lightning.GradWatchCallback
      init_args:
        act: warn
        console: null
        ignore: [GW302]
        settings: {vanishing_decades: 99.0}
        aliases: {gradwatch/grad_norm/total: grad_2.0_norm_total}
"""


def test_the_command_line_of_lightning_builds_it_from_yaml(tmp_path, monkeypatch):
    """Every argument is plain, so a file can set it."""
    pytest.importorskip("jsonargparse", reason="LightningCLI needs jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    monkeypatch.setenv("PL_GLOBAL_SEED", "1")  # the CLI sets it; taken back afterwards
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    cli = LightningCLI(
        module_class(),
        run=False,
        save_config_callback=None,
        args=["--config", str(config)],
    )
    (ours,) = [c for c in cli.trainer.callbacks if hasattr(c, "previous_report")]
    with pytest.warns(gradwatch.GradWatchWarning, match="GW105"):
        cli.trainer.fit(cli.model, data())
    assert ours.report.settings["vanishing_decades"] == 99.0
    assert "grad_2.0_norm_total" in cli.trainer.callback_metrics
