"""Marks on a layer's output, by which the activation that follows it is found.

The mark is a tensor subclass: it passes through views, norms, dropout and sums, stops
at the next weights, and the first matching activation that reads it answers. Nothing is
kept between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradwatch.errors import TreatmentError

#: Other functions that compute an activation, as the autograd graph names it.
_ALSO = {
    "relu": ("relu6", "threshold", "clamp_min"),
    "elu": ("selu", "celu"),
    "hardtanh": ("relu6", "clamp"),
    "logsigmoid": ("log_sigmoid",),
    "rrelu": ("rrelu_with_noise",),
}
_ACTIVATIONS = frozenset(
    {"relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "hardtanh"}
    | {"softplus", "prelu", "mish", "hardswish", "hardsigmoid", "log_sigmoid"}
    | {"threshold", "celu", "selu", "rrelu", "exp", "relu6", "softsign", "glu"}
)
#: Functions that multiply by weights: a mark does not pass, as the next layer begins.
_STOPS = frozenset(
    {"linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv"}
    | {"addmm", "addmv", "addbmm", "baddbmm", "einsum", "dot", "tensordot"}
    | {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"}
    | {"conv_transpose3d", "conv_tbc", "scaled_dot_product_attention"}
    | {"multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu"}
    | {"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "embedding"}
    | {"__get__", "__set__"}
)
#: Place of the argument `inplace` where it is given by position.
_INPLACE = {"relu": 1, "relu6": 1, "selu": 1, "silu": 1, "mish": 1, "hardswish": 1}
_INPLACE |= {"hardsigmoid": 1, "elu": 2, "celu": 2, "leaky_relu": 2, "threshold": 3}
_INPLACE |= {"hardtanh": 3, "rrelu": 4}


class Waiting(Protocol):
    """What waits for an activation; a graft (`rewiring.py`).

    Attributes:
        layer: Qualified name of the layer.
        activation: Module in the place of the activation; None to keep it.
        residual: Whether the layer's input is added.
        awaited: Functions one of which is the activation.
        awaited_module: Name of the module that is the activation.
        met: Whether the activation was ever found.
    """

    layer: str
    activation: nn.Module | None
    residual: bool
    awaited: tuple[str, ...]
    awaited_module: str
    met: bool

    def sum_up(self, raw: Tensor, branch: Tensor) -> Tensor:
        """Return the shortcut plus the scaled branch."""
        ...


def function_names(activation: str) -> tuple[str, ...]:
    """Return the names of the functions that compute an activation."""
    return (activation, *_ALSO.get(activation, ()))


class Call:
    """One call of a layer whose activation is yet to come."""

    __slots__ = ("done", "graft", "raw", "version")

    def __init__(self, graft: Waiting, raw: Tensor) -> None:
        self.graft = graft
        self.raw = raw if graft.residual else None
        self.version = _version(raw)
        self.done = False

    def shortcut(self) -> Tensor:
        """Return the layer's input, as it was."""
        assert self.raw is not None
        if _version(self.raw) != self.version:
            raise TreatmentError(
                f"the input of `{self.graft.layer}` was changed in place before the "
                "shortcut could add it; do not change it in place between the layer "
                "and its activation."
            )
        return self.raw


def _version(tensor: Tensor) -> int:
    if torch.compiler.is_compiling() or tensor.is_inference():
        return -1
    return tensor._version


class Marked(Tensor):
    """A layer's output, or what was made of it, on the way to its activation."""

    calls: tuple[Call, ...]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function; answer the marks if it is the awaited activation."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        inplace = name[-1:] == "_" and name[-2:] != "__"
        if inplace:
            name = name[:-1]
        subject = args[0] if args else kwargs.get("input")
        waiting = [c for c in open_calls(subject) if name in c.graft.awaited]
        if waiting:
            place = _INPLACE.get(name, len(args))
            inplace = inplace or kwargs.get("inplace") is True
            inplace = inplace or args[place : place + 1] == (True,)
            return _answer(waiting, func, inplace, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if name in _STOPS or name in _ACTIVATIONS:
            return result
        calls: tuple[Call, ...] = ()
        for value in (*args, *kwargs.values()):
            for part in value if isinstance(value, list | tuple) else (value,):
                for call in open_calls(part):
                    if call not in calls:
                        calls = (*calls, call)
        return _mark_all(result, calls) if calls else result


def open_calls(value: Any) -> tuple[Call, ...]:
    """Return the calls of a tensor's mark that still wait."""
    if not isinstance(value, Marked):
        return ()
    return tuple(call for call in getattr(value, "calls", ()) if not call.done)


def _mark_all(result: Any, calls: tuple[Call, ...]) -> Any:
    if isinstance(result, Tensor):
        return mark(result, calls)
    if type(result) in {list, tuple}:
        return type(result)([_mark_all(part, calls) for part in result])
    return result


def mark(tensor: Tensor, calls: tuple[Call, ...]) -> Tensor:
    """Return the tensor, marked; what is not a plain floating tensor stays as it is."""
    if type(tensor) not in {Tensor, Marked} or not tensor.is_floating_point():
        return tensor
    marked = tensor if isinstance(tensor, Marked) else tensor.as_subclass(Marked)
    marked.calls = calls
    return marked


def unmark(value: Any) -> Any:
    """Return a tensor without its mark; anything else as it is."""
    if not isinstance(value, Marked):
        return value
    if torch.compiler.is_compiling():  # which cannot trace `as_subclass` both ways
        with torch._C.DisableTorchFunctionSubclass():
            return value.view_as(value)
    return value.as_subclass(Tensor)


def _answer(
    calls: list[Call], func: Callable[..., Any], inplace: bool, args: Any, kwargs: Any
) -> Tensor:
    """Do at the activation what the grafts ask for."""
    subject = args[0] if args else kwargs["input"]
    plain = unmark(subject)
    # In place, what the new activation or the sum needs would be overwritten.
    work = plain.clone() if inplace else plain
    exchanged = activation_of(calls)
    if exchanged is not None:
        branch: Tensor = exchanged(work)
    else:
        rest = {key: v for key, v in kwargs.items() if key != "input"}
        branch = unmark(func(work, *args[1:], **rest))
    result = finish(calls, branch)
    if not inplace:
        return result
    plain.copy_(result)
    return subject  # type: ignore[no-any-return]


def activation_of(calls: list[Call]) -> nn.Module | None:
    """Return the module that takes the place of the activation of some calls."""
    for call in calls:
        if call.graft.activation is not None:
            return call.graft.activation
    return None


def finish(calls: list[Call], branch: Tensor) -> Tensor:
    """Return what comes out of an activation: the branch, or the sum with it.

    Args:
        calls: Calls whose activation this is: more than one where outputs were added
            before it; the first that has a shortcut gets it.
        branch: What the activation returned.

    Returns:
        The output in its place.
    """
    result, added = branch, False
    for call in calls:
        call.done = True
        if not call.graft.met:
            call.graft.met = True
        if call.graft.residual and not added:
            added = True
            result = call.graft.sum_up(call.shortcut(), branch)
    return result
