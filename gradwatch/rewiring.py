"""What a treatment adds around a layer: a `Graft` on the layer, run by its hooks.

A graft changes what a layer reads and returns without touching its class, its names or
the user's `forward`. What must happen at the activation after the layer, which may be a
function call anywhere in the user's code, travels with the data: the layer's output is
marked, the mark passes through views, norms, dropout and sums, and the first matching
activation that reads it answers. An activation of another layer reads no such mark, and
nothing is kept between calls, so threads, nested calls, exceptions, checkpointing and
sub-modules called by themselves need no care.

All of it is part of the treated model: it is copied, pickled and saved with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.activation_marks import (
    Call,
    activation_of,
    finish,
    mark,
    open_calls,
    unmark,
)
from gradwatch.errors import TreatmentError, TreatmentWarning

#: Name under which a graft hangs on its layer, as `parametrizations` does.
GRAFT = "gradwatch"


class Graft(nn.Module):
    """What a treatment hung on one layer.

    Its own forward is the identity: a container that runs all its children (such as
    `nn.Sequential`) runs it without effect; the hooks of the layer do the work.

    Args:
        layer: Qualified name of the layer, for messages.

    Attributes:
        before: Modules that the layer's input passes through.
        pre_norm: Norm of the layer's input that the shortcut does not see.
        after: Modules that the layer's output passes through.
        activation: Module in the place of the activation; None to keep it.
        residual: Whether the input is added.
        scale: What the branch is multiplied with before it is added.
        awaited: Functions one of which is the activation; empty if none is awaited.
        awaited_module: Name of the module that is the activation; empty if none is.
        old: The activation for a reader.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        self.before: nn.ModuleList | None = None
        self.after: nn.ModuleList | None = None
        self.pre_norm: nn.Module | None = None
        self.activation: nn.Module | None = None
        self.residual = False
        self.scale: Tensor | float = 1.0
        self.awaited: tuple[str, ...] = ()
        self.awaited_module = ""
        self.old = ""
        #: Whether the layer was called, and whether its activation was found then.
        self.called = False
        self.met = False

    def forward(self, *args: Any) -> Any:
        """Return what it is given."""
        return args[0] if len(args) == 1 else args

    def extra_repr(self) -> str:
        """Return the formula of the layer."""
        body = f"{self.layer or 'layer'}(norm(x))" if self.pre_norm else "layer(x)"
        body = body.replace(self.layer, "layer") if self.layer else body
        if self.after is not None:
            body = f"after({body})"
        if self.activation is not None:
            body = f"activation({body})"
        elif self.awaits:
            body = f"{self.old}({body})"
        if not self.residual:
            return f"y = {body}"
        scale = "scale" if isinstance(self.scale, Tensor) else f"{self.scale:.4g}"
        return f"y = x + {scale} * {body}"

    @property
    def awaits(self) -> bool:
        """Whether something is to happen at the activation after the layer."""
        return bool(self.awaited or self.awaited_module)

    @property
    def idle(self) -> bool:
        """Whether nothing is left of it."""
        parts = (self.before, self.after, self.pre_norm, self.activation)
        return all(part is None for part in parts) and not self.residual

    def sum_up(self, raw: Tensor, branch: Tensor) -> Tensor:
        """Return the shortcut plus the scaled branch.

        Args:
            raw: What the layer was given.
            branch: What came out of its activation.

        Returns:
            The sum.

        Raises:
            TreatmentError: If their shapes differ.
        """
        if raw.shape != branch.shape:
            raise TreatmentError(
                f"the shortcut around `{self.layer}` cannot be added: the layer reads "
                f"{list(raw.shape)}, and its activation returns {list(branch.shape)}; "
                "leave this layer out, or give it a projection in your own code."
            )
        return raw + self.scale * branch


