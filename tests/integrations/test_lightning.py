"""The Lightning callback: harmless, right, and at home in both packages."""

import copy
import importlib
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradwatch
from gradwatch.integrations.scalars import NAMES

pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboardX.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*`Trainer.fit` stopped.*"),
    # torch's scaler without a GPU
    pytest.mark.filterwarnings("ignore:.*CUDA is not available.*"),
]


def net(depth=10, activation=nn.Sigmoid):
    """Return a deep net; of sigmoids, a sick one."""
    hidden = [m for _ in range(depth) for m in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*hidden, nn.Linear(16, 4))


def module_class(package):
    """Return a LightningModule class of a package."""
    base = importlib.import_module(package).LightningModule

    class Classifier(base):
        def __init__(self, model=None, optimizer="adam", direct=False):
            super().__init__()
            self.model = model if model is not None else net()
            self.optimizer_name = optimizer
            self.direct = direct
            self.losses = []

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self.model(x) if self.direct else self(x)
            loss = nn.functional.cross_entropy(logits, y)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val", nn.functional.cross_entropy(self(x), y))

        def configure_optimizers(self):
            if self.optimizer_name == "sgd":
                return torch.optim.SGD(self.parameters(), lr=0.1)
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    return Classifier


def data(count=96, size=16):
    """Return the same batches every time."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 16, generator=generator)
    return DataLoader(
        TensorDataset(x, torch.randint(4, (count,), generator=generator)),
        batch_size=size,
    )


def trainer_of(package, tmp_path, callbacks, **options):
    """Return a quiet Trainer."""
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return importlib.import_module(package).Trainer(
        callbacks=callbacks, **{**defaults, **options}
    )


def callback(**options):
    """Return a silent callback."""
    from gradwatch.integrations.lightning import GradWatchCallback

    return GradWatchCallback(**{"console": None, **options})


def fit(tmp_path, *, watched=True, package="lightning.pytorch", model=None, **options):
    """Train a classifier and return it with the callback."""
    torch.manual_seed(0)
    act = options.pop("callback_options", {})
    kind = {k: options.pop(k) for k in ("optimizer", "direct") if k in options}
    module = module_class(package)(copy.deepcopy(model), **kind)
    ours = callback(**act)
    trainer = trainer_of(package, tmp_path, [ours] if watched else [], **options)
    trainer.fit(module, data(), options.get("val_dataloaders"))
    return module, ours, trainer


def same_weights(first, second):
    """Whether two modules are equal to the last bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("direct", [False, True], ids=["self(x)", "self.model(x)"])
def test_both_packages_find_the_sick_layers(tmp_path, package, direct):
    """Whichever the Trainer is from, and whether or not the root is called."""
    pytest.importorskip(package)
    _, ours, _ = fit(tmp_path, package=package, direct=direct)
    codes = {finding.code for finding in ours.report.findings}
    assert "GW101" in codes
    assert ours.report.run.steps == 12
    assert ours.report.run.loss_known
    assert ours.report.findings[0].layers[0].startswith("model.")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd"},
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"max_epochs": 1, "limit_train_batches": 3},
        {"fast_dev_run": True},
    ],
    ids=str,
)
def test_training_is_bit_identical_with_the_callback(tmp_path, options):
    """Weights at the end are the same to the last bit."""
    start = net(4, nn.Tanh)
    plain, _, _ = fit(tmp_path, watched=False, model=start, **options)
    watched, ours, _ = fit(tmp_path, watched=True, model=start, **options)
    assert same_weights(plain, watched)
    assert ours.report.run.failure == ""


def test_statistics_are_those_of_a_plain_loop(tmp_path):
    """The same numbers to the last digit, probe by probe."""
    start = net(4, nn.Tanh)
    _, ours, _ = fit(
        tmp_path, model=start, optimizer="sgd", callback_options={"every": 3}
    )
    torch.manual_seed(0)
    module = module_class("lightning.pytorch")(copy.deepcopy(start), "sgd")
    optimizer = module.configure_optimizers()
    with gradwatch.watch(module, console=None, every=3) as watch:
        for _ in range(2):
            for x, y in data():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(module(x), y)
                watch.log(loss=loss)
                loss.backward()
                optimizer.step()
    plain, lightning = watch.history, ours.watch.history
    assert [p.step for p in plain.probes] == [p.step for p in lightning.probes]
    for a, b in zip(plain.probes, lightning.probes, strict=True):
        assert a.layers == b.layers
        assert a.parameters == b.parameters
        assert a.chains == b.chains
        assert a.loss == b.loss
    for a, b in zip(plain.pulses, lightning.pulses, strict=True):
        assert (a.grad_norm, a.loss, a.clip_factor) == (
            b.grad_norm,
            b.loss,
            b.clip_factor,
        )


