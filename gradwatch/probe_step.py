"""What a probe reads at the optimizer step: gradients, updates, units, time, loss."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor
from torch.nn.parameter import is_lazy

from gradwatch.ledger import Ledger
from gradwatch.losses import recognise_loss
from gradwatch.probe_entries import ActivationEntry, ParameterEntry, UnitMemory
from gradwatch.recurrent import RecurrentCapture, Replayed, replay
from gradwatch.settings import Settings
from gradwatch.statistics import (
    Sampled,
    applied_update,
    equal_rows,
    exact_norms,
    plain,
    sample_parameter,
    sample_parameters,
    zero_share,
)

#: Recurrent calls replayed a probe: a model with more of them shows the first ones.
_MAX_REPLAYS = 4


class StepReadings:
    """Readings around one optimizer step, booked in the probe's ledger.

    Args:
        ledger: The probe's ledger.
        settings: Limits of what is read.
        units: Memory of inactive units, kept from probe to probe.
    """

    def __init__(self, ledger: Ledger, settings: Settings, units: UnitMemory) -> None:
        self.ledger = ledger
        self.parameters: dict[str, ParameterEntry] = {}
        self.profiles: list[tuple[Replayed, int]] = []
        self._limit = settings.update_entries
        self._window = settings.dead_window
        self._units = units
        self._early: dict[str, Sampled] = {}

    def sample_early(self, parameters: Mapping[str, Tensor]) -> None:
        """Sample the weights when the probe begins.

        `watch.step()` may be called after the update: only then is it too late to see
        the weights as they were.

        Args:
            parameters: Watched parameters by name.
        """
        for name, parameter in parameters.items():
            if not is_lazy(parameter):
                before = sample_parameter(parameter, self._limit)
                if before is not None:
                    self._early[name] = before

    def read_gradients(
        self, parameters: Mapping[str, Tensor], owned: set[int] | None, zeros: bool
    ) -> None:
        """Read gradients and a sample of the weights before an optimizer step.

        Args:
            parameters: Watched parameters by name.
            owned: Ids of the parameters of the optimizer that steps; None for all.
            zeros: Whether to count exactly zero entries (16-bit training).
        """
        chosen = []
        trained = []
        for name, parameter in parameters.items():
            if owned is not None and id(parameter) not in owned:
                continue
            if is_lazy(parameter):
                continue
            layer = name.split(".parametrizations.")[0].split("parametrizations.")[0]
            if layer == name:
                layer = sys.intern(name.rpartition(".")[0])  # kept in each probe
            entry = ParameterEntry(name, layer, parameter)
            self.parameters[name] = entry
            if not parameter.requires_grad or not parameter.is_leaf:
                continue
            trained.append(entry)
            grad = None if parameter.grad is None else plain(parameter.grad)
            if grad is not None:
                chosen.append((entry, grad))
        self._sample(trained)
        norms = exact_norms([grad for _, grad in chosen])
        for (entry, grad), norm in zip(chosen, norms, strict=True):
            entry.grad = self.ledger.add(norm)
            if zeros:
                entry.zeros = self.ledger.add(zero_share(grad))

    def _sample(self, entries: Sequence[ParameterEntry]) -> None:
        """Book the weights as they are before the step."""
        samples = sample_parameters([e.parameter for e in entries], self._limit)
        for entry, sample in zip(entries, samples, strict=True):
            entry.before = self._early.get(entry.name) or sample
            if entry.before is not None:
                entry.before_norm = self.ledger.add(entry.before.norm)
                entry.entries = entry.before.entries.numel()
                entry.equal_rows = self.ledger.add(equal_rows(entry.parameter))

    def read_early_updates(self) -> None:
        """Read what was applied since the probe began, where it was sampled then."""
        for name, entry in self.parameters.items():
            if name not in self._early:
                entry.before = None
        self.read_updates()

    def read_updates(self) -> None:
        """Read what the optimizer applied."""
        waiting, changes = [], []
        for entry in self.parameters.values():
            if entry.before is None or entry.update is not None:
                continue
            change = applied_update(entry.before, entry.parameter, self._limit)
            entry.before = None
            if change is not None:
                waiting.append(entry)
                changes.append(change)
        for entry, norm in zip(waiting, exact_norms(changes), strict=True):
            entry.update = self.ledger.add(norm)

    def replay_recurrent(self, captures: Sequence[RecurrentCapture]) -> None:
        """Book the time profiles; runs before the step, with the weights unchanged."""
        for capture in captures[:_MAX_REPLAYS]:
            for profile in replay(capture):
                ticket = self.ledger.add(profile.norms)
                if ticket is not None:
                    self.profiles.append((profile, ticket))

    def read_units(self, activations: Sequence[ActivationEntry]) -> None:
        """Count inactive units over the window, once a probe."""
        masks: dict[tuple[str, str, int], Tensor] = {}
        kept: dict[tuple[str, str, int], ActivationEntry] = {}
        for entry in activations:
            if entry.active is None:
                continue
            key = (entry.layer, entry.activation, entry.call)
            if key in masks and masks[key].shape == entry.active.shape:
                masks[key] = masks[key] | entry.active
            else:
                masks[key] = entry.active
            kept[key] = entry
            entry.active = None
        for key, entry in kept.items():
            idle, entry.window = self._units.update(key, masks[key], self._window)
            entry.dead = self.ledger.add(idle.sum())
            entry.idle = idle

    def read_loss(
        self, outputs: Iterable[tuple[Tensor, Sequence[Tensor]]]
    ) -> int | None:
        """Recognise the loss from the root's output and its gradient."""
        for tensor, cotangents in outputs:
            if cotangents and tensor.is_floating_point():
                value = recognise_loss(tensor, cotangents[-1])
                if value is not None:
                    return self.ledger.add(value)
        return None
