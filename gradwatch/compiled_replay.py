"""Reads the inside of compiled regions: one eager forward and backward of a copy.

Inside a compiled graph no hook runs (facts A4). At a probe the captured inputs and the
gradient at the captured outputs go through an uncompiled copy, and what is measured
there fills the gaps of the probe's record, labelled so. Training does not see it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass, replace

import torch
from torch import nn

from gradwatch.capture import (
    NOTHING_YET,
    Capture,
    CapturedBatch,
    as_captured,
    cloned,
    outputs_of,
)
from gradwatch.errors import ModelError
from gradwatch.foreign_forward import foreign_forward
from gradwatch.graph_reading import GraphMemory
from gradwatch.history import History
from gradwatch.losses import own_loss
from gradwatch.observer import Observer
from gradwatch.probe_entries import UnitMemory
from gradwatch.ranks import world
from gradwatch.records import Coverage, StepRecord
from gradwatch.settings import Settings
from gradwatch.structure import Structure
from gradwatch.twin import make_twin, same_randomness
from gradwatch.watched_model import WatchedModel

READ_BY_REPLAY = "read by an eager replay on a copy"
_INPUTS = (
    "the model's inputs were not seen (its call is inside the graph: use "
    "`torch.compile(model)` instead of `model.compile()`)"
)
#: Share of the free memory that the copy with its gradients may take in `auto`.
_MEMORY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay measured, or why there was none.

    Attributes:
        record: Record of the copy's probe; None without one.
        structure: Structure of the copy.
        reason: Why there is no record.
    """

    record: StepRecord | None = None
    structure: Structure | None = None
    reason: str = ""

    def fill(self, record: StepRecord) -> StepRecord:
        """Return a probe's record with the inside of its compiled regions.

        What the probe saw itself stays, as do the parameters, which only it can know.

        Args:
            record: Record of the probe.

        Returns:
            The filled record; with the reason where nothing was replayed.
        """
        if self.record is None:
            return self._with_reason(record)
        inner = self.record
        own = {(layer.layer, layer.call): layer for layer in record.layers}
        layers = tuple(
            replace(own[key], order=layer.order) if key in own else layer
            for layer in inner.layers
            for key in [(layer.layer, layer.call)]
        )
        coverage, reasons = dict(record.coverage), dict(record.coverage_reasons)
        why = dict(inner.coverage_reasons)
        for name, state in inner.coverage:
            before = coverage.get(name, Coverage.NOT_SEEN)
            if before is Coverage.NOT_SEEN and state is not Coverage.NOT_SEEN:
                coverage[name] = state
                reasons[name] = "; ".join(filter(None, [READ_BY_REPLAY, why.get(name)]))
        seen = {(a.layer, a.activation, a.call) for a in record.activations}
        return replace(
            record,
            layers=layers,
            activations=(
                *record.activations,
                *(
                    a
                    for a in inner.activations
                    if (a.layer, a.activation, a.call) not in seen
                ),
            ),
            chains=inner.chains or record.chains,
            time_profiles=inner.time_profiles or record.time_profiles,
            loss=inner.loss if record.loss is None else record.loss,
            coverage=tuple(coverage.items()),
            coverage_reasons=tuple(reasons.items()),
            non_finite=record.non_finite or inner.non_finite,
            zero_init_downstream=(
                record.zero_init_downstream or inner.zero_init_downstream
            ),
            float16=record.float16 or inner.float16,
        )

    def _with_reason(self, record: StepRecord) -> StepRecord:
        reasons = {
            name: f"{why}; no replay on a copy: {self.reason}"
            if "compiled" in why
            else why
            for name, why in record.coverage_reasons
        }
        return replace(record, coverage_reasons=tuple(reasons.items()))


