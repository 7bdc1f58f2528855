"""Turns what the hooks see into records: steps, pulses, probes, their rhythm."""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradwatch.history import History
from gradwatch.hooks import HookManager
from gradwatch.layers import ModuleFacts, clean_name, describe, matches, walk
from gradwatch.nan_origin import LastForward, replay_forward
from gradwatch.probe import Probe
from gradwatch.probe_entries import UnitMemory
from gradwatch.probe_record import ProbeContext, build_record
from gradwatch.pulse import PulseReader, PulseReading
from gradwatch.records import NonFiniteOrigin, PulseRecord, StepRecord
from gradwatch.rhythm import Rhythm
from gradwatch.settings import Settings
from gradwatch.statistics import Pending, plain
from gradwatch.structure import Structure

#: Steps a watch waits for its clock optimizer before another one becomes the clock.
_CLOCK_PATIENCE = 3


@dataclass(slots=True)
class _PendingPulse:
    step: int
    reading: PulseReading
    loss: float | None
    lr: float | None
    skipped_before: bool


@dataclass(slots=True)
class _PendingProbe:
    probe: Probe
    pending: Pending
    context: ProbeContext
    seconds: float


class Observer:
    """Events of one watched model, in; records, out.

    Args:
        model: The watched module; held weakly.
        settings: Options.
        history: Receives pulses and probes.
        on_probe: Called after a probe was added to the history.
        include: Name patterns or module types of the layers to measure; None for all.
        exclude: The same, of layers to leave out.
        scaler: Gradient scaler, where it cannot be found from the calling frames.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        history: History,
        on_probe: Callable[[StepRecord], bool],
        include: tuple[str | type, ...] = (),
        exclude: tuple[str | type, ...] = (),
        scaler: Any = None,
    ) -> None:
        self.settings = settings
        self.history = history
        self.structure = Structure()
        self.rhythm = Rhythm(settings)
        self.hooks = HookManager(model, self)
        self.step = 0
        self.started = time.perf_counter()
        self.seconds = 0.0
        self.seconds_after = 0.0
        self.started_after: float | None = None
        self.last_event = self.started
        self.optimizers: list[weakref.ref[Optimizer]] = []
        #: Class names of optimizers that stepped and own nothing here.
        self.foreign_optimizers: set[str] = set()
        self.num_probes = 0
        self.loss_scale: float | None = None
        self._model = weakref.ref(model)
        self._on_probe = on_probe
        self._include = include
        self._exclude = exclude
        self._scaler = scaler
        self._scaler_sought = scaler is not None
        self._units = UnitMemory()
        self._facts: dict[int, ModuleFacts] = {}
        # Weak: a watch keeps neither the model nor its parameters alive.
        self._modules: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self._parameters: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        self._watched: frozenset[int] = frozenset()
        self._owned: dict[int, tuple[weakref.ref[Optimizer], int, frozenset[int]]] = {}
        self._optimizer_kinds: dict[str, None] = {}
        self._in_optimizer: set[int] = set()
        self._clock: weakref.ref[Optimizer] | None = None
        self._clock_missed = 0
        self._probe: Probe | None = None
        self._probe_seconds = 0.0
        self._reading: PulseReading | None = None
        self._pulses = PulseReader([])
        self._pulsed: tuple[tuple[str, int], ...] = ()
        self._pending_pulses: deque[_PendingPulse] = deque()
        self._pending_probes: deque[_PendingProbe] = deque()
        self._loss: float | Tensor | None = None
        self._last = LastForward()
        self._pulse_wanted = True
        self._follow_tries = 0
        self._zero_at_attach: frozenset[str] = frozenset()
        self._origin: NonFiniteOrigin | None = None

    # -- lifecycle ----------------------------------------------------------------

    def attach(self) -> None:
        """Attach the hooks and arm the first probe."""
        self.hooks.attach()
        self.hooks.guard(self._resolve)
        self.hooks.guard(self._note_zero_parameters)
        self.hooks.guard(self._follow)
        if self.rhythm.wants_probe(0):
            self.hooks.guard(self._arm)

    def detach(self) -> None:
        """Deliver what is under way and remove every hook."""
        self.hooks.guard(self._deliver, True)
        self.hooks.detach()
        self._release()

    def on_failure(self) -> None:
        """Let go of everything after an error of ours."""
        self._release()

    def _release(self) -> None:
        if self._probe is not None:
            self._probe.drop_references()
        self._probe = None
        self._reading = None
        self._pulses.drop()
        self._last = LastForward()

    @property
    def optimizer_names(self) -> tuple[str, ...]:
        """Class names of the optimizers that stepped, the clock first."""
        clock = self._clock() if self._clock is not None else None
        alive = [o for o in (ref() for ref in self.optimizers) if o is not None]
        alive.sort(key=lambda optimizer: optimizer is not clock)
        if not alive:  # the function that made them has returned
            return tuple(self._optimizer_kinds)
        return tuple(type(optimizer).__name__ for optimizer in alive)

    @property
    def device(self) -> str:
        """Devices of the parameters."""
        kinds = dict.fromkeys(str(p.device) for p in self._parameters.values())
        return ", ".join(kinds) or self._device

    _device = ""
    _random = True

    @property
    def attached(self) -> bool:
        """Whether hooks are on."""
        return self.hooks.attached

    # -- what is watched ----------------------------------------------------------

    def _resolve(self) -> None:
        """Look the modules and parameters up again: they may have been replaced."""
        model = self._model()
        if model is None:
            return
        self._facts = {}
        self._modules = WeakValueDictionary()
        for name, module, compiled in walk(model):
            facts = describe(name, module, compiled=compiled)
            if self._chosen(facts.name, module):
                self._facts[id(module)] = facts
                self._modules[facts.name] = module
        parameters = {
            clean_name(name): parameter
            for name, parameter in model.named_parameters()
            if self._chosen_parameter(clean_name(name))
        }
        ids = frozenset(map(id, parameters.values()))
        if ids != self._watched:
            self._watched = ids
            self._owned.clear()
        trainable = {
            name: p
            for name, p in parameters.items()
            if p.requires_grad and not is_lazy(p)
        }
        # Unfrozen, replaced and lazy parameters change what a pulse reads.
        key = tuple((name, id(p)) for name, p in trainable.items())
        if key != self._pulsed:
            self._pulsed = key
            self._pulses = PulseReader(list(trainable.values()))
        self._parameters = WeakValueDictionary(parameters)
        self._device = self.device
        self._random = any("Dropout" in facts.kind for facts in self._facts.values())

    def _chosen(self, name: str, module: nn.Module) -> bool:
        if name == "":
            return True
        if self._include and not matches(self._include, name, module):
            return next(module.children(), None) is not None
        return not matches(self._exclude, name, module)

    def _chosen_parameter(self, name: str) -> bool:
        owner = name.rpartition(".")[0].split(".parametrizations")[0]
        return owner in self._modules or not (self._include or self._exclude)

    def _note_zero_parameters(self) -> None:
        """Remember which tensors begin at zero, such as LoRA's B."""
        zero = []
        for name, parameter in self._parameters.items():
            data = plain(parameter)
            if data is None:
                continue
            if not bool(data.reshape(-1)[:1024].any()) and not bool(data.any()):
                zero.append(name)
        self._zero_at_attach = frozenset(zero)

    def _follow(self) -> None:
        """Follow the backward pass through a parameter that gets gradients."""
        trainable = [
            p for p in self._parameters.values() if p.requires_grad and not is_lazy(p)
        ]
        if not trainable:
            self.hooks.follow_backward(None)
            return
        with_grad = [p for p in trainable if p.grad is not None] or trainable
        # One near the input: its gradient arrives last.
        self.hooks.follow_backward(with_grad[self._follow_tries % len(with_grad)])

    # -- forward and backward -----------------------------------------------------

    def on_root_forward(self, args: tuple[Any, ...], kwargs: Any) -> None:
        """Keep references to the inputs and the RNG state of the last forward."""
        if self.settings.nan_origin != "off":
            started = time.perf_counter()
            self._last.remember(args, kwargs, random=self._random)
            self._spend(started)

    def on_root_output(self, output: Any) -> None:
        """Note the loss where the model computes it itself."""
        loss = getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._loss = loss.detach()

    def on_module_enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Hand a module call to the probe."""
        started = time.perf_counter()
        if self._probe is not None:
            self._probe.enter(module, args, kwargs)
        self._spend(started)

    def on_module_muted(self, module: nn.Module) -> None:
        """Tell the probe of a module that runs with gradients off."""
        if self._probe is not None:
            self._probe.pass_without_gradient(module)

    def on_module_leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hand a module's output to the probe."""
        started = time.perf_counter()
        if self._probe is not None:
            self._probe.leave(module, args, output)
        self._spend(started)

    def on_backward_end(self) -> None:
        """Take the pulse before anybody clips the gradients."""
        started = time.perf_counter()
        self._num_backwards += 1
        if self._pulse_wanted:
            self._pulses.read_backward_end()
            self._spend(started)
            self._pulse_cost = time.perf_counter() - started

    _manual = False
    _pulse_cost = 0.0
    _num_backwards = 0

    # -- optimizer steps ----------------------------------------------------------

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has watched parameters."""
        return bool(self._owned_ids(optimizer))

    def _owned_ids(self, optimizer: Optimizer) -> frozenset[int]:
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._owned.get(id(optimizer))
        if known is not None and known[0]() is optimizer and known[1] == count:
            return known[2]
        ids = frozenset(
            id(p) for group in optimizer.param_groups for p in group["params"]
        )
        mine = ids & self._watched
        reference = weakref.ref(optimizer)
        self._owned[id(optimizer)] = (reference, count, mine)
        if mine:
            self._in_optimizer |= mine
            self._optimizer_kinds.setdefault(type(optimizer).__name__)
            if not any(ref() is optimizer for ref in self.optimizers):
                # Not in place: a loop may be walking through it.
                alive = [ref for ref in self.optimizers if ref() is not None]
                self.optimizers = [*alive, reference]
        return mine

    def _is_clock(self, optimizer: Optimizer) -> bool:
        """The clock is the optimizer with the most watched parameters."""
        clock = self._clock() if self._clock is not None else None
        if clock is optimizer:
            self._clock_missed = 0
            return True
        if clock is not None:
            mine, theirs = len(self._owned_ids(optimizer)), len(self._owned_ids(clock))
            self._clock_missed += 1
            stale = self._clock_missed > _CLOCK_PATIENCE and mine >= theirs
            if mine <= theirs and not stale:
                return False
        self._clock = weakref.ref(optimizer)
        self._clock_missed = 0
        return True

    def on_step_begin(self, optimizer: Optimizer) -> None:
        """Read gradients as the optimizer gets them."""
        started = time.perf_counter()
        if not self.owns(optimizer):
            self.foreign_optimizers.add(type(optimizer).__name__)
            return
        self.hooks.note_training_thread()
        if not self._scaler_sought:
            self._scaler = _find_scaler()
            self._scaler_sought = True
        clock = self._is_clock(optimizer)
        if clock:
            self._take_pulse(optimizer)
        if self._probe is not None:
            self._read_probe(optimizer, clock)
        self._spend(started)

    def _take_pulse(self, optimizer: Optimizer) -> None:
        started = time.perf_counter()
        if not self._pulse_wanted and self._probe is None:
            return
        if not self._pulses.waiting:
            self._rechoose_followed()
        reading = self._pulses.read_step()
        if reading is None:
            return
        reading.scale = reading.ledger.add(self._scale_tensor())
        reading.found_inf = reading.ledger.add(_found_inf(optimizer))
        reading.unscales_inside = _unscales_inside(optimizer)
        reading.num_backwards = self._num_backwards
        if isinstance(self._loss, Tensor):
            reading.loss = reading.ledger.add(self._loss.double())
        reading.pending = reading.ledger.transfer()
        loss = self._loss if isinstance(self._loss, float) else None
        self._pending_pulses.append(
            _PendingPulse(self.step, reading, loss, _largest_lr(optimizer), False)
        )
        self._reading = reading
        self._seek_nan_origin(reading)
        self.rhythm.note_pulse(time.perf_counter() - started + self._pulse_cost)

    def _rechoose_followed(self) -> None:
        """The followed parameter stayed silent: try another one."""
        if self._follow_tries < 4:
            self._follow_tries += 1
            self._follow()

    def _scale_tensor(self) -> Tensor | None:
        scale = getattr(self._scaler, "_scale", None)
        return scale if isinstance(scale, Tensor) else None

    def _seek_nan_origin(self, reading: PulseReading) -> None:
        """Replay the step that turned non-finite, while the weights are intact."""
        if self._origin is not None or self.settings.nan_origin == "off":
            return
        pending = reading.pending
        on_host = all(p.device.type == "cpu" for p in self._parameters.values())
        if pending is None or not (on_host or self.settings.nan_origin == "sync"):
            return
        total = pending.get(reading.total)
        if total is None or total - total == 0:  # finite
            return
        if pending.get(reading.found_inf):  # an overflow, to be skipped
            return
        model = self._model()
        if model is not None and self._probe is None:
            self._origin = replay_forward(model, self._last, self.step)

    def _read_probe(self, optimizer: Optimizer, clock: bool) -> None:
        probe = self._probe
        assert probe is not None
        owned = self._owned_ids(optimizer)
        if clock:
            others = frozenset(self._watched - owned - self._other_owned(optimizer))
            owned = owned | others
        scaled = self._scale_tensor() is not None
        zeros = scaled or probe.float16
        probe.at_step.read_gradients(dict(self._parameters), set(owned), zeros)
        if clock:
            probe.read_step()
            # A closure may run again inside the step; its gradients are not the step's.
            self.hooks.disarm()

    def _other_owned(self, optimizer: Optimizer) -> frozenset[int]:
        others: frozenset[int] = frozenset()
        for ref in self.optimizers:
            other = ref()
            if other is not None and other is not optimizer:
                others |= self._owned_ids(other)
        return others

    def on_step_end(self, optimizer: Optimizer) -> None:
        """Measure the update; end the probe; decide about the next step."""
        started = time.perf_counter()
        if not self.owns(optimizer):
            return
        if self._probe is not None:
            self._probe.at_step.read_updates()
        clock = self._clock() if self._clock is not None else None
        if clock is optimizer:
            self._end_step(optimizer, started)
        else:
            self._spend(started)

    def manual_step(self) -> None:
        """End a step of an optimizer that is not a `torch.optim.Optimizer`."""
        started = time.perf_counter()
        if self._probe is not None:
            self._probe.at_step.read_gradients(dict(self._parameters), None, False)
            self._probe.at_step.read_early_updates()
            self._probe.read_step()
        self._manual = True
        reading = self._pulses.read_step()
        if reading is not None:
            reading.pending = reading.ledger.transfer()
            loss = self._loss if isinstance(self._loss, float) else None
            self._pending_pulses.append(
                _PendingPulse(self.step, reading, loss, None, False)
            )
        self._end_step(None, started)

    def _end_step(self, optimizer: Optimizer | None, started: float) -> None:
        if self._probe is not None:
            self._seal(optimizer, started)
        self._reading = None
        self._loss = None
        self._num_backwards = 0
        self._deliver(False)
        self.step += 1
        now = time.perf_counter()
        self._spend(started)
        self._time_step(now)
        self._pulse_wanted = self.rhythm.wants_pulse(self.step)
        self.hooks.quiet = not self._pulse_wanted
        if not self._pulse_wanted:
            self._pulses.drop()
        if self.rhythm.wants_probe(self.step):
            armed = time.perf_counter()
            self._resolve()
            self._arm()
            self._spend(armed)

    def _time_step(self, now: float) -> None:
        # The last probe of the opening rhythm lies at this step; it is not in the sum.
        if self.step == self.settings.budget_after + 1:
            self.started_after = now
            self.seconds_after = 0.0
        step_s = now - self.last_event - self._spent_in_step
        self.last_event = now
        self._spent_in_step = 0.0
        if self.step > 2 and step_s > 0:
            self.rhythm.note_step(step_s)

    _spent_in_step = 0.0

    def _spend(self, started: float) -> None:
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.seconds_after += seconds
        self._spent_in_step += seconds
        self._probe_seconds += seconds

    # -- probes -------------------------------------------------------------------

    def _arm(self) -> None:
        probe = Probe(dict(self._facts), self._modules, self.settings, self._units)
        probe.hook_tensor = self.hooks.hook_tensor  # type: ignore[method-assign]
        probe.hook_node = self.hooks.hook_node  # type: ignore[method-assign]
        if self._manual:
            probe.at_step.sample_early(dict(self._parameters))
        self._probe = probe
        self._probe_seconds = 0.0
        self._pulse_wanted = True
        self.hooks.quiet = False
        self.hooks.arm()

    def _seal(self, optimizer: Optimizer | None, started: float) -> None:
        probe, self._probe = self._probe, None
        assert probe is not None
        self.hooks.disarm()
        probe.scale_ticket = probe.ledger.add(self._scale_tensor())
        zero_run = probe.ledger.add(self._pulses.zero_run)
        found_inf = probe.ledger.add(_found_inf(optimizer))
        loss = self._loss
        if isinstance(loss, Tensor) and probe.loss_ticket is None:
            probe.loss_ticket = probe.ledger.add(loss.double())
            probe.loss_is_users = True
        context = ProbeContext(
            step=self.step,
            facts={facts.name: facts for facts in self._facts.values()},
            modules=self._modules,
            in_optimizer=frozenset(self._in_optimizer) if self.optimizers else None,
            zero_at_attach=self._zero_at_attach,
            zero_run=zero_run,
            found_inf=found_inf,
            zero_names=[name for name, _ in self._pulsed],
            pulse_every=self.rhythm.pulse_every if self.step >= 50 else 1,
            scaled_parameters=_unscales_inside(optimizer),
            loss=loss if isinstance(loss, float) else None,
            lr=_largest_lr(optimizer) if optimizer is not None else None,
        )
        pending = probe.ledger.transfer()
        probe.drop_references()
        if probe.structure is not None:
            self.structure = probe.structure
        elif probe.layers and not self.structure.layers:
            self.structure = probe.fallback_structure(
                probe.opaque or "no backward pass was seen from the model's output"
            )
        seconds = self._probe_seconds + time.perf_counter() - started
        self._pending_probes.append(_PendingProbe(probe, pending, context, seconds))

    def probe_now(self) -> StepRecord | None:
        """End a probe without an optimizer: for `check()`."""
        self._probe_without_step()
        self._deliver(True)
        return self.history.latest

    def _probe_without_step(self) -> None:
        if self._probe is None:
            return
        self._probe.at_step.read_gradients(dict(self._parameters), None, False)
        self._probe.read_step()
        self._seal(None, time.perf_counter())

    def _deliver(self, wait: bool) -> None:
        """Turn arrived numbers into records, oldest first."""
        while self._pending_pulses:
            first = self._pending_pulses[0]
            assert first.reading.pending is not None
            if not wait and not first.reading.pending.ready():
                break
            self._pending_pulses.popleft()
            self._add_pulse(first)
        while self._pending_probes:
            waiting = self._pending_probes[0]
            if not wait and not waiting.pending.ready():
                break
            self._pending_probes.popleft()
            self._add_probe(waiting)

    def _add_pulse(self, waiting: _PendingPulse) -> None:
        reading = waiting.reading
        assert reading.pending is not None
        before, after, factor = reading.norms()
        scale = reading.pending.get(reading.scale) or 1.0
        self._note_skipped(waiting, scale)
        loss = waiting.loss
        if loss is None:
            loss = reading.pending.get(reading.loss)
        inside = reading.unscales_inside
        first = scale if inside or not reading.at_step else 1.0
        last = scale if inside else 1.0
        level = before if before is not None else after
        skipped = bool(reading.pending.get(reading.found_inf))
        record = PulseRecord(
            step=waiting.step,
            grad_norm=None if before is None else before / first,
            step_grad_norm=None if after is None else after / last,
            clip_factor=None if factor is None else factor * first / last,
            finite=skipped or level is None or level - level == 0,
            skipped=skipped,
            loss=loss,
            loss_scale=scale,
            lr=waiting.lr,
        )
        self.history.add_pulse(record)
        origin = self._origin
        if record.finite and origin is not None and record.step > origin.step:
            self._origin = None  # it recovered; another NaN has another origin
        if self._is_spike(record):
            self.rhythm.burst(max(record.step, self.step))

    def _note_skipped(self, waiting: _PendingPulse, scale: float) -> None:
        """Count the steps that the scaler skipped since the last pulse.

        No optimizer step is called then, so they show as backward passes too many and a
        loss scale that fell meanwhile.
        """
        before, self.loss_scale = self.loss_scale, scale
        if before is None:
            before = getattr(self._scaler, "_init_scale", scale)
        backoff = getattr(self._scaler, "_backoff_factor", 0.5)
        spare = waiting.reading.num_backwards - 1
        if scale >= before or spare < 1 or not 0 < backoff < 1:
            return
        count = round(math.log(before / scale) / -math.log(backoff))
        for _ in range(min(count, spare)):
            record = PulseRecord(waiting.step, skipped=True, loss_scale=scale)
            self.history.add_pulse(record)

    def _is_spike(self, record: PulseRecord) -> bool:
        if record.skipped:
            return False
        if not record.finite:
            return True
        if record.grad_norm is None:
            return False
        count = len(self.history.pulses)
        median = self.history.running_median(
            count - 1, self.settings.spike_window, lambda pulse: pulse.grad_norm
        )
        if not median:
            return False
        return record.grad_norm > self.settings.spike_ratio * median

    def _add_probe(self, waiting: _PendingProbe) -> None:
        started = time.perf_counter()
        if waiting.pending.get(waiting.context.found_inf):
            return  # an overflow that the scaler let the optimizer skip: no step
        pulses = self.history.pulses
        if pulses and pulses[-1].step == waiting.context.step:
            waiting.context.clip_factor = pulses[-1].clip_factor
            if waiting.context.loss is None:
                waiting.context.loss = pulses[-1].loss
        record = build_record(waiting.probe, waiting.pending, waiting.context)
        if self._origin is not None and (
            record.non_finite is None or self._origin.step < record.non_finite.step
        ):
            # After the first update every layer is NaN: the replay saw where it began.
            record = replace(record, non_finite=self._origin)
        self.history.add_probe(record)
        self.num_probes += 1
        if self._on_probe(record):
            self.rhythm.burst(max(record.step, self.step))
        cost = waiting.seconds + time.perf_counter() - started
        self.rhythm.note_probe(record.step, cost)

    def log_loss(self, loss: Any) -> None:
        """Note the loss of the current step; a tensor comes with the next transfer."""
        if isinstance(loss, Tensor):
            self._loss = loss.detach().clone()  # a running sum may go on
        elif loss is not None:
            self._loss = float(loss)

    def on_closure_loss(self, loss: Any) -> None:
        """Note the loss that a closure returned."""
        if isinstance(loss, Tensor) and loss.numel() != 1:
            return
        if isinstance(loss, Tensor | float | int) and self._loss is None:
            self.log_loss(loss)

    @property
    def origin(self) -> NonFiniteOrigin | None:
        """Where a non-finite value came from, if a replay found it."""
        return self._origin

    def overhead(self) -> tuple[float, float]:
        """Return seconds spent after the budget began to rule, and wall time since."""
        now = self.last_event
        if self.started_after is not None:
            return self.seconds_after, max(now - self.started_after, 1e-9)
        return self.seconds, max(now - self.started, 1e-9)


def _largest_lr(optimizer: Optimizer) -> float | None:
    rates = [group.get("lr") for group in optimizer.param_groups]
    numbers = [r for r in rates if isinstance(r, float | int)]
    return float(max(numbers)) if numbers else None


def _found_inf(optimizer: Optimizer | None) -> Tensor | None:
    """Return the flag by which a scaler tells such an optimizer to skip its step."""
    found = getattr(optimizer, "found_inf", None)
    return found.double() if isinstance(found, Tensor) else None


def _unscales_inside(optimizer: Optimizer | None) -> bool:
    """Whether a fused optimizer divides by the loss scale inside its own step."""
    return getattr(optimizer, "grad_scale", None) is not None


def _find_scaler() -> Any:
    """Return the gradient scaler among the calling frames of an optimizer step.

    Only frames of torch's scaler are looked into: before Python 3.13 a look at the
    locals of a frame keeps them, the user's batch and outputs too, as long as it lives.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(40):
        if frame is None:
            return None
        if "grad_scaler" in frame.f_globals.get("__name__", ""):
            candidate = frame.f_locals.get("self")
            if hasattr(candidate, "_scale") and hasattr(candidate, "unscale_"):
                return candidate
        frame = frame.f_back
    return None
