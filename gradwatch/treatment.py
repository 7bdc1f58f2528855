"""Primitive edits on a deep copy of a model; the only file that changes a model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradwatch.anatomy import ActivationSite
from gradwatch.errors import ModelError, TreatmentError
from gradwatch.layers import clean_name
from gradwatch.recommendations import Change, Treatment
from gradwatch.rewiring import (
    CHILD,
    AfterHook,
    BeforeHook,
    Edit,
    EnterHook,
    LeaveHook,
    Rewiring,
)

#: Attribute of a treated model that says what was changed.
BOOK = "gradwatch_treatment"


class ModelEditor:
    """Edits a deep copy of a model and books every change.

    Names are those of `named_modules()`, without the prefixes that wrappers add. The
    copy keeps device, dtype, mode, tied weights and the names of its state dict; what
    an edit adds is found under `gradwatch_rewiring`, or beside the activation that it
    replaced.

    Args:
        model: The model to treat. It is copied, never changed.

    Raises:
        ModelError: If the model cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.model = copy.deepcopy(model)
        except Exception as error:
            raise ModelError(
                f"`model` (={type(model).__name__}) cannot be copied, and a treatment "
                f"edits a copy ({str(error).partition('. ')[0]}); treat it before its "
                "first forward, or drop tensors that it keeps from its last one."
            ) from error
        for parameter in self.model.parameters():
            parameter.grad = None
        self.changes: list[Change] = []

    def finish(self, remedies: tuple[str, ...]) -> nn.Module:
        """Return the treated copy, with the book of what was changed."""
        before = getattr(self.model, BOOK, Treatment((), ()))
        book = Treatment(
            (*before.remedies, *remedies), (*before.changes, *self.changes)
        )
        setattr(self.model, BOOK, book)
        return self.model

    # -- finding ------------------------------------------------------------------

    def module(self, name: str) -> nn.Module:
        """Return a module of the copy.

        Args:
            name: Qualified name; empty for the model itself.

        Returns:
            The module.

        Raises:
            TreatmentError: If there is none of that name.
        """
        for key, module in self.model.named_modules():
            if clean_name(key) == name:
                found: nn.Module = module
                return found
        raise TreatmentError(
            f"`{name}` is no module of {type(self.model).__name__}: the recommendation "
            "was made for another model; watch this one."
        )

    def book(self, layer: str, what: str, before: object, after: object) -> None:
        """Note a change."""
        self.changes.append(Change(layer, what, str(before), str(after)))

    # -- modules ------------------------------------------------------------------

    def replace(self, name: str, module: nn.Module) -> None:
        """Put a module where another is, at every place that shares it.

        Args:
            name: The module to replace.
            module: The new one; it goes to the old one's device, dtype and mode.

        Raises:
            TreatmentError: If it is the model itself, which nothing holds.
        """
        old = self.module(name)
        if old is self.model:
            raise TreatmentError(
                "The model itself cannot be replaced, only a module inside it; wrap it "
                "in an nn.Sequential."
            )
        new = _like(old, module)
        for parent in list(self.model.modules()):
            for key, child in parent._modules.items():
                if child is old:
                    parent._modules[key] = new
        self.book(name, "module", _shown(old), _shown(new))

    def set_attribute(self, name: str, attribute: str, value: object) -> None:
        """Set a plain attribute of a module, such as `norm_first`.

        Args:
            name: The module.
            attribute: Name of an attribute that it has.
            value: The new value.

        Raises:
            TreatmentError: If the module has no such attribute.
        """
        module = self.module(name)
        if not hasattr(module, attribute):
            raise TreatmentError(
                f"`{name}` (={type(module).__name__}) has no attribute {attribute!r}."
            )
        self.book(name, attribute, getattr(module, attribute), value)
        setattr(module, attribute, value)

    def fill(
        self, name: str, parameter: str, draw: Callable[[Tensor], object], how: str
    ) -> None:
        """Draw a parameter anew, in place.

        A parametrized weight is drawn free of its parametrization and set through it.

        Args:
            name: The module that owns it.
            parameter: Name in that module, such as `weight` or `weight_hh_l0`.
            draw: Fills the tensor that it gets, without gradient.
            how: How it is drawn, for the book.

        Raises:
            TreatmentError: If there is no such parameter, it has no size yet, or its
                parametrization cannot take a value.
        """
        module = self.module(name)
        tensor = getattr(module, parameter, None)
        if not isinstance(tensor, Tensor) or is_lazy(tensor):
            raise TreatmentError(
                f"`{name}.{parameter}` is no parameter that can be drawn anew: run the "
                "model once if its layers are lazy."
            )
        before = _spread(tensor)
        if parameter in _parametrized(module):
            value = tensor.detach().clone()
            draw(value)
            try:
                with torch.no_grad():
                    setattr(module, parameter, value)
            except Exception as error:
                raise TreatmentError(
                    f"`{name}.{parameter}` is parametrized, and its parametrization "
                    f"takes no value ({error}); remove it first with "
                    "torch.nn.utils.parametrize.remove_parametrizations."
                ) from error
            tensor = getattr(module, parameter)
        else:
            with torch.no_grad():
                draw(tensor)
        self.book(name, parameter, before, f"{_spread(tensor)} ({how})")

    # -- what follows a layer -----------------------------------------------------

    def swap_activation(
        self, site: ActivationSite, to: Callable[[], nn.Module]
    ) -> None:
        """Exchange the activation that follows a weight layer.

        A module of that layer alone is replaced; a function, or a module that other
        layers share, is exchanged while the model's forward runs (`Rewiring`).

        Args:
            site: The activation.
            to: Makes the new one.
        """
        new = to()
        if self._is_own(site):
            assert site.module is not None
            if getattr(self.module(site.module), "inplace", False) and hasattr(
                new, "inplace"
            ):
                new.inplace = True  # type: ignore[assignment] # a plain attribute
            self.replace(site.module, new)
            return
        edit = self._edit(site.layer, self._called(site))
        edit.swap = _like(self.module(site.layer), new)
        self.book(site.layer, "activation", site.activation, _shown(new))

    def add_norm(
        self, layer: str, norm: nn.Module, site: ActivationSite | None
    ) -> None:
        """Put a norm between a weight layer and its activation, or after the layer.

        Args:
            layer: The weight layer.
            norm: The norm.
            site: Its activation; None if it has none.
        """
        norm = _like(self.module(layer), norm)
        if site is not None and self._is_own(site):
            assert site.module is not None
            old = self.module(site.module)
            pair = nn.Sequential(norm, old).train(old.training)
            self.replace(site.module, pair)
            return
        if site is None:
            self._edit(layer).after = norm
        else:
            self._edit(layer, self._called(site)).norm = norm
        self.book(layer, "norm", "none", _shown(norm))

    def add_residual(
        self,
        layer: str,
        site: ActivationSite | None,
        scale: float,
        *,
        learned: bool = False,
        pre_norm: nn.Module | None = None,
    ) -> None:
        """Return the layer's input plus `scale` times what its activation returned.

        With `pre_norm` the layer reads the normalised input; the sum gets the raw one.

        Args:
            layer: The weight layer; its output must have its input's shape.
            site: Its activation; None if it has none.
            scale: Factor of the branch.
            learned: Whether the factor is a parameter that starts at `scale` (ReZero,
                SkipInit).
            pre_norm: Norm at the start of the branch.
        """
        edit = self._edit(layer, "" if site is None else self._called(site))
        owner = self.module(layer)
        sample = next(owner.parameters())
        factor = torch.tensor(float(scale), device=sample.device, dtype=sample.dtype)
        if hasattr(edit, "scale"):
            del edit.scale
        if learned:
            edit.scale = nn.Parameter(factor)
        else:
            edit.register_buffer("scale", factor)
        edit.residual = True
        if pre_norm is not None:
            edit.before = _like(owner, pre_norm)
        shown = f"input + {scale:.3g} x branch" + (", learned" if learned else "")
        self.book(layer, "residual", "none", shown)

    def insert_before(self, layer: str, module: nn.Module) -> None:
        """Pass the layer's input through a module first."""
        self._edit(layer).before = _like(self.module(layer), module)
        self.book(layer, "input", "as it is", _shown(module))

    def insert_after(self, layer: str, module: nn.Module) -> None:
        """Pass the layer's output through a module."""
        self._edit(layer).after = _like(self.module(layer), module)
        self.book(layer, "output", "as it is", _shown(module))

    # -- inside -------------------------------------------------------------------

    def _is_own(self, site: ActivationSite) -> bool:
        """Whether the activation is a module that serves this layer alone."""
        if site.module is None or site.shared_with:
            return False
        module = self.module(site.module)
        held = sum(
            child is module
            for parent in self.model.modules()
            for child in parent._modules.values()
        )
        return held == 1 and module is not self.model

    def _called(self, site: ActivationSite) -> str:
        """Return the activation that the layer's call will see: it may be new."""
        if site.module is None:
            return site.activation
        return _FUNCTION_OF.get(type(self.module(site.module)), site.activation)

    def _edit(self, layer: str, activation: str = "") -> Edit:
        """Return the rewiring of a layer, made and hooked up where it is new."""
        root = self.model
        rewiring = root._modules.get(CHILD)
        if not isinstance(rewiring, Rewiring):
            rewiring = Rewiring()
            root.add_module(CHILD, rewiring)
            root.register_forward_pre_hook(EnterHook(rewiring))
            root.register_forward_hook(LeaveHook(rewiring), always_call=True)
        edit = rewiring.edits.get(layer)
        if edit is None:
            edit = Edit(layer)
            rewiring.edits[layer] = edit
            module = self.module(layer)
            module.register_forward_pre_hook(BeforeHook(rewiring, edit))
            module.register_forward_hook(AfterHook(rewiring, edit))
        if activation:
            edit.activation = activation
        return edit


#: Name under which a module's own function call is seen, where it is another one.
_FUNCTION_OF: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def _like(old: nn.Module, new: nn.Module) -> nn.Module:
    """Return a new module on an old one's device, in its dtype and mode."""
    sample = next(
        (t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), None
    )
    if sample is not None:
        new = new.to(device=sample.device, dtype=sample.dtype)
    return new.train(old.training)


def _parametrized(module: nn.Module) -> tuple[str, ...]:
    lists = module._modules.get("parametrizations")
    return tuple(lists) if isinstance(lists, nn.ModuleDict) else ()


def _spread(tensor: Tensor) -> str:
    values = tensor.detach().float()
    if values.numel() < 2:
        return f"{float(values):.3g}" if values.numel() else "empty"
    return f"mean {float(values.mean()):.2g} std {float(values.std()):.3g}"


def _shown(module: nn.Module) -> str:
    text = " ".join(repr(module).split())
    return text if len(text) <= 60 else type(module).__name__
