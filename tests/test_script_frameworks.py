"""`gradwatch run` over scripts of three frameworks; none of them mentions gradwatch."""

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

NET = """
    import torch
    from torch import nn

    torch.manual_seed(0)
    hidden = [m for _ in range({depth}) for m in (nn.Linear(32, 32), nn.{act}())]
    net = nn.Sequential(*hidden, nn.Linear(32, 4))
    x, y = torch.randn(96, 32), torch.randint(4, (96,))
"""
PLAIN = """
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(4):
        for part in range(0, 96, 16):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[part:part+16]), y[part:part+16])
            loss.backward()
            optimizer.step()
"""
LIGHTNING = """
    import logging, warnings
    logging.disable()
    warnings.simplefilter("ignore")
    try:
        import lightning.pytorch as pl
    except ImportError:
        import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, index):
            inputs, targets = batch
            return nn.functional.cross_entropy(self.net(inputs), targets)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    pl.Trainer(
        max_epochs=4, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Module(), DataLoader(TensorDataset(x, y), batch_size=16))
"""
TRAINER = """
    import sys, warnings
    warnings.simplefilter("ignore")
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, inputs, labels):
            logits = self.net(inputs)
            return {{"loss": nn.functional.cross_entropy(logits, labels)}}

    data = [{{"inputs": a, "labels": b}} for a, b in zip(x, y)]
    Trainer(Model(), TrainingArguments(
        sys.argv[1], num_train_epochs=4, per_device_train_batch_size=16,
        learning_rate=0.05, optim="sgd", report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no", logging_strategy="no",
    ), train_dataset=data).train()
"""
END = """
    print([p.detach().double().sum().item().hex() for p in net.parameters()])
"""
LOOPS = {"plain": PLAIN, "lightning": LIGHTNING, "transformers": TRAINER}
SICK = {"depth": 10, "act": "Sigmoid"}
WELL = {"depth": 4, "act": "Tanh"}


SURROUNDINGS = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def start(command):
    """Start a process."""
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=SURROUNDINGS,
    )


@pytest.mark.slow
@pytest.mark.parametrize("framework", LOOPS)
def test_an_unmodified_script_is_watched_and_trains_the_same(
    python, tmp_path, framework
):
    """The report on stderr names the sickness, or finds none; the weights are equal."""
    if framework == "lightning" and not any(
        map(find_spec, ("lightning", "pytorch_lightning"))
    ):
        pytest.skip("Lightning is not installed")
    if framework == "transformers":
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
    commands = {}
    for name, net in (("sick", SICK), ("well", WELL)):
        body = textwrap.dedent(NET + LOOPS[framework] + END).format(**net)
        assert "gradwatch" not in body
        script = tmp_path / f"{name}.py"
        script.write_text(body)
        commands[f"{name} alone"] = [str(script), str(tmp_path)]
        commands[name] = ["-m", "gradwatch", "run", str(script), str(tmp_path)]
    done = {}
    if framework == "plain":  # nothing but torch to import, which this has done
        for name, command in commands.items():
            run = python.run(command, environment=SURROUNDINGS)
            done[name] = run.stdout, run.stderr, run
    else:
        runs = {name: start(command) for name, command in commands.items()}
        for name, run in runs.items():
            done[name] = *run.communicate(timeout=300), run
    for name, (_, errors, run) in done.items():
        assert run.returncode == 0, (name, errors)
    for name in ("sick", "well"):
        # Not the Trainer's summary, which holds seconds.
        weights = done[name][0].splitlines()[-1]
        assert weights.startswith("['")
        assert weights == done[f"{name} alone"][0].splitlines()[-1]
    assert "GW101 vanishing-gradient" in done["sick"][1]
    assert "GW101 vanishing" not in done["well"][1]
    assert "healthy" in done["well"][1].lower()
