"""Short runs that together reach what gradwatch does while a network trains."""

import contextlib
import io
import tempfile

import torch
from torch import nn

import gradwatch
from tests.harmless import generators, seed_generators, small_net, state_of


class Mixed(nn.Module):
    """A convolution, an LSTM and an MLP with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm1d(3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 2)
        )

    def forward(self, x):
        """Return one output a sequence."""
        x = self.norm(self.conv(x)).relu().transpose(1, 2)
        return self.head(self.lstm(x)[0][:, -1])


def sick_net():
    """Return a deep narrow net in which gradients vanish."""
    layers = []
    for _ in range(6):
        layers += [nn.Linear(4, 4), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    return model


def _train(model, shape, steps=4, broken=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(*shape)
        if step == broken:
            x[0] = float("nan")
        model(x).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [optimizer]


def _train_with_closure(model, shape):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    x = torch.randn(*shape)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return [optimizer]


class Run:
    """One way to train and to watch it.

    Args:
        make: Returns the model.
        train: `train(model)` runs the loop and returns the optimizers.
        options: Options of the watch.
        record: Whether a record is kept.
        by_hand: Whether steps and losses are told by hand.
    """

    def __init__(self, make, train, options, *, record=False, by_hand=False):
        self.make, self.train, self.options = make, train, options
        self.record, self.by_hand = record, by_hand
        self.model = None

    def unwatched(self):
        """Return the state that training leaves without gradwatch."""
        model = self._start()
        return _everything(model, self.train(model) or ())

    def watched(self, enter):
        """Train under a watch.

        Args:
            enter: `enter(phase)` is called as the run goes on.

        Returns:
            The model, the state before the end of the watch, the watch, the report.
        """
        model = self._start()
        told = []
        with contextlib.ExitStack() as stack:
            options = dict(self.options)
            if self.record:
                options["record"] = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            enter("watch")
            watch = gradwatch.watch(model, on_finding=told.append, **options)
            with watch:
                enter("loop")
                if self.by_hand:
                    optimizers = _by_hand(model, watch)
                else:
                    optimizers = self.train(model)
                enter("end")
                inside = watch.report() if self.record else None
            report = watch.report()
            enter("over")
            state = _everything(model, optimizers or ())
        assert inside is None or inside.run.model == report.run.model
        return model, state, watch, report

    def _start(self):
        seed_generators(0)
        model = self.model = self.make()
        torch.manual_seed(1)
        return model


def _by_hand(model, watch=None):
    """Train with a rule of our own instead of an optimizer."""
    for _ in range(4):
        for parameter in model.parameters():
            parameter.grad = None
        loss = model(torch.randn(3, 4)).square().mean()
        loss.backward()
        if watch is not None:
            watch.log(loss=loss)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.01)
        if watch is not None:
            watch.step()
    return []


def _everything(model, optimizers):
    return {
        **state_of(model, optimizers),
        **generators(),
        "grad mode": torch.is_grad_enabled(),
    }


#: Cheapest first: a function is broken in the first run that reaches it.
RUNS = {
    "plain": Run(
        small_net, lambda m: _train(m, (3, 4)), {"console": "alerts", "every": 1}
    ),
    "by hand": Run(small_net, _by_hand, {"console": None, "every": 1}, by_hand=True),
    "closure": Run(
        small_net,
        lambda m: _train_with_closure(m, (3, 4)),
        {"console": None, "every": 1},
    ),
    "resting": Run(
        small_net,
        lambda m: _train(m, (3, 4), steps=40),
        {
            "console": None,
            "settings": {
                "probe_steps": (0,),
                "budget_after": 1,
                "probe_every": 10,
                "pulse": False,
                "budget": 1.0,
            },
        },
    ),
    "broken": Run(
        small_net,
        lambda m: _train(m, (3, 4), broken=2),
        {"console": "alerts", "settings": {"probe_steps": (0, 3)}},
    ),
    "mixed": Run(Mixed, lambda m: _train(m, (3, 2, 5)), {"console": "end", "every": 1}),
    "sick": Run(
        sick_net,
        lambda m: _train(m, (6, 4), steps=5),
        {"console": "live", "every": 1, "name": "patient"},
    ),
    "recorded": Run(
        sick_net,
        lambda m: _train(m, (6, 4)),
        {"console": "end", "every": 1},
        record=True,
    ),
}
