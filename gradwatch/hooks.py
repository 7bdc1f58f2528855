"""Attach to a module and its optimizers; registers hooks with `module_hooks.py`.

It is also the only place where an error of ours is caught: the first one removes every
hook, warns once, and training goes on (design section 7). What the hooks see is handed
to an `Events` object; nothing is decided here.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.errors import DetachedWarning
from gradwatch.hook_events import Events, Inert, inside_transform, is_nested_step
from gradwatch.hook_kinds import (
    BackwardEndHook,
    OptimizerPost,
    OptimizerPre,
    RootEnterHook,
    RootLeaveHook,
)
from gradwatch.module_hooks import ModuleHooks, run_all
from gradwatch.step_hooks import call_after_steps, call_before_steps
from gradwatch.stopwatch import Stopwatch

Result = TypeVar("Result")

#: Steps of other optimizers in a row after which a rest ends: the clock has stopped.
_MAX_STRANGERS = 32


class HookManager:
    """Hooks of one watch on one model.

    Args:
        model: The watched module. Held weakly.
        events: Receives what the hooks see.
        stopwatch: Runs while ours runs.
    """

    def __init__(self, model: nn.Module, events: Events, stopwatch: Stopwatch) -> None:
        self.events = events
        self._stopwatch = stopwatch
        self.attached = False
        self.armed = False
        #: Set on steps without a pulse: nobody asks for the end of backward.
        self.quiet = False
        self.failure: str | None = None
        self._model = weakref.ref(model)
        #: Steps of the clock left to rest, and steps rested so far.
        self.resting = 0
        self.rested = 0
        #: Whether the root's forward was seen to run, outside a compiled region.
        self.root_runs = False
        self._clock: weakref.ref[Optimizer] | None = None
        self._strangers = 0
        self._nests = False
        self._pre: Any = None
        self._post: Any = None
        self._root: list[Any] = []
        self.modules = ModuleHooks(self)
        self._tensor_handles: list[Any] = []
        self._accumulate: Any = None
        self._followed: weakref.ref[Tensor] | None = None
        self._depth: dict[int, int] = {}
        self.stepping = 0
        self._thread = threading.get_ident()

    # -- attaching ----------------------------------------------------------------

    def hook_wrappers(self, wrappers: list[nn.Module]) -> None:
        """Learn of the model's inputs and outputs from compiled wrappers around it."""
        if self.attached:
            self.modules.hook_wrappers(wrappers)

    def attach(self, *, steps: bool = True) -> None:
        """Register the hooks that stay: optimizer steps and the root's forward.

        Args:
            steps: Whether optimizers will step; for a copy inside a step none may be
                hooked, because torch walks through those hooks then.
        """
        model = self._model()
        if self.attached or model is None:
            return
        self.attached = True
        if steps:
            self._pre = call_before_steps(OptimizerPre(self))
            self._post = call_after_steps(OptimizerPost(self))
        self._hook_root(model)

    def _hook_root(self, model: nn.Module) -> None:
        if isinstance(model, torch.jit.ScriptModule):  # those take no such hooks
            return
        enter, leave = RootEnterHook(self), RootLeaveHook(self)
        # One by one: what is registered must be known if the next one fails.
        enter_handle = model.register_forward_pre_hook(enter, with_kwargs=True)
        self._root.append(enter_handle)
        self._root.append(model.register_forward_hook(leave))

    def follow_backward(self, parameter: Tensor | None) -> None:
        """Learn of the end of backward from this parameter's gradient."""
        if self._accumulate is not None:
            self._accumulate.remove()
            self._accumulate = None
        if parameter is not None and parameter.requires_grad:
            self._followed = weakref.ref(parameter)
            self._accumulate = parameter.register_post_accumulate_grad_hook(
                BackwardEndHook(self)
            )

    @property
    def followed(self) -> Tensor | None:
        """The parameter whose gradient tells of the end of backward."""
        return None if self._followed is None else self._followed()

    def arm(self) -> None:
        """Register hooks on every module outside compiled regions."""
        model = self._model()
        if model is None or not self.attached or self.armed:
            return
        self.armed = True
        self.modules.arm(model)

    def disarm(self) -> None:
        """Remove the module and tensor hooks of a probe."""
        self.armed = False
        self.modules.disarm()
        for handle in self._tensor_handles:
            handle.remove()
        self._tensor_handles.clear()

    def detach(self) -> None:
        """Remove every hook. Repeated calls do nothing.

        What fails keeps nothing else from being removed; it is raised at the end.
        """
        self.attached = False
        self.resting = 0
        run_all(
            self.disarm,
            self.modules.remove,
            lambda: self.follow_backward(None),
            self.sweep,
        )

    def sweep(self) -> None:
        """Remove the permanent hooks, but not while torch walks through them.

        A step iterates over the hooks themselves, so a removal from inside would raise
        in the user's step. What must stay is inert until the next forward of the model,
        or `detach`, takes it away.
        """
        if self.stepping:
            return
        for handle in (self._pre, self._post, *self._root):
            if handle is not None:
                handle.remove()
        self._pre = self._post = None
        self._root = []

    # -- hooks inside a probe -----------------------------------------------------

    def hook_tensor(self, tensor: Tensor, callback: Callable[[Tensor], None]) -> None:
        """Call back with the gradient of a tensor, once a backward pass."""

        def on_gradient(grad: Tensor | None) -> None:
            # None: a custom Function upstream gave no gradient, and autograd says so.
            if grad is not None and self.armed and not torch.is_grad_enabled():
                self.guard(callback, grad)

        self._tensor_handles.append(tensor.register_hook(on_gradient))

    def hook_node(
        self, node: Any, callback: Callable[[tuple[Tensor | None, ...]], None]
    ) -> None:
        """Call back with the gradients that reach an autograd node."""

        def on_gradients(grads: tuple[Tensor | None, ...]) -> None:
            if self.armed and not torch.is_grad_enabled():
                self.guard(callback, grads)

        self._tensor_handles.append(node.register_prehook(on_gradients))

    def sees_forward(self) -> bool:
        """Whether a forward that runs now is a training forward of an armed probe."""
        return (
            self.armed
            and torch.is_grad_enabled()
            and not inside_transform()
            and threading.get_ident() == self._owner_thread()
        )

    def _owner_thread(self) -> int:
        """The thread that trains; backward threads of an accelerator count as it."""
        if torch._C._current_graph_task_id() != -1:
            return threading.get_ident()
        return self._thread

    def note_training_thread(self) -> None:
        """Count only forwards of the thread that steps the optimizer from now on."""
        self._thread = threading.get_ident()

    # -- rest: steps that nobody looks at -----------------------------------------

    def rest(self, steps: int, clock: Optimizer | None) -> None:
        """Take off every hook but the one that counts steps.

        The root's stay where its forward was not seen to run outside a compiled
        region: to take them off and put them on again would cost recompiles.

        Args:
            steps: Steps of the clock until `on_rest_end`.
            clock: The optimizer whose steps count; None if `count_step` tells of them.
        """
        if not self.attached or self.resting or self._nests or steps < 2:
            return
        self.resting, self.rested = steps, 0
        self._clock = None if clock is None else weakref.ref(clock)
        self._strangers = 0
        if self._accumulate is not None:
            self._accumulate.remove()
            self._accumulate = None
        self._pre.remove()
        if self.root_runs:
            for handle in self._root:
                handle.remove()
            self._root.clear()

    def count_rested(self, optimizer: Optimizer) -> None:
        """Count a step of the clock; after the last one that rests, wake up."""
        if self._clock is None:
            return
        if self._clock() is optimizer:
            self._strangers = 0
            self.rested += 1
        else:
            self._strangers += 1
            if self._strangers < _MAX_STRANGERS:
                return
            self.resting = 1  # the clock has stopped: another one must be found
        self.resting -= 1
        if not self.resting:
            self.guard(self._wake, self._strangers == 0)

    def count_step(self) -> bool:
        """Count a step that no hook sees; return whether it fell into a rest."""
        if not self.resting:
            return False
        self.rested += 1
        self.resting -= 1
        if not self.resting:
            self.guard(self._wake, True)
        return True

    def time_of_rest(self) -> float:
        """Return the seconds that a step costs that is only counted."""
        if not self.attached or self.resting:
            return 0.0
        hook = OptimizerPost(self)
        clock: Any = Inert()
        kept = self._clock
        self._clock = weakref.ref(clock)
        self.resting = calls = 64
        try:
            started = time.perf_counter()
            for _ in range(calls - 1):
                hook(clock, (), {})
            return (time.perf_counter() - started) / (calls - 1)
        finally:
            self._clock, self.resting, self.rested = kept, 0, 0

    def _wake(self, clock_runs: bool) -> None:
        rested, self.rested = self.rested, 0
        model = self._model()
        if model is not None:
            self._pre = call_before_steps(OptimizerPre(self))
            if not self._root:
                self._hook_root(model)
            self.follow_backward(self.followed)
        self.events.on_rest_end(rested, clock_runs=clock_runs)

    # -- optimizer steps ----------------------------------------------------------

    def step_begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Count an outermost step; wrap its closure if it has one."""
        key = id(optimizer)
        depth = self._depth.get(key, 0)
        if depth > 0 and not is_nested_step(optimizer):
            depth = 0  # an earlier step was left by an exception
        self._nests = self._nests or depth > 0
        self._depth[key] = depth + 1
        if depth > 0:
            return None
        position = next((n for n, a in enumerate(args) if n and callable(a)), None)
        closure = kwargs.get("closure") if position is None else args[position]
        if closure is None:
            self.guard(self.events.on_step_begin, optimizer)
            return None
        if not self.guard(self.events.owns, optimizer):
            return None
        wrapped = self._wrap(closure, optimizer)
        if position is None:
            return args, {**kwargs, "closure": wrapped}
        return (*args[:position], wrapped, *args[position + 1 :]), kwargs

    def _wrap(
        self, closure: Callable[[], Result], optimizer: Optimizer
    ) -> Callable[[], Result]:
        """Read gradients after the closure's first run: before it they are stale."""
        first = True

        def watched_closure() -> Result:
            nonlocal first
            loss = closure()
            if first:
                first = False
                self.guard(self.events.on_closure_loss, loss)
                self.guard(self.events.on_step_begin, optimizer)
            return loss

        return watched_closure

    def step_end(self, optimizer: Optimizer) -> None:
        """Report the end of an outermost step."""
        key = id(optimizer)
        depth = self._depth.get(key, 1) - 1
        if depth > 0:
            self._depth[key] = depth
            return
        self._depth.pop(key, None)
        self.guard(self.events.on_step_end, optimizer)

    # -- failure ------------------------------------------------------------------

    def guard(self, function: Callable[..., Result], *args: Any) -> Result | None:
        """Run ours; on an error detach, warn once, and let training go on."""
        if not self.attached:
            return None
        outermost = False
        grad_enabled = torch.is_grad_enabled()
        collects = gc.isenabled()
        try:
            try:
                if collects:  # a probe's many objects would have all the heap searched
                    gc.disable()
                outermost = self._stopwatch.start()
                # A context manager costs ten times as much.
                torch._C._set_grad_enabled(False)
                return function(*args)
            finally:
                torch._C._set_grad_enabled(grad_enabled)
                if collects:
                    gc.enable()
                if outermost:
                    self._stopwatch.stop()
        except Exception:
            self.fail()
            return None

    def attempt(self, function: Callable[..., Result], *args: Any) -> Result | None:
        """Run ours outside of hooks, also when detached; warn at the first error."""
        try:
            return function(*args)
        except Exception:
            self.fail()
            return None

    def fail(self) -> None:
        """Detach after the error that is being handled; warn at the first one."""
        known = self.failure is not None
        reason = self.failure = self.failure or traceback.format_exc()
        self.attached = False  # every hook of ours is inert from here on
        with contextlib.suppress(Exception):
            self.detach()
        with contextlib.suppress(Exception):
            self.events.on_failure()
        if known:
            return
        with warnings.catch_warnings():
            # A user's `-W error` must not turn our failure into the end of the run.
            warnings.simplefilter("default", DetachedWarning)
            warnings.warn(
                "gradwatch met an error of its own and detached; training is "
                f"unaffected. Please report it:\n{reason}",
                DetachedWarning,
                stacklevel=2,
            )