def test_the_norm_is_read_before_clipping(tmp_path):
    """What `gradient_clip_val` cut off is told apart."""
    options = {"optimizer": "sgd", "callback_options": {"every": 1}}
    start = net(3, nn.Tanh)
    _, free, _ = fit(tmp_path, model=start, max_epochs=1, **options)
    _, clipped, _ = fit(
        tmp_path, model=start, max_epochs=1, gradient_clip_val=1e-3, **options
    )
    first = clipped.watch.history.pulses[0]
    assert first.grad_norm == free.watch.history.pulses[0].grad_norm
    assert first.step_grad_norm == pytest.approx(1e-3, rel=1e-3)


def test_micro_batches_are_one_step_with_the_loss_of_all(tmp_path):
    """Three batches a step; its loss is their mean."""
    _, ours, _ = fit(
        tmp_path,
        model=net(3, nn.Tanh),
        accumulate_grad_batches=3,
        callback_options={"every": 1},
        max_epochs=1,
        optimizer="sgd",
    )
    assert ours.report.run.steps == 2
    torch.manual_seed(0)
    module = module_class("lightning.pytorch")(net(3, nn.Tanh))
    del module
    assert ours.watch.history.pulses[0].loss == pytest.approx(1.386, abs=0.3)


def test_sanity_checking_is_not_watched(tmp_path):
    """Validation before the first step is no training forward."""
    torch.manual_seed(0)
    module = module_class("lightning.pytorch")(net(3, nn.Tanh))
    ours = callback(every=1)
    trainer = trainer_of(
        "lightning.pytorch", tmp_path, [ours], num_sanity_val_steps=2, max_epochs=1
    )
    trainer.fit(module, data(), data(32))
    assert [probe.step for probe in ours.watch.history.probes] == list(range(6))


