"""Small fits by Lightning's Trainer, for the tests of its callback."""

import copy
import importlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 6


def net(depth=10, activation=nn.Sigmoid):
    """Return a deep net; of sigmoids, a sick one."""
    hidden = [m for _ in range(depth) for m in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*hidden, nn.Dropout(0.1), nn.Linear(16, 4))


def module_class(package="lightning.pytorch"):
    """Return a LightningModule class of a package."""
    base = importlib.import_module(package).LightningModule

    class Classifier(base):
        def __init__(self, model=None, optimizer="adam", direct=False):
            super().__init__()
            self.model = model if model is not None else net()
            self.optimizer_name = optimizer
            self.direct = direct

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self.model(x) if self.direct else self(x)
            loss = nn.functional.cross_entropy(logits, y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            if self.optimizer_name == "sgd":
                return torch.optim.SGD(self.parameters(), lr=0.1)
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    return Classifier


def data(size=16):
    """Return the same six batches every time."""
    generator = torch.Generator().manual_seed(1)
    count = BATCHES * size
    x = torch.randn(count, 16, generator=generator)
    y = torch.randint(4, (count,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=size)


def trainer_of(tmp_path, callbacks, package="lightning.pytorch", **options):
    """Return a quiet Trainer."""
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": tmp_path,
    }
    trainer = importlib.import_module(package).Trainer
    return trainer(callbacks=callbacks, **{**defaults, **options})


def callback(**options):
    """Return a silent callback."""
    from gradwatch.integrations.lightning import GradWatchCallback

    return GradWatchCallback(**{"console": None, **options})


def fit(tmp_path, ours=None, model=None, package="lightning.pytorch", **options):
    """Train a classifier, with a callback of ours or without, and return it."""
    torch.manual_seed(0)
    kind = {k: options.pop(k) for k in ("optimizer", "direct") if k in options}
    module = module_class(package)(copy.deepcopy(model), **kind)
    callbacks = [] if ours is None else [ours]
    trainer = trainer_of(tmp_path, callbacks, package, **options)
    trainer.fit(module, data())
    return module, trainer


def same_weights(first, second):
    """Whether two modules are equal to the last bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def gan_class(package="lightning.pytorch"):
    """Return a module that steps two optimizers by hand."""
    base = importlib.import_module(package).LightningModule

    class Gan(base):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.critic_losses = []
            self.maker = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16))
            widths = ((16, 16), (16, 16), (16, 1))
            layers = [m for w in widths for m in (nn.Linear(*w), nn.Tanh())]
            self.critic = nn.Sequential(*layers[:-1])

        def training_step(self, batch, batch_idx):
            x, _ = batch
            first, second = self.optimizers()
            fake = self.maker(torch.randn(len(x), 4))
            loss = (self.critic(fake.detach()) - self.critic(x)).mean()
            self.critic_losses.append(loss.item())
            first.zero_grad()
            self.manual_backward(loss)
            first.step()
            second.zero_grad()
            self.manual_backward(-self.critic(fake).mean())
            second.step()

        def configure_optimizers(self):
            return (
                torch.optim.Adam(self.critic.parameters(), lr=1e-3),
                torch.optim.Adam(self.maker.parameters(), lr=1e-3),
            )

    return Gan
