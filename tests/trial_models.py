"""Networks, batches and stand-in remedies for the tests of trials."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradwatch import prescription
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Risk
from gradwatch.remedies.base import Remedy


class Noisy(nn.Module):
    """Dropout and batch norm: random numbers and buffers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x, *, scale=1.0):
        return {"logits": self.head(self.body(x * scale))}


class Recurrent(nn.Module):
    """An LSTM with dropout between its layers."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 8, 2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x.unsqueeze(1).expand(-1, 5, -1))[0][:, -1])


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x).tanh()).relu())


MODELS = [Noisy, Recurrent, Tied]


def deep(depth=10, width=32, activation=nn.Sigmoid):
    """Return a plain deep net; with sigmoids its gradient fades by 7 decades."""
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def deep_batches(count=8, width=32):
    """Return batches of a task that a sound net learns in a hundred steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32 * count, width, generator=generator)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    return list(zip(x.split(32), y.split(32), strict=True))


def batches(count=4):
    """Return small batches for `MODELS`."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(7, 6, generator=generator),
            torch.randint(3, (7,), generator=generator),
        )
        for _ in range(count)
    ]


def loss_fn(model, batch):
    """Return the cross-entropy of a batch."""
    output = model(batch[0])
    return F.cross_entropy(
        output["logits"] if isinstance(output, dict) else output, batch[1]
    )


class Nothing(Remedy):
    """Changes nothing."""

    name, summary, risk = "nothing", "Nothing.", Risk.SAFE

    def propose(self, case):
        return ()


class Cure(Nothing):
    """ReLU and He weights for a plain deep net."""

    name = "cure"

    def apply(self, editor, recommendation):
        for name, module in list(editor.model.named_modules()):
            if isinstance(module, nn.Sigmoid):
                editor.replace(name, nn.ReLU())
            if isinstance(module, nn.Linear):
                editor.fill(name, "weight", nn.init.kaiming_normal_, "He")


class Harm(Nothing):
    """Weights a hundred times smaller."""

    name = "harm"

    def apply(self, editor, recommendation):
        for name, module in list(editor.model.named_modules()):
            if isinstance(module, nn.Linear):
                editor.fill(name, "weight", lambda w: w.mul_(0.01), "/100")


class Rate(Nothing):
    """Another learning rate."""

    name = "rate"

    def recipe(self, recommendation):
        return Recipe(lr_factor=recommendation.options["factor"])


class Broken(Nothing):
    """Raises."""

    name = "broken"

    def apply(self, editor, recommendation):
        raise RuntimeError("cannot be done")


REMEDIES = (Nothing(), Cure(), Harm(), Rate(), Broken())


def use_remedies(monkeypatch):
    """Put the remedies of this file in the place of gradwatch's."""
    monkeypatch.setattr(prescription, "all_remedies", lambda: REMEDIES)


def recommend(name, answers=("GW101",), **options):
    """Return a recommendation of one of the remedies above."""
    return Recommendation(
        remedy=name,
        title=name,
        answers=answers,
        layers=(),
        why="",
        code="",
        risk=Risk.SAFE,
        options=options,
        can_apply=options.pop("can_apply", True),
    )