class Socket(nn.Module):
    """Stands where an activation module was, and answers the marks that wait for it.

    Args:
        name: Qualified name of the activation.
        activation: The activation, which serves every other call.
    """

    def __init__(self, name: str, activation: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.activation = activation
        self.training = activation.training

    def forward(self, subject: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the activation, or what the layer before it asks for."""
        calls = [
            call
            for call in open_calls(subject)
            if call.graft.awaited_module == self.name
        ]
        if not calls:
            result: Tensor = self.activation(subject, *args, **kwargs)
            return result
        chosen = activation_of(calls)
        if chosen is None:
            chosen = self.activation
        return finish(calls, unmark(chosen(unmark(subject), *args, **kwargs)))


def graft_of(module: nn.Module) -> Graft | None:
    """Return the graft of a layer, or None."""
    graft = module._modules.get(GRAFT)
    return graft if isinstance(graft, Graft) else None


def grafts(model: nn.Module) -> Iterator[Graft]:
    """Yield the grafts of a model."""
    for module in model.modules():
        if isinstance(module, Graft):
            yield module


def attach(module: nn.Module, layer: str) -> Graft:
    """Return the graft of a layer; hang one on it, with its hooks, if it has none."""
    graft = graft_of(module)
    if graft is None:
        graft = Graft(layer)
        graft.train(module.training)
        module.add_module(GRAFT, graft)
        module.register_forward_pre_hook(_Enter(), with_kwargs=True)
        module.register_forward_hook(_Leave(), with_kwargs=True)
    return graft


def detach(module: nn.Module) -> None:
    """Take a graft and its hooks off a layer."""
    module._modules.pop(GRAFT, None)
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, _Enter | _Leave):
                del hooks[key]


def guard_root(model: nn.Module) -> None:
    """Let the root give out unmarked tensors, and warn of activations not found."""
    if not any(isinstance(h, _AtRoot) for h in model._forward_hooks.values()):
        model.register_forward_hook(_AtRoot())


# -- hooks ----------------------------------------------------------------------------


class _Enter:
    """Before a layer: its input passes through what was put before it."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        graft = graft_of(module)
        if graft is None or (graft.before is None and graft.pre_norm is None):
            return None
        key = None if args else _first_tensor_key(kwargs)
        if not args and key is None:
            return None
        raw = args[0] if args else kwargs[key]
        if not isinstance(raw, Tensor):
            return None
        raw = unmark(raw)
        for inserted in graft.before or ():
            raw = inserted(raw)
        given = raw
        if graft.pre_norm is not None:
            given = graft.pre_norm(raw)
            if given is not raw:
                # The shortcut adds the raw input, which only this tensor can hand on.
                given._gradwatch_raw = raw
        if args:
            return (given, *args[1:]), kwargs
        return args, {**kwargs, key: given}


class _Leave:
    """After a layer: its output passes through what was put after it."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        graft = graft_of(module)
        if graft is None:
            return None
        first = output[0] if type(output) is tuple and output else output
        if not isinstance(first, Tensor):
            return None
        if graft.after is None and not graft.residual and not graft.awaits:
            return None
        result = first
        for inserted in graft.after or ():
            result = inserted(unmark(result))
        if graft.residual or graft.awaits:
            key = None if args else _first_tensor_key(kwargs)
            given = args[0] if args else kwargs.get(key)
            raw = unmark(getattr(given, "_gradwatch_raw", given))
            if not isinstance(raw, Tensor):
                return None
            if graft.awaits:
                if not graft.called:
                    graft.called = True
                calls = (*open_calls(result), Call(graft, raw))
                result = mark(result, calls)
            else:
                result = graft.sum_up(raw, result)
        return (result, *output[1:]) if type(output) is tuple else result


class _AtRoot:
    """After the root: no mark leaves it; say which activation was not found."""

    def __init__(self) -> None:
        self.checked = False

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if torch.compiler.is_compiling():
            return None
        if not self.checked:
            self.checked = True
            missing = unanswered(module)
            if missing:
                warnings.warn(
                    "the treatment did not find the activation after "
                    f"{', '.join(missing)} in this forward: it stays as it was there. "
                    "Change these in your own code.",
                    TreatmentWarning,
                    stacklevel=2,
                )
        return _unmark_all(output)


def _unmark_all(value: Any) -> Any:
    if isinstance(value, Tensor):
        return unmark(value)
    if type(value) in {list, tuple}:
        return type(value)([_unmark_all(part) for part in value])
    if type(value) is dict:
        return {key: _unmark_all(part) for key, part in value.items()}
    return value


def unanswered(model: nn.Module) -> tuple[str, ...]:
    """Return the layers that were called but never met the activation awaited."""
    return tuple(g.layer for g in grafts(model) if g.called and not g.met)


def _first_tensor_key(kwargs: dict[str, Any]) -> str | None:
    if isinstance(kwargs.get("input"), Tensor):
        return "input"
    return next((k for k, v in kwargs.items() if isinstance(v, Tensor)), None)