class CompiledReplay:
    """Replays of one watched model; what one learns of graphs the next one knows.

    Args:
        settings: Options of the watch.
        include: Which layers to measure.
        exclude: Which not.
    """

    def __init__(
        self,
        settings: Settings,
        include: tuple[str | type, ...],
        exclude: tuple[str | type, ...],
    ) -> None:
        self._settings = settings.model_copy(
            update={"capture_limit": 0, "nan_origin": "off", "pulse": False}
        )
        self._chosen = include, exclude
        self._graphs = GraphMemory()
        self._units = UnitMemory()

    def run(
        self, watched: WatchedModel, capture: Capture, step: int
    ) -> Replayed | None:
        """Replay the step whose gradients are there, before its update.

        Args:
            watched: The model. Copied, never changed.
            capture: What was captured of the step.
            step: Number of the step.

        Returns:
            What was measured, or why nothing was; None where nothing is compiled.
        """
        if not any(facts.compiled for facts in watched.facts.values()):
            return None
        if self._settings.compiled_replay == "off":
            return Replayed(reason="`compiled_replay` is off")
        model, batch = watched.model, capture.newest(step)
        if model is None or batch is None:
            known = capture.reason if capture.reason != NOTHING_YET else ""
            return Replayed(reason=known or _INPUTS)
        reason = self._why_not(model)
        if reason:
            return Replayed(reason=reason)
        try:
            with warnings.catch_warnings(), same_randomness(), torch.enable_grad():
                warnings.simplefilter("ignore")  # the user's forward warned already
                return self._replay(model, batch, step)
        except Exception as error:  # the user's forward, on a copy
            first = str(error).partition("\n")[0]
            return Replayed(reason=f"{type(error).__name__}: {first[:120]}")

    def _why_not(self, model: nn.Module) -> str:
        if world()[1] > 1:
            return "the copy of one process would wait for the others"
        if foreign_forward(model) is not None:
            return "its `forward` was replaced by a function that a copy would share"
        if self._settings.compiled_replay == "on":
            return ""
        tensors = [*model.parameters(), *model.buffers()]
        needed = 2 * sum(t.numel() * t.element_size() for t in tensors)
        free = free_memory(tensors[0].device)
        if free is not None and needed > _MEMORY_SHARE * free:
            return (
                f"the copy would take {needed / 2**20:.0f} MB, more than "
                f"{_MEMORY_SHARE:.0%} of the free memory (`compiled_replay` = on "
                "forces it)"
            )
        return ""

    def _replay(self, model: nn.Module, batch: CapturedBatch, step: int) -> Replayed:
        twin = make_twin(model, "a replay of compiled parts")
        history = History()
        include, exclude = self._chosen
        observer = Observer(
            twin, self._settings, history, lambda record: False, include, exclude
        )
        observer.lend(self._graphs, self._units)
        observer.attach(steps=False)
        try:
            self._backward(twin, batch)
            record = observer.probe_now()
        finally:
            observer.detach()
        failure = observer.hooks.failure
        if failure is not None or record is None:
            return Replayed(reason=(failure or "nothing was measured").splitlines()[-1])
        return Replayed(replace(record, step=step), observer.structure)

    def _backward(self, twin: nn.Module, batch: CapturedBatch) -> None:
        """Back-propagate what was back-propagated in the step."""
        args, kwargs = cloned((batch.args, batch.kwargs))
        with as_captured(batch, twin):
            output = twin(*args, **kwargs)
        loss = own_loss(output)
        if loss is not None:
            loss.backward()
            return
        outputs = outputs_of(output)
        if [t.shape for t in outputs] != [t.shape for t in batch.outputs]:
            raise ModelError(
                "the gradients at the model's outputs were not captured: they exceed "
                "`capture_limit`, or not all outputs are in the loss"
            )
        scale = 1.0 if batch.scale is None else batch.scale
        gradients = [
            (cotangent / scale).to(output.dtype)
            for output, cotangent in zip(outputs, batch.cotangents, strict=True)
        ]
        torch.autograd.backward(outputs, gradients)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where that is not known.

    Args:
        device: The device.

    Returns:
        Free bytes; of a GPU with what torch has reserved and does not use.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open("/proc/meminfo", encoding="ascii") as file,
    ):
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None
