"""The hooks themselves: each asks whether it is to look, and hands on what it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.hook_events import Events, Inert, inside_transform


class Manager(Protocol):
    """What the hooks ask and tell: `hooks.HookManager`."""

    events: Events
    attached: bool
    armed: bool
    quiet: bool
    root_runs: bool
    resting: int
    stepping: int

    def guard(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ours; an error of ours must not reach the user."""

    def fail(self) -> None:
        """Detach after the error that is being handled."""

    def sees_forward(self) -> bool:
        """Whether a forward that runs now belongs to an armed probe."""

    def sweep(self) -> None:
        """Remove what an earlier detach had to leave."""

    def count_rested(self, optimizer: Optimizer) -> None:
        """Count a step that nobody looks at."""

    def step_begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Tell of a step that begins."""

    def step_end(self, optimizer: Optimizer) -> None:
        """Tell of a step that ended."""


class EnterHook(Inert):
    """Before a module of an armed probe runs."""

    def __init__(self, manager: Manager, ran: set[int]) -> None:
        self.manager = manager
        #: Identities of modules that were seen to run outside of a compiled graph.
        self.ran = ran
        #: Cleared when its probe ends: one that ends in a forward is called once more.
        self.on = True

    # `kwargs` has a default because torch looks up whether a hook takes them at the
    # call: a hook that was just removed is called without.
    def __call__(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """Hand the call on, or tell that gradients are off."""
        if torch.compiler.is_compiling() or not self.manager.armed or not self.on:
            return
        manager = self.manager
        try:
            self.ran.add(id(module))
            if manager.sees_forward():
                manager.guard(manager.events.on_module_enter, module, args, kwargs)
            elif not torch.is_grad_enabled():
                manager.guard(manager.events.on_module_muted, module)
        except Exception:
            manager.fail()


class LeaveHook(Inert):
    """After a module of an armed probe has run."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def __call__(self, module: nn.Module, args: Any, *rest: Any) -> None:
        """Hand the output on."""
        if torch.compiler.is_compiling():
            return
        manager = self.manager
        try:
            if not manager.sees_forward():
                return
            kwargs, output = rest
            if kwargs:
                names = sorted(kwargs, key=lambda name: name != "input")
                args = (*args, *(kwargs[name] for name in names))
            manager.guard(manager.events.on_module_leave, module, args, output)
        except Exception:
            manager.fail()


class RootEnterHook(Inert):
    """Before the watched module runs."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def __call__(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """Hand the inputs on."""
        if torch.compiler.is_compiling():
            return
        manager = self.manager
        try:
            self._note()
            if not manager.attached:
                manager.sweep()
            elif torch.is_grad_enabled() and not inside_transform():
                manager.guard(manager.events.on_root_forward, args, kwargs)
        except Exception:
            manager.fail()

    def _note(self) -> None:
        self.manager.root_runs = True


class WrapperEnterHook(RootEnterHook):
    """Before a compiled wrapper around the watched module runs."""

    def _note(self) -> None:
        """The module itself was not seen to run: it is inside the graph."""


class RootLeaveHook(Inert):
    """After the watched module has run."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hand the output on."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        manager = self.manager
        try:
            if manager.attached and not inside_transform():
                manager.guard(manager.events.on_root_output, output)
        except Exception:
            manager.fail()


class BackwardEndHook(Inert):
    """Queues the engine callback twice: the second run is after DDP's reduction."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def __call__(self, parameter: Tensor) -> None:
        """Queue the callbacks that run when backward ends."""
        if self.manager.quiet or torch.compiler.is_compiling():
            return
        self.manager.guard(self._queue, self._first)

    def _queue(self, callback: Callable[[], None]) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(callback)

    def _first(self) -> None:
        self.manager.guard(self._queue, self._second)

    def _second(self) -> None:
        if self.manager.attached:
            self.manager.guard(self.manager.events.on_backward_end)


class OptimizerPre(Inert):
    """Before any optimizer steps."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Tell of the step, or wrap its closure."""
        if torch.compiler.is_compiling() or not self.manager.attached:
            return None
        self.manager.stepping += 1
        try:
            return self.manager.step_begin(optimizer, args, kwargs)
        except Exception:
            self.manager.fail()
            return None
        finally:
            self.manager.stepping -= 1


class OptimizerPost(Inert):
    """After any optimizer has stepped."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Tell of the step, or only count it."""
        if torch.compiler.is_compiling() or not self.manager.attached:
            return
        manager = self.manager
        manager.stepping += 1
        try:
            if manager.resting:
                manager.count_rested(optimizer)
            else:
                manager.step_end(optimizer)
        except Exception:
            manager.fail()
        finally:
            manager.stepping -= 1
