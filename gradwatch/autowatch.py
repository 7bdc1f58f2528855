"""Finds what a script trains, and watches it, without a line of the script changed."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradwatch.session import Watch, watch

#: Wrappers that own no parameters themselves; the model inside is what is watched.
_WRAPPERS = ("DistributedDataParallel", "DataParallel")
#: More watches than this are a script that makes models in a loop (a search, a test):
#: each costs hooks and a report nobody reads. Chosen, not measured.
_MAX_WATCHES = 16


class AutoWatch:
    """Watches the outermost module behind every optimizer that a script makes.

    Optimizers are noticed when they are made, before the first forward, so that the
    first step is probed. The modules that own their parameters are looked for among all
    living objects; a module inside another one found is part of that.

    Args:
        options: Keyword arguments of `gradwatch.watch`.
    """

    def __init__(self, **options: Any) -> None:
        self.watches: list[Watch] = []
        self.refused = 0
        self._options = options
        self._seen: set[int] = set()
        self._original: Callable[..., None] | None = None

    def install(self) -> None:
        """Notice every optimizer from now on."""
        if self._original is not None:
            return
        original = self._original = Optimizer.__init__
        notice = self.notice

        @functools.wraps(original)
        def init(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            notice(optimizer)

        Optimizer.__init__ = init  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        """Notice no more optimizers; the watches go on."""
        if self._original is not None:
            Optimizer.__init__ = self._original  # type: ignore[method-assign]
            self._original = None

    def close(self) -> None:
        """Close every watch, which prints its report."""
        self.remove()
        for one in self.watches:
            one.close()

    def notice(self, optimizer: Optimizer) -> None:
        """Watch what an optimizer trains, unless gradwatch itself made it."""
        if _made_by_us(sys._getframe(1)):
            return
        for module in outermost(optimizer):
            if id(module) in self._seen:
                continue
            if len(self.watches) >= _MAX_WATCHES:
                self.refused += 1
                continue
            self._seen.add(id(module))
            name = self._name(module)
            self.watches.append(watch(module, name=name, **self._options))

    def _name(self, module: nn.Module) -> str:
        """Return a class name, numbered from the second of its kind."""
        kind = type(module).__name__
        same = [w for w in self.watches if w.name.split(" #")[0] == kind]
        return f"{kind} #{len(same) + 1}" if same else kind


def outermost(optimizer: Optimizer) -> list[nn.Module]:
    """Return the largest modules that own parameters of an optimizer.

    Args:
        optimizer: The optimizer. Read only.

    Returns:
        Modules that no other of them contains, those with most of its parameters first.
    """
    wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
    owned: dict[int, int] = {}
    modules: dict[int, nn.Module] = {}
    for module in _living_modules():
        count = len(wanted & {id(p) for p in module.parameters()})
        if count and type(module).__name__ not in _WRAPPERS:
            owned[id(module)], modules[id(module)] = count, module
    inside = {
        id(child)
        for module in modules.values()
        for child in module.modules()
        if child is not module
    }
    chosen = [key for key in modules if key not in inside]
    return [modules[key] for key in sorted(chosen, key=lambda k: -owned[k])]


def _living_modules() -> Iterable[nn.Module]:
    # Not isinstance: it asks `__class__`, which a lazy object of the user's may answer
    # by loading something.
    return [o for o in gc.get_objects() if issubclass(type(o), nn.Module)]


def _made_by_us(frame: FrameType | None) -> bool:
    """Whether a trial of ours makes the optimizer, for a copy of the model."""
    for _ in range(30):
        if frame is None:
            return False
        module = frame.f_globals.get("__name__", "")
        if module.startswith("gradwatch.") and module not in _NOT_MAKERS:
            return True
        frame = frame.f_back
    return False


#: Modules of ours below which the user's own code runs.
_NOT_MAKERS = frozenset(
    {__name__, "gradwatch.cli", "gradwatch.__main__", "gradwatch.script"}
)
