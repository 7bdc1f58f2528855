"""Turns what the hooks see into records: steps, pulses, probes, their rhythm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.capture import Capture
from gradwatch.deliveries import Deliveries, PendingProbe
from gradwatch.graph_reading import GraphMemory
from gradwatch.history import History
from gradwatch.hooks import HookManager
from gradwatch.losses import held_loss
from gradwatch.module_hooks import run_all
from gradwatch.nan_origin import LastForward, replay_forward
from gradwatch.observed_facts import ObservedFacts, Replay, Replayed
from gradwatch.optimizer_roles import OptimizerRoles, find_scaler
from gradwatch.probe import Probe
from gradwatch.probe_entries import UnitMemory
from gradwatch.processes import Processes
from gradwatch.pulse import PulseReading
from gradwatch.pulse_taking import PulseTaker
from gradwatch.records import StepRecord
from gradwatch.rhythm import Rhythm
from gradwatch.sealing import seal
from gradwatch.settings import Settings
from gradwatch.stopwatch import Stopwatch
from gradwatch.structure import Structure
from gradwatch.unseen_steps import UnseenSteps
from gradwatch.watched_model import WatchedModel


class Observer(ObservedFacts):
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
        self._stopwatch = Stopwatch(settings.budget_after)
        self.hooks = HookManager(model, self, self._stopwatch)
        self._step = 0
        self.watched = WatchedModel(model, include, exclude)
        self.optimizers = OptimizerRoles(self.watched)
        self._deliveries = Deliveries(settings, history, self.rhythm, on_probe)
        self._deliveries.scaler = scaler
        self._scaler_sought = scaler is not None
        self._units = UnitMemory()
        self._graphs = GraphMemory()
        self._manual = False
        self._unseen = UnseenSteps()
        self._probe: Probe | None = None
        self._pulses = PulseTaker(self.watched, self.hooks, self._deliveries)
        self._idle_s = 0.0
        self.loss: float | Tensor | None = None  # of the step under way
        self._last = LastForward()
        self.capture = Capture(settings.capture_limit)
        #: Reads the inside of compiled regions; None in a copy.
        self.replay: Replay | None = None
        self._replayed: Replayed | None = None
        self.processes = Processes(settings, self.rhythm, self.watched)
        self._deliveries.join = self.processes.receive

    # -- lifecycle ----------------------------------------------------------------

    def attach(self, *, steps: bool = True) -> None:
        """Attach the hooks and arm the first probe; `steps` as in `HookManager`."""
        self.hooks.attach(steps=steps)
        self.hooks.guard(self._resolve)
        self.hooks.guard(self.watched.note_zero_parameters)
        self.hooks.guard(self.capture.keep_initial, self.watched.model)
        self.hooks.guard(self._pulses.follow)
        self._idle_s = self.hooks.time_of_rest() if steps else 0.0
        self.rhythm.note_idle(self._idle_s)
        if self.rhythm.wants_probe(0):
            self.hooks.guard(self._arm)

    def detach(self) -> None:
        """Deliver what is under way and remove every hook."""
        run_all(
            lambda: self.hooks.guard(self._deliver, True),
            self.hooks.detach,
            self._release,
        )

    def on_failure(self) -> None:
        """Let go of everything after an error of ours."""
        self._release()

    def _release(self) -> None:
        if self._probe is not None:
            self._probe.drop_references()
        self._probe = None
        self._pulses.drop()
        self._last = LastForward()
        self.processes.close()

    def _deliver(self, wait: bool) -> None:
        """Turn what has arrived into records; all that is under way if `wait`."""
        self._deliveries.deliver(wait=wait)

    def _resolve(self) -> None:
        """Look the modules and parameters up again: they may have been replaced."""
        if not self.hooks.root_runs:
            self.hooks.hook_wrappers(self.watched.look_for_wrappers())
        self.watched.resolve()
        self._pulses.resolve()

    def lend(self, graphs: GraphMemory, units: UnitMemory) -> None:
        """Use memories that outlive this observer."""
        self._graphs, self._units = graphs, units

    # -- forward and backward -----------------------------------------------------

    def on_root_forward(self, args: tuple[Any, ...], kwargs: Any) -> None:
        """Keep references to the inputs and the RNG state of the last forward."""
        self._end_unseen_step(args, kwargs)
        if self.settings.nan_origin != "off":
            self._last.remember(args, kwargs, random=self.watched.random)
        model = self.watched.model
        if self.hooks.armed and model is not None:
            self.capture.begin(args, kwargs, model)

    def on_root_output(self, output: Any) -> None:
        """Note the loss where the model computes it itself."""
        loss = held_loss(output)
        if loss is not None:
            self.loss = loss.detach()
        if self.hooks.armed:
            self.capture.note_output(output, self.hooks.hook_tensor)

    def on_module_enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Hand a module call to the probe."""
        if self._probe is not None:
            self._probe.enter(module, args, kwargs)

    def on_module_muted(self, module: nn.Module) -> None:
        """Tell the probe of a module that runs with gradients off."""
        if self._probe is not None:
            self._probe.pass_without_gradient(module)

    def on_module_leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hand a module's output to the probe."""
        if self._probe is not None:
            self._probe.leave(module, args, output)

    def on_backward_end(self) -> None:
        """Take the pulse before anybody clips the gradients."""
        self._pulses.end_backward()
        self._unseen.note_backward(self.hooks.followed)
        if self._unseen.counts and self._probe is not None:
            # The gradients may be gone when the step is noticed.
            self._read_gradients(self._probe)

    # -- optimizer steps ----------------------------------------------------------

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has watched parameters."""
        return bool(self.optimizers.owned(optimizer))

    def on_step_begin(self, optimizer: Optimizer) -> None:
        """Read gradients as the optimizer gets them."""
        if not self.owns(optimizer):
            self.optimizers.foreign.add(type(optimizer).__name__)
            return
        self.hooks.note_training_thread()
        self._unseen.announce()
        if not self._scaler_sought:
            self._deliveries.scaler = find_scaler()
            self._scaler_sought = True
        clock = self.optimizers.is_clock(optimizer)
        if clock:
            self._take_pulse(optimizer)
        if self._probe is not None:
            self._read_probe(optimizer, clock)

    def _take_pulse(self, optimizer: Optimizer) -> None:
        if not self._pulses.wanted and self._probe is None:
            return
        scale = self._deliveries.scale
        reading = self._pulses.finish(self._step, optimizer, self.loss, scale)
        if reading is not None:
            self._seek_nan_origin(reading)

    def _seek_nan_origin(self, reading: PulseReading) -> None:
        """Replay the step that turned non-finite, while the weights are intact."""
        if self._deliveries.origin is not None or self.settings.nan_origin == "off":
            return
        if not reading.is_broken(wait=self.settings.nan_origin == "sync"):
            return
        model = self.watched.model
        if model is not None and self._probe is None:
            self._deliveries.origin = replay_forward(model, self._last, self._step)

    def _read_probe(self, optimizer: Optimizer, clock: bool) -> None:
        probe = self._probe
        assert probe is not None
        roles = self.optimizers
        owned = roles.owned_or_free(optimizer) if clock else set(roles.owned(optimizer))
        zeros = self._deliveries.scale is not None or probe.float16
        probe.at_step.read_gradients(dict(self.watched.parameters), owned, zeros)
        names = {id(p): name for name, p in self.watched.parameters.items()}
        self.capture.note_optimizer(optimizer, names)
        if clock:
            probe.read_step()
            self.capture.complete(self._step, self._deliveries.scale)
            # A closure may run again inside the step; its gradients are not the step's.
            self.hooks.disarm()
            if self.replay is not None:
                args = self.watched, self.capture, self._step
                self._replayed = self.replay.run(*args)

    def on_step_end(self, optimizer: Optimizer) -> None:
        """Measure the update; end the probe; decide about the next step."""
        if not self.owns(optimizer):
            return
        if self._probe is not None:
            self._probe.at_step.read_updates()
        if self.optimizers.clock is optimizer:
            self._end_step(optimizer)

    def manual_step(self) -> None:
        """End a step of an optimizer that is not a `torch.optim.Optimizer`."""
        self._unseen.announce()
        if self.hooks.count_step():
            return
        if self._probe is not None:
            self._read_gradients(self._probe)
            self._read_late(self._probe)
        self._manual = True
        self._pulses.finish(self._step, None, self.loss, None)
        self._end_step(None)

    def _read_gradients(self, probe: Probe) -> None:
        probe.at_step.read_gradients(dict(self.watched.parameters), None, False)

    def _read_late(self, probe: Probe) -> None:
        """Read what is left of a step whose update is over."""
        probe.at_step.read_early_updates()
        probe.read_step()
        self.capture.complete(self._step, self._deliveries.scale)

    def _end_unseen_step(self, args: tuple[Any, ...], kwargs: Any) -> None:
        """End a step that no optimizer told of, before the forward of the next one."""
        counted = self._unseen.counts
        count = self._unseen.take(self.hooks.followed)
        if not count:
            return
        if counted and self._probe is not None:
            self._read_late(self._probe)
        elif self._probe is not None:  # its gradients were not read in time
            self._probe.drop_references()
            self._probe = None
            self.hooks.disarm()
        self._manual = True
        self._pulses.finish_unseen(self._step + count - 1)
        self._end_step(None, count)
        model = self.watched.model
        if self._probe is not None and model is not None:
            # The model's own hook came too late for the forward that begins.
            self._probe.enter(model, args, kwargs)

    def _end_step(self, optimizer: Optimizer | None, count: int = 1) -> None:
        probed = self._probe is not None
        if probed:
            self._seal(optimizer)
        self.loss = None
        self._pulses.end_step()
        self._deliver(self.processes.meets(self._step))
        self.processes.end_step(self._step)
        self._begin_step(count)
        if self._pulses.wanted and not probed:
            self.rhythm.note_pulse(self._stopwatch.step_s)
        self._look_ahead(optimizer)

    def _begin_step(self, count: int) -> None:
        """Count steps of the clock that ended, and what they took."""
        self._step += count
        self._deliveries.step = self._step
        step_s = self._stopwatch.end_step(self._step, count)
        if self._step > 2 and step_s > 0:
            self.rhythm.note_step(step_s)
        if self._stopwatch.started_after is not None:
            self.rhythm.note_balance(*self._stopwatch.overhead())

    def _look_ahead(self, optimizer: Optimizer | None) -> None:
        """Prepare the looks at the step that begins, or rest until the next one."""
        self._pulses.want(self.rhythm.wants_pulse(self._step))
        if self._unseen.counts:  # backward passes are all that tells of steps
            self.hooks.quiet = False
        if self.rhythm.wants_probe(self._step):
            self._stopwatch.begin_probe()
            self._resolve()
            self._arm()
        elif not (
            self._pulses.wanted
            or self._deliveries.under_way
            or self._unseen.counts
            or self.processes.busy
        ):
            self.hooks.rest(self.rhythm.rest(self._step), optimizer)

    def on_rest_end(self, steps: int, *, clock_runs: bool) -> None:
        """Take up the count after steps that nobody looked at."""
        self._stopwatch.add(steps * self._idle_s)
        self.loss = None
        if steps:
            self._begin_step(steps)
        if clock_runs:
            self._look_ahead(self.optimizers.clock)

    # -- probes -------------------------------------------------------------------

    def _arm(self) -> None:
        probe = Probe(
            dict(self.watched.facts),
            self.watched.modules,
            self.settings,
            self._units,
            self._graphs.at_version(self.watched.version),
            self.hooks.hook_tensor,
            self.hooks.hook_node,
        )
        if self._manual:
            probe.at_step.sample_early(dict(self.watched.parameters))
        self._probe = probe
        self.capture.begin_probe()
        self._pulses.want(True)
        self.hooks.arm()

    def _seal(self, optimizer: Optimizer | None) -> None:
        probe, self._probe = self._probe, None
        assert probe is not None
        self.hooks.disarm()
        pending, context = seal(
            probe,
            step=self._step,
            watched=self.watched,
            roles=self.optimizers,
            pulses=self._pulses,
            optimizer=optimizer,
            loss=self.loss,
            scale=self._deliveries.scale,
        )
        self.structure = probe.structure_or(self.structure)
        replayed, self._replayed = self._replayed, None
        if replayed is not None and replayed.structure is not None:
            self.structure = replayed.structure
        seconds = self._stopwatch.probe_seconds()
        self._deliveries.add_probe(
            PendingProbe(probe, pending, context, seconds, replayed)
        )

    def probe_now(self) -> StepRecord | None:
        """End a probe without an optimizer: for `check()`."""
        if self._probe is not None:
            parameters = dict(self.watched.parameters)
            self._probe.at_step.read_gradients(parameters, None, False)
            self._probe.read_step()
            self._seal(None)
        self._deliver(True)
        return self.history.latest

    def log_loss(self, loss: Any) -> None:
        """Note the loss of the current step; a tensor comes with the next transfer."""
        if loss is not None and not self.hooks.resting:
            # A clone: a running sum may go on.
            tensor = isinstance(loss, Tensor)
            self.loss = loss.detach().clone() if tensor else float(loss)

    def on_closure_loss(self, loss: Any) -> None:
        """Note the loss that a closure returned."""
        if isinstance(loss, Tensor) and loss.numel() != 1:
            return
        if isinstance(loss, Tensor | float | int) and self.loss is None:
            self.log_loss(loss)
