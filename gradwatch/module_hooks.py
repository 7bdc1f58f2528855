"""Hooks on modules for `hooks.py`: those of a probe, and those of compiled wrappers."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from gradwatch.hook_kinds import (
    EnterHook,
    LeaveHook,
    Manager,
    RootLeaveHook,
    WrapperEnterHook,
)
from gradwatch.layers import has_compiled, walk


class ModuleHooks:
    """Hooks that a probe puts on modules and takes off again.

    Where something was compiled, hooks on modules that were not seen to run stay: they
    may be part of a graph, and taking them off would cost a recompile (facts A4). They
    do nothing while no probe is armed.

    Args:
        manager: What the hooks report to.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._ran: set[int] = set()
        self._enter: EnterHook | None = None
        self._handles: dict[int, list[Any]] = {}
        self._kept: dict[int, list[Any]] = {}
        self._wrappers: list[weakref.ref[nn.Module]] = []
        self._wrapper_handles: list[Any] = []

    def arm(self, model: nn.Module) -> None:
        """Register hooks on every module outside compiled regions."""
        self._ran.clear()
        self._kept = {  # without those of modules that are gone
            key: handles
            for key, handles in self._kept.items()
            if handles[0].hooks_dict_ref() is not None
        }
        enter, leave = EnterHook(self._manager, self._ran), LeaveHook(self._manager)
        self._enter = enter
        for _, module, compiled in walk(model):
            scripted = isinstance(module, torch.jit.ScriptModule)
            if compiled or scripted or id(module) in self._kept:
                continue
            handles = self._handles[id(module)] = []
            # One by one: what is registered must be known if the next one fails.
            before = module.register_forward_pre_hook(enter, with_kwargs=True)
            handles.append(before)
            after = module.register_forward_hook(leave, with_kwargs=True, prepend=True)
            handles.append(after)

    def disarm(self) -> None:
        """Remove the hooks of a probe, but none that a compiled graph may contain."""
        keep = has_compiled()
        if self._enter is not None and not keep:
            self._enter.on = False
        for key, handles in self._handles.items():
            if keep and key not in self._ran:
                self._kept[key] = handles
                continue
            for handle in handles:
                handle.remove()
        self._handles.clear()

    def hook_wrappers(self, wrappers: Iterable[nn.Module]) -> None:
        """Hook compiled wrappers around the model: they run outside of their graph."""
        known = [reference() for reference in self._wrappers]
        for wrapper in wrappers:
            if any(wrapper is other for other in known):
                continue
            self._wrappers.append(weakref.ref(wrapper))
            enter = WrapperEnterHook(self._manager)
            leave = RootLeaveHook(self._manager)
            before = wrapper.register_forward_pre_hook(enter, with_kwargs=True)
            self._wrapper_handles.append(before)
            self._wrapper_handles.append(wrapper.register_forward_hook(leave))

    def remove(self) -> None:
        """Remove every hook."""
        kept = [handle for handles in self._kept.values() for handle in handles]
        for handle in (*kept, *self._wrapper_handles):
            handle.remove()
        self._kept.clear()
        self._wrapper_handles.clear()
        self._wrappers.clear()
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()


def run_all(*parts: Callable[[], object]) -> None:
    """Run every part, whatever becomes of the others; raise the first error then.

    Args:
        *parts: What must be done, Ctrl-C or not.
    """
    first: BaseException | None = None
    for part in parts:
        try:
            part()
        except BaseException as error:  # noqa: PERF203 - each part has its own
            first = first or error
    if first is not None:
        raise first


@contextlib.contextmanager
def hooks_on_copy(copy: nn.Module, inspect: Callable[..., None]) -> Iterator[None]:
    """Call `inspect(module, args, kwargs, output)` for every module of our own copy.

    Args:
        copy: A deep copy that only gradwatch runs.
        inspect: Reads a call; its return value must be None.

    Yields:
        Nothing; the hooks come off at the end.
    """
    handles = [
        module.register_forward_hook(inspect, with_kwargs=True)
        for module in copy.modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
