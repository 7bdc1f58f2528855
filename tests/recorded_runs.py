"""Recorded runs that the tests of records and comparisons share."""

import weakref

import torch
from torch import nn

from gradwatch.anatomy import Anatomy
from gradwatch.detector import Detector
from gradwatch.report import Overhead
from gradwatch.run_facts import Seen, report_on
from gradwatch.runlog_format import FILE_NAME
from gradwatch.runlog_recording import RecordedHistory, start_record
from gradwatch.settings import Settings
from gradwatch.testing import make_pulses, make_step, make_structure


class FakeRun:
    """A watch without a model: hand-made probes, judged and recorded."""

    def __init__(self, folder, *, settings=None, structure=None, **options):
        self.settings = settings or Settings()
        self.recorder = start_record(folder, self.settings, model="Net", **options)
        weakref.finalize(self, self.recorder.close)
        self.history = RecordedHistory(self.settings, self.recorder)
        self.detector = Detector(self.settings, ignore=options.get("ignore", ()))
        self.structure = structure or make_structure()
        self.file = self.recorder.folder / FILE_NAME

    def pulse(self, step, **fields):
        """Add a pulse."""
        (record,) = make_pulses([1.0], start=step, **fields)
        self.history.add_pulse(record)

    def probe(self, step, **fields):
        """Add a probe, judge it, record it."""
        self.history.add_probe(make_step(step, **fields))
        self.detector.update(self.history, self.structure)
        self.record()

    def record(self):
        """Record the newest probe."""
        self.recorder.on_probe(self.history, self.structure, self.seen(), Anatomy)

    def seen(self):
        """Return what the detector knows."""
        return Seen(
            model="Net",
            name="Net",
            steps=self.history.last_step + 1,
            overhead=Overhead(share=0.01),
            standing=self.detector.standing,
            cleared=self.detector.cleared,
            ignored=len(self.detector.ignored),
        )

    def report(self):
        """Return the report."""
        sick = any(finding.severity > 1 for finding in self.detector.standing)
        return report_on(
            self.seen(),
            self.history,
            self.structure,
            self.settings,
            Anatomy() if sick else None,
        )

    def finish(self):
        """End the record and return it."""
        self.recorder.finish(self.history, self.seen(), self.report())
        return self.recorder.folder


def deep_mlp(activation=nn.Sigmoid, depth=10, seed=0):
    """Return a deep network and a batch; with sigmoids its gradient vanishes."""
    torch.manual_seed(seed)
    hidden = [m for _ in range(depth) for m in (nn.Linear(16, 16), activation())]
    model = nn.Sequential(*hidden, nn.Linear(16, 4))
    return model, torch.randn(64, 16), torch.randint(4, (64,))


def train(model, inputs, targets, steps=60, lr=0.1, after=None):
    """Train, and call `after(step)` after each step; return the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if after is not None:
            after(step)
    return losses
