"""Sudden jumps of the gradient norm, the loss and the updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from gradwatch.history import History
from gradwatch.records import PulseRecord
from gradwatch.rules.weight_updates import kept_update
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Fewest pulses before a median says what is usual (chosen, not measured).
_LEAST_BEFORE = 10
#: Fewest probes before a median update ratio says what is usual (chosen).
_LEAST_PROBES = 5
#: Pulses after a gradient spike in which the loss may confirm it (chosen).
_ECHO = 5
#: Pulses after a spike whose median loss says whether it has risen (chosen).
_AFTER = 20


@dataclass(frozen=True, slots=True)
class Spike:
    """One excursion, however many steps it lasts.

    Attributes:
        step: Its first optimizer step.
        quantity: What jumped.
        ratio: Its largest value over the running median.
        loss_rose: Whether the loss stayed higher afterwards; False if not known.
    """

    step: int
    quantity: str
    ratio: float
    loss_rose: bool = False


def _grad_norm(pulse: PulseRecord) -> float | None:
    if pulse.skipped or not pulse.finite or pulse.loss_scale is None:
        return None
    return pulse.grad_norm


def _loss(pulse: PulseRecord) -> float | None:
    return pulse.loss if not pulse.skipped else None


def spikes(history: History, structure: Structure, settings: Settings) -> list[Spike]:
    """Return the excursions of the last `spike_warning_steps` steps, by step.

    A gradient and a loss that jump in the same steps are one excursion.

    Args:
        history: What was measured.
        structure: Tells embeddings from weights.
        settings: The limits.

    Returns:
        The excursions, oldest first.
    """
    found = [
        *_pulse_spikes(history, settings, "gradient norm", _grad_norm),
        *_pulse_spikes(history, settings, "loss", _loss),
        *_update_spikes(history, structure, settings),
    ]
    since = history.last_step - settings.spike_warning_steps
    found = sorted(
        (spike for spike in found if spike.step > since), key=lambda spike: spike.step
    )
    merged: list[Spike] = []
    for spike in found:
        if merged and spike.step - merged[-1].step <= _ECHO:
            first = merged[-1]
            rose = first.loss_rose or spike.loss_rose
            larger = max(first, spike, key=lambda one: one.ratio)
            merged[-1] = Spike(first.step, larger.quantity, larger.ratio, rose)
        else:
            merged.append(spike)
    return merged


def _pulse_spikes(
    history: History,
    settings: Settings,
    quantity: str,
    read: Callable[[PulseRecord], float | None],
) -> list[Spike]:
    pulses = history.pulses
    since = history.last_step - settings.spike_warning_steps
    early = history.early_grad_norm if read is _grad_norm else history.first_loss
    floor = settings.spike_floor * early if early is not None and early > 0 else 0.0
    found: list[Spike] = []
    inside = False
    for index, pulse in enumerate(pulses):
        value = read(pulse)
        if value is None or not math.isfinite(value) or pulse.step <= since:
            continue
        usual = history.running_median(index, settings.spike_window, read)
        known = usual is not None and usual > 0 and index >= _LEAST_BEFORE
        if not known or usual is None:
            continue
        ratio = value / usual
        if ratio <= settings.spike_ratio:
            inside = False
            continue
        if inside:
            found[-1] = replace(found[-1], ratio=max(found[-1].ratio, ratio))
        elif value >= floor and not _is_noise(pulses, index, history, settings):
            rose = _loss_rose(pulses, index, history, settings)
            found.append(Spike(pulse.step, quantity, ratio, rose))
            inside = True
    return found


def _is_noise(
    pulses: tuple[PulseRecord, ...], index: int, history: History, settings: Settings
) -> bool:
    """Whether the loss is known around the jump and stays small: nothing happened."""
    losses = [_loss(pulse) for pulse in pulses[index : index + _ECHO + 1]]
    known = [loss for loss in losses if loss is not None]
    if not known or history.first_loss is None or history.first_loss <= 0:
        return False
    return all(loss < settings.spike_floor * history.first_loss for loss in known)


def _loss_rose(
    pulses: tuple[PulseRecord, ...], index: int, history: History, settings: Settings
) -> bool:
    """Whether the loss stays higher after the jump than it was before."""
    before = history.running_median(index, settings.spike_window, _loss)
    after = [_loss(pulse) for pulse in pulses[index + 1 : index + 1 + _AFTER]]
    known = [loss for loss in after if loss is not None]
    first = history.first_loss
    if before is None or before <= 0 or first is None or len(known) < _ECHO:
        return False
    if any(not math.isfinite(loss) for loss in known):
        return True
    level = median(known)
    return level >= max(settings.spike_loss_rise * before, settings.spike_floor * first)


def _update_spikes(
    history: History, structure: Structure, settings: Settings
) -> list[Spike]:
    """Return probes whose update ratio for its learning rate jumps."""
    usual: list[float] = []
    found: list[Spike] = []
    for probe in history.probes:
        update = kept_update(probe, history, structure)
        if update is None or not probe.lr:
            continue
        value = update / probe.lr
        if len(usual) >= _LEAST_PROBES and median(usual) > 0:
            ratio = value / median(usual)
            if ratio > settings.spike_ratio and update >= settings.min_update_ratio:
                found.append(Spike(probe.step, "applied update", ratio))
                continue
        usual.append(value)
    return found
