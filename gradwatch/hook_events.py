"""What hooks report to, and what every hook of ours is: inert when it is copied."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer


class Events(Protocol):
    """What a hook manager reports to."""

    def on_root_forward(self, args: tuple[Any, ...], kwargs: Any) -> None:
        """The watched module is about to run."""

    def on_root_output(self, output: Any) -> None:
        """The watched module has run."""

    def on_module_enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module is about to run during a probe."""

    def on_module_muted(self, module: nn.Module) -> None:
        """A module is about to run with gradients off during a probe."""

    def on_module_leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """A module has run during a probe."""

    def on_backward_end(self) -> None:
        """All gradients of a backward pass have arrived."""

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer has watched parameters."""

    def on_step_begin(self, optimizer: Optimizer) -> None:
        """An optimizer is about to update; its gradients are final."""

    def on_step_end(self, optimizer: Optimizer) -> None:
        """An optimizer has updated."""

    def on_rest_end(self, steps: int, *, clock_runs: bool) -> None:
        """So many steps of the clock went by without a look."""

    def on_closure_loss(self, loss: Any) -> None:
        """A closure returned its loss."""

    def on_failure(self) -> None:
        """Hooks were removed after an error of ours."""


class Inert:
    """A hook that a pickle or a deep copy replaces by a no-op of the standard library.

    A closure would make `torch.save(model)` fail, and a copied hook would keep firing
    into this process's recorder (facts A2).
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (contextlib.nullcontext(), "__exit__"))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return contextlib.nullcontext().__exit__

    def __copy__(self) -> Any:
        return contextlib.nullcontext().__exit__


def is_nested_step(optimizer: Optimizer) -> bool:
    """Whether this step runs inside another step of the same optimizer."""
    frame, steps = sys._getframe(1).f_back, 0
    while frame is not None:
        if (
            frame.f_code.co_name == "wrapper"
            and frame.f_globals.get("__name__") == "torch.optim.optimizer"
            and frame.f_locals.get("self") is optimizer
        ):
            steps += 1
            if steps == 2:
                return True
        frame = frame.f_back
    return False


def inside_transform() -> bool:
    """Whether functorch (vmap, grad) or `torch.jit.trace` runs this forward."""
    # Neither trains: the one wraps its tensors, the other would write what our hooks
    # compute into the user's graph.
    if torch._C._is_tracing():
        return True
    functorch = getattr(torch._C, "_functorch", None)
    peek = getattr(functorch, "peek_interpreter_stack", None)
    return peek is not None and peek() is not None