class Gan(pl.LightningModule):
    """Two optimizers by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.maker = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16))
        self.critic = nn.Sequential(
            nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
        )

    def training_step(self, batch, batch_idx):
        x, _ = batch
        first, second = self.optimizers()
        fake = self.maker(torch.randn(len(x), 4))
        first.zero_grad()
        self.manual_backward((self.critic(fake.detach()) - self.critic(x)).mean())
        first.step()
        second.zero_grad()
        self.manual_backward(-self.critic(fake).mean())
        second.step()

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.critic.parameters(), lr=1e-3),
            torch.optim.Adam(self.maker.parameters(), lr=1e-3),
        )


def test_manual_optimization_with_two_optimizers(tmp_path):
    """The clock is the larger one; both are read; nothing changes."""

    def train(callbacks):
        torch.manual_seed(0)
        module = Gan()
        trainer_of("lightning.pytorch", tmp_path, callbacks, max_epochs=1).fit(
            module, data()
        )
        return module

    ours = callback(every=1)
    assert same_weights(train([ours]), train([]))
    updates = {p.layer for p in ours.watch.history.latest.parameters if p.update_ratio}
    assert {"critic.0", "maker.0"} <= updates
    assert ours.report.run.steps == 6


def test_a_run_that_fails_still_gets_its_report(tmp_path, capsys):
    """An exception leaves the fit; the report comes, the hooks go."""

    class Breaks(module_class("lightning.pytorch")):
        def training_step(self, batch, batch_idx):
            if self.global_step == 4:
                raise RuntimeError("bad batch")
            return super().training_step(batch, batch_idx)

    module, ours = Breaks(), callback(console="end")
    trainer = trainer_of("lightning.pytorch", tmp_path, [ours])
    with pytest.raises(RuntimeError, match="bad batch"):
        trainer.fit(module, data())
    assert ours.report.run.steps == 4
    assert "GW101" in capsys.readouterr().err
    assert not any(m._forward_hooks for m in module.modules())


def test_stop_ends_the_fit_once_a_finding_is_confirmed(tmp_path):
    """Not the whole epoch: `trainer.should_stop` at the batch."""
    _, ours, trainer = fit(tmp_path, max_epochs=5, callback_options={"act": "stop"})
    assert trainer.global_step < 30
    assert ours.report.findings


def test_warn_tells_the_code_in_a_warning(tmp_path):
    """One Python warning, with the code and the sentence."""
    with pytest.warns(gradwatch.GradWatchWarning, match="GW101 vanishing-gradient"):
        fit(tmp_path, callback_options={"act": "warn"})


def test_a_healthy_net_is_left_to_train(tmp_path):
    """`stop` stops nothing where nothing is wrong."""
    _, ours, trainer = fit(
        tmp_path, model=net(3, nn.ReLU), callback_options={"act": "stop"}
    )
    assert trainer.global_step == 12
    assert ours.report.findings == ()


@pytest.mark.parametrize("package", PACKAGES)
def test_loggers_get_a_handful_of_stable_names(tmp_path, package):
    """At the steps of the probes, also where the Trainer logs every 50 only."""
    pytest.importorskip(package)
    loggers = importlib.import_module(f"{package}.loggers")
    logger = loggers.CSVLogger(tmp_path)
    torch.manual_seed(0)
    module = module_class(package)(net())
    trainer_of(package, tmp_path, [callback()], logger=logger).fit(module, data())
    logged = {key for row in logger.experiment.metrics for key in row} or set(
        (tmp_path / "lightning_logs/version_0/metrics.csv")
        .read_text()
        .split("\n")[0]
        .split(",")
    )
    ours = {name for name in logged if name.startswith("gradwatch/")}
    assert {"gradwatch/D_decades", "gradwatch/grad_norm/total"} <= ours <= set(NAMES)


def test_numbers_can_be_monitored_by_other_callbacks(tmp_path):
    """`callback_metrics` has them, as checkpoints and early stopping read them."""
    _, _, trainer = fit(tmp_path)
    assert float(trainer.callback_metrics["gradwatch/D_decades"]) > 2.0


def test_a_checkpoint_carries_the_report_to_the_run_that_resumes(tmp_path):
    """`previous_report` is the one of the run before."""
    torch.manual_seed(0)
    first = callback()
    trainer = trainer_of(
        "lightning.pytorch", tmp_path, [first], enable_checkpointing=True, max_epochs=1
    )
    trainer.fit(module_class("lightning.pytorch")(), data())
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    second = callback()
    trainer = trainer_of("lightning.pytorch", tmp_path, [second], max_epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module_class("lightning.pytorch")(), data(), ckpt_path=path)
    assert second.previous_report.run.steps == 6
    assert second.report.run.steps == 6


@pytest.mark.parametrize("bar", ["tqdm", "rich"])
def test_progress_bars_are_never_torn(tmp_path, capsys, bar):
    """Alert and report stand on lines of their own."""
    from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

    bars = {"tqdm": TQDMProgressBar, "rich": RichProgressBar}
    torch.manual_seed(0)
    trainer_of(
        "lightning.pytorch",
        tmp_path,
        [callback(console="alerts"), bars[bar]()],
        enable_progress_bar=True,
    ).fit(module_class("lightning.pytorch")(), data())
    captured = capsys.readouterr()
    lines = (captured.err + captured.out).replace("\r", "\n").splitlines()
    alerts = [
        line for line in lines if "CRITICAL GW101" in line or "WARNING GW101" in line
    ]
    assert alerts
    assert all(
        line.lstrip().startswith(("gradwatch", "CRITICAL", "WARNING"))
        for line in alerts
    )
    assert sum("evidence" in line for line in lines) == 1


def test_recommendations_are_tried_with_the_modules_own_training_step(tmp_path):
    """The report shows what a trial measured; the module is as it was."""
    start = net()
    plain, _, _ = fit(tmp_path, watched=False, model=start, max_epochs=4)
    tried, ours, _ = fit(
        tmp_path, model=start, max_epochs=4, callback_options={"trial": True}
    )
    assert same_weights(plain, tried)
    results = [r.trial for r in ours.report.recommendations if r.trial is not None]
    assert results
    assert all(r.verdict is not gradwatch.Verdict.FAILED for r in results)
    assert any(r.how == "training" for r in results)


def test_manual_optimization_says_that_nothing_was_tried(tmp_path):
    """A manual training step would step the user's own optimizers."""
    module, ours = Gan(), callback(trial=True)
    with torch.no_grad():
        for layer in (0, 2, 4):
            module.critic[layer].weight.mul_(1e-4)
    trainer = trainer_of("lightning.pytorch", tmp_path, [ours], max_epochs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data())
    told = [w for w in caught if "manual" in str(w.message)]
    assert bool(told) == bool(ours.report.recommendations)


def test_wrong_arguments_are_named():
    """At once, with the value and what was expected."""
    with pytest.raises(gradwatch.SettingsError, match="`act` \\(='explode'\\)"):
        callback(act="explode")


def test_the_command_line_of_lightning_builds_it_from_yaml(tmp_path, monkeypatch):
    """The example of the guide, run."""
    pytest.importorskip("jsonargparse", reason="LightningCLI needs jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    monkeypatch.setattr("sys.argv", ["train.py"])
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer:\n"
        "  max_epochs: 1\n  accelerator: cpu\n  logger: false\n"
        "  enable_checkpointing: false\n  enable_progress_bar: false\n"
        "  callbacks:\n"
        "    - class_path: gradwatch.integrations.lightning.GradWatchCallback\n"
        "      init_args:\n"
        "        act: warn\n        console: null\n        ignore: [GW302]\n"
        "        settings: {vanishing_decades: 99.0}\n"
    )
    cli = LightningCLI(
        module_class("lightning.pytorch"),
        run=False,
        save_config_callback=None,
        args=["--config", str(config)],
    )
    cli.trainer.fit(cli.model, data())
    (ours,) = [
        c for c in cli.trainer.callbacks if type(c).__name__ == "GradWatchCallback"
    ]
    assert ours.act == "warn"
    assert ours.report.settings["vanishing_decades"] == 99.0
