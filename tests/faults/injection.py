"""Make any function of gradwatch raise, at any of its calls, while a network trains.

A profile function sees every call of a Python function. What it raises at a call leaves
that call as if its first line had raised: every function is a place for a fault, also
methods, properties, lambdas and comprehensions, without patching one.
"""

import dis
import gc
import inspect
import sys
import types
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

#: Functions that torch, the interpreter or the user calls. Nothing of ours stands above
#: them, so a fault of the call itself cannot be caught; what they call is caught.
ENTRY_POINTS = {
    ("gradwatch.hook_kinds", "EnterHook.__call__"),
    ("gradwatch.hook_kinds", "LeaveHook.__call__"),
    ("gradwatch.hook_kinds", "RootEnterHook.__call__"),
    ("gradwatch.hook_kinds", "RootLeaveHook.__call__"),
    ("gradwatch.hook_kinds", "BackwardEndHook.__call__"),
    ("gradwatch.hook_kinds", "BackwardEndHook._first"),
    ("gradwatch.hook_kinds", "BackwardEndHook._second"),
    ("gradwatch.hook_kinds", "OptimizerPre.__call__"),
    ("gradwatch.hook_kinds", "OptimizerPost.__call__"),
    ("gradwatch.step_hooks", "_Walk.__call__"),
    ("gradwatch.hooks", "HookManager.hook_tensor.<locals>.on_gradient"),
    ("gradwatch.hooks", "HookManager.hook_node.<locals>.on_gradients"),
    ("gradwatch.hooks", "HookManager._wrap.<locals>.watched_closure"),
    # The two nets that catch: `try` is all they do.
    ("gradwatch.hooks", "HookManager.guard"),
    ("gradwatch.hooks", "HookManager.attempt"),
    # Called by the user.
    ("gradwatch.session", "watch"),
    ("gradwatch.session", "Watch.__enter__"),
    ("gradwatch.session", "Watch.__exit__"),
    ("gradwatch.session", "Watch.close"),
    ("gradwatch.session_reports", "WatchReports.report"),
    ("gradwatch.session", "Watch.step"),
    ("gradwatch.session", "Watch.log"),
    ("gradwatch.session", "Watch.attach"),
}


@dataclass(frozen=True, order=True)
class Place:
    """A function of gradwatch, in one phase of a run.

    Attributes:
        phase: `watch` (attaching), `loop` or `end` (report and close).
        module: Its module.
        name: Its qualified name.
        line: Where it begins.
    """

    phase: str
    module: str
    name: str
    line: int

    def __str__(self):
        return f"{self.module}.{self.name}:{self.line} ({self.phase})"


@cache
def begin_of(code):
    """Return where the body of a generator begins, among its instructions."""
    return next(
        (item.offset for item in dis.get_instructions(code) if item.opname == "RESUME"),
        0,
    )


class Profiler:
    """Counts the calls of every function of gradwatch; raises at one of them.

    Args:
        place: Where to raise; None to count only.
        call: At which of its calls, from 1. Python then drops the profiler.
        error: What to raise.

    Attributes:
        phase: Set by the run.
        calls: Calls seen, by place.
        fired: How often it raised.
    """

    def __init__(self, place=None, call=1, error=None):
        self.place, self.call, self.error = place, call, error
        self.phase = "watch"
        self.calls = Counter()
        self.fired = 0
        self._wanted = None if place is None else (place.name, place.line)

    def __call__(self, frame, event, _):
        if event != "call":
            return
        code = frame.f_code
        if self._wanted is not None and (
            code.co_qualname != self._wanted[0]
            or code.co_firstlineno != self._wanted[1]
            or self.phase != self.place.phase
        ):
            return
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("gradwatch.") or code.co_name == "<module>":
            return
        if code.co_flags & inspect.CO_GENERATOR and frame.f_lasti > begin_of(code):
            return  # it goes on, or is closed, where only its own `try` may catch
        if self._wanted is not None and module != self.place.module:
            return
        place = Place(self.phase, module, code.co_qualname, code.co_firstlineno)
        self.calls[place] += 1
        if self._wanted is not None and self.call == self.calls[place]:
            self.fired += 1
            raise self.error


@contextmanager
def profiled(profiler):
    """Profile this thread inside the block."""
    old = sys.getprofile()
    sys.setprofile(profiler)
    try:
        yield profiler
    finally:
        sys.setprofile(old)


@cache
def functions():
    """Return the functions of gradwatch that exist, by module, name and line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old names of torch warn when looked at
        found = [item for item in gc.get_objects() if type(item) is types.FunctionType]
    return {
        (item.__module__, item.__qualname__, item.__code__.co_firstlineno): item
        for item in found
        if str(item.__module__).startswith("gradwatch.")
    }


def _raise(*args, **kwargs):
    raise "placeholder"  # noqa: B016 - the constant is replaced


@contextmanager
def always_raising(function, error):
    """Let every call of a function raise inside the block, wherever it is bound."""
    kept = function.__code__
    consts = tuple(
        error if const == "placeholder" else const
        for const in _raise.__code__.co_consts
    )
    function.__code__ = _raise.__code__.replace(
        co_consts=consts, co_freevars=kept.co_freevars
    )
    try:
        yield
    finally:
        function.__code__ = kept
