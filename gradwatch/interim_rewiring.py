"""Exchanges what happens after a layer, in a model whose forward cannot be edited.

A functional activation has no module to replace. While the treated model's forward
runs, a `TorchFunctionMode` sees each activation call, from `F.relu` to `nn.Tanh`, and
where it follows a layer that is to be rewired, does what the treatment says instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Name of the rewiring among the children of a treated root.
CHILD = "gradwatch_rewiring"
#: Nodes of the autograd graph looked at to find the layer that an activation follows.
_MAX_NODES = 64


def _names() -> dict[Callable[..., Any], str]:
    names = (
        "relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "celu", "leaky_relu",
        "prelu", "rrelu", "hardtanh", "hardswish", "hardsigmoid", "softplus",
        "softsign", "mish", "logsigmoid", "tanhshrink", "exp", "relu6",
    )  # fmt: skip
    found: dict[Callable[..., Any], str] = {}
    for name in names:
        for owner in (torch, F, Tensor, torch._C._nn):
            for key in (name, f"{name}_"):
                function = getattr(owner, key, None)
                if function is not None:
                    found[function] = "relu" if name == "relu6" else name
    return found


#: Activation functions by the name that `Structure` gives them.
FUNCTIONS: Mapping[Callable[..., Any], str] = _names()


class Edit(nn.Module):
    """What is done after (or before) one layer.

    Attributes:
        layer: The layer.
        activation: Name of the activation call that is rewired; empty for none.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        self.activation = ""
        self.swap: nn.Module | None = None
        self.norm: nn.Module | None = None
        self.before: nn.Module | None = None
        self.after: nn.Module | None = None
        self.residual = False
        self.register_parameter("scale", None)

    def extra_repr(self) -> str:
        """Say which layer, and what of it is rewired."""
        place = f"{self.layer!r}"
        if self.activation:
            place += f", activation={self.activation!r}"
        if self.residual and self.scale is not None:
            place += f", residual_scale={float(self.scale):.3g}"
        return place

    def apply_to(self, value: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what follows the layer: norm, activation, shortcut without its end."""
        if self.norm is not None:
            value = self.norm(value)
        return call(value) if self.swap is None else self.swap(value)


@dataclass(slots=True)
class _Pending:
    edit: Edit
    output: Tensor
    entry: Tensor | None
    version: int


class Edits(nn.Module):
    """The edits by layer; a layer's dots become dashes, which names may hold."""

    def get(self, layer):
        return self._modules.get(layer.replace(".", "-"))

    def __setitem__(self, layer: str, edit: nn.Module) -> None:
        self.add_module(layer.replace(".", "-"), edit)


class Rewiring(nn.Module):
    """The rewired layers of one treated model, and what they own."""

    def __init__(self) -> None:
        super().__init__()
        self.edits = Edits()
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what only a running forward has."""
        return {k: v for k, v in self.__dict__.items() if k != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a copy's state."""
        self.__dict__.update(state)
        self._local = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> Rewiring:
        """Return a copy with no forward under way."""
        import copy

        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return new

    @property
    def _modes(self) -> list[_Mode]:
        if not hasattr(self._local, "modes"):
            self._local.modes = []
        return self._local.modes

    def enter(self) -> None:
        """Begin to rewire: the treated model's forward starts."""
        mode = _Mode(self)
        mode.__enter__()
        self._modes.append(mode)

    def leave(self) -> None:
        """End what `enter` began, also after an exception."""
        if self._modes:
            self._modes.pop().__exit__(None, None, None)

    def note(self, edit: Edit, entry: Tensor | None, output: Tensor) -> None:
        """Remember that a layer has run: its activation comes next."""
        if self._modes and edit.activation:
            version = -1 if entry is None else entry._version
            self._modes[-1].pending[edit.layer] = _Pending(edit, output, entry, version)


class _Mode(TorchFunctionMode):
    def __init__(self, rewiring: Rewiring) -> None:
        super().__init__()
        self.rewiring = rewiring
        self.pending: dict[str, _Pending] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = FUNCTIONS.get(func) if self.pending else None
        value = args[0] if args else kwargs.get("input")
        waiting = None if name is None else self._claim(name, value)
        if waiting is None:
            return func(*args, **kwargs)
        in_place = kwargs.pop("inplace", False) or func.__name__.endswith("_")

        def call(x: Tensor) -> Tensor:
            rest = {k: v for k, v in kwargs.items() if k != "input"}
            return func(x, *args[1:], **rest)

        source = value.clone() if in_place else value
        result = waiting.edit.apply_to(source, call)
        if waiting.edit.residual:
            result = _sum(waiting, result)
        return value.copy_(result) if in_place else result

    def _claim(self, name: str, value: Any) -> _Pending | None:
        """Return the layer whose activation this call is, and forget it."""
        fitting = [p for p in self.pending.values() if p.edit.activation == name]
        if not fitting or not isinstance(value, Tensor):
            return None
        chosen = next((p for p in fitting if p.output is value), None)
        if chosen is None and value.grad_fn is not None:
            chosen = _nearest(value, fitting)
        elif chosen is None:
            same = [p for p in fitting if p.output.shape == value.shape]
            chosen = same[-1] if same else None
        if chosen is not None:
            del self.pending[chosen.edit.layer]
        return chosen


def _nearest(value: Tensor, fitting: list[_Pending]) -> _Pending | None:
    """Return the layer whose output is nearest above a value in the autograd graph."""
    wanted = {p.output.grad_fn: p for p in fitting if p.output.grad_fn is not None}
    level, seen = [value.grad_fn], 0
    while level and seen < _MAX_NODES:
        following = []
        for node in level:
            if node in wanted:
                return wanted[node]
            seen += 1
            following += [n for n, _ in node.next_functions if n is not None]
        level = following
    return None


def _sum(waiting: _Pending, result: Tensor) -> Tensor:
    entry, layer = waiting.entry, waiting.edit.layer
    if entry is None or entry.shape != result.shape:
        shape = None if entry is None else tuple(entry.shape)
        raise RuntimeError(
            f"`{layer}` takes {shape} and its activation returns {tuple(result.shape)}: "
            "a residual connection needs equal shapes; leave this layer out."
        )
    return entry + waiting.edit.scale * result


class EnterHook:
    """Forward pre-hook of the root."""

    def __init__(self, rewiring: Rewiring) -> None:
        self.rewiring = rewiring

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.rewiring.enter()


class LeaveHook:
    """Forward hook of the root, called also after an exception."""

    def __init__(self, rewiring: Rewiring) -> None:
        self.rewiring = rewiring

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.rewiring.leave()


class BeforeHook:
    """Forward pre-hook of a layer: keeps its input, or passes it through a module."""

    def __init__(self, rewiring: Rewiring, edit: Edit) -> None:
        self.rewiring, self.edit = rewiring, edit

    def __call__(self, module: nn.Module, args: Any) -> Any:
        self.edit.__dict__["_entry"] = args[0] if args else None
        if self.edit.before is None or not args:
            return None
        return (self.edit.before(args[0]), *args[1:])


class AfterHook:
    """Forward hook of a layer: notes that it ran, or passes its output on."""

    def __init__(self, rewiring: Rewiring, edit: Edit) -> None:
        self.rewiring, self.edit = rewiring, edit

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        entry = self.edit.__dict__.pop("_entry", None)
        if isinstance(output, Tensor):
            self.rewiring.note(self.edit, entry, output)
            if self.edit.after is not None:
                return self.edit.after(output)
        return None
