"""One pair of global optimizer hooks for all watches of the process.

torch walks through its own dict of hooks while it calls them: adding or removing one
meanwhile, from another thread or from inside a hook, raises in the user's step. So the
pair is there from the first watch to the last, and the watches stand in tuples that are
replaced as a whole.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gradwatch.hook_events import Inert

Hook = Callable[[Optimizer, Any, Any], Any]

_lock = threading.RLock()


class _Walk(Inert):
    """Stands in torch's dict and calls the hooks of every watch."""

    def __init__(self, register: Callable[[Any], Any]) -> None:
        self._register = register
        self._handle: Any = None
        self._calling = 0
        self.hooks: tuple[Hook, ...] = ()

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Call each; what one makes of the arguments is what the next one gets."""
        if torch.compiler.is_compiling():
            return None
        made = None
        self._calling += 1
        try:
            for hook in self.hooks:
                changed = hook(optimizer, args, kwargs)
                if changed is not None:
                    made = args, kwargs = changed
        finally:
            self._calling -= 1
        return made

    def add(self, hook: Hook) -> StepHandle:
        """Call the hook from the next step on."""
        handle = StepHandle(self, hook)  # first: what is called must be removable
        with _lock:
            self._call((*self.hooks, hook))
        return handle

    def remove(self, hook: Hook) -> None:
        """Call it no more; with the last one, leave torch's dict."""
        with _lock:
            self._call(tuple(each for each in self.hooks if each is not hook))

    @contextlib.contextmanager
    def only_new(self, table: dict[int, Any]) -> Iterator[None]:
        """Call no hook but those that are added inside."""
        with _lock:
            others = {key: hook for key, hook in table.items() if hook is not self}
            for key in others:
                del table[key]
            kept = self.hooks
            self._call(())
        try:
            yield
        finally:
            with _lock:
                self._call((*kept, *self.hooks))
                table.update(others)

    def _call(self, hooks: tuple[Hook, ...]) -> None:
        """Be in torch's dict if there is anybody to call.

        While torch walks through the dict it stays as it is; the watch that steps
        sweeps up after itself later.
        """
        self.hooks = hooks
        if hooks and self._handle is None:
            self._handle = self._register(self)
        elif not hooks and self._handle is not None and not self._calling:
            handle, self._handle = self._handle, None
            handle.remove()


class StepHandle:
    """Takes one hook off."""

    def __init__(self, walk: _Walk, hook: Hook) -> None:
        self._walk = walk
        self._hook = hook

    def remove(self) -> None:
        """Take it off; repeated calls do nothing."""
        self._walk.remove(self._hook)


_before = _Walk(register_optimizer_step_pre_hook)
_after = _Walk(register_optimizer_step_post_hook)


def call_before_steps(hook: Hook) -> StepHandle:
    """Call a hook before any optimizer of the process steps.

    Args:
        hook: Called with `(optimizer, args, kwargs)` of the step; returns None, or the
            `(args, kwargs)` to step with.

    Returns:
        What takes it off again.
    """
    return _before.add(hook)


def call_after_steps(hook: Hook) -> StepHandle:
    """Call a hook after any optimizer of the process has stepped.

    Args:
        hook: Called with `(optimizer, args, kwargs)` of the step.

    Returns:
        What takes it off again.
    """
    return _after.add(hook)


@contextlib.contextmanager
def only_new_step_hooks() -> Iterator[None]:
    """Hide the hooks of every optimizer's steps, ours and others', from a copy's steps.

    Those that are added inside are called, and stay.

    Yields:
        Nothing.
    """
    tables = sys.modules["torch.optim.optimizer"].__dict__
    before = tables.get("_global_optimizer_pre_hooks", {})
    after = tables.get("_global_optimizer_post_hooks", {})
    with _before.only_new(before), _after.only_new(after):
        yield
