"""Primitive edits on a deep copy of a model; the only file that changes a model.

Where a module can be exchanged, it is. What lies between modules is changed by a graft
on the layer (`rewiring.py`). Names in the state dict stay; new ones are added.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gradwatch import rewiring
from gradwatch.activation_marks import function_names
from gradwatch.anatomy import ActivationSite
from gradwatch.errors import TreatmentError
from gradwatch.fitting import (
    fit,
    follow_freeze,
    forget_fast_path,
    learns,
    reference_of,
    set_inplace,
    title,
)
from gradwatch.layers import clean_name
from gradwatch.model_copy import copy_of
from gradwatch.recommendations import Change, Treatment
from gradwatch.weight_filling import fill_weight, spread

#: Attribute of a treated model that says what was changed.
BOOK = "gradwatch_treatment"
_TRANSFORMER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class ModelEditor:
    """Edits a deep copy of a model and books every change.

    Hooks of the user stay on the copy; those of a live watch do not. Gradients are
    left behind, and so is compilation: compile the treated copy again.

    Args:
        model: The model to treat. It is copied, never changed.

    Raises:
        ModelError: If it cannot be copied, or is spread over processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy_of(model)
        self.changes: list[Change] = []
        #: Activations exchanged for some of the layers that share a module, by module.
        self._partly: dict[str, dict[str, nn.Module]] = {}

    def finish(self, remedies: tuple[str, ...]) -> nn.Module:
        """Return the treated copy, with the book of what was changed.

        Args:
            remedies: Names of the remedies that made the changes.

        Returns:
            The copy; earlier treatments of it stay in its book.
        """
        before = getattr(self.model, BOOK, Treatment((), ()))
        book = Treatment(
            (*before.remedies, *remedies), (*before.changes, *self.changes)
        )
        setattr(self.model, BOOK, book)
        return self.model

    # -- finding ----------------------------------------------------------------------

    def module(self, name: str) -> nn.Module:
        """Return a module of the copy.

        Args:
            name: Qualified name; prefixes that wrappers add may be left out.

        Returns:
            The module.

        Raises:
            TreatmentError: If there is none of that name.
        """
        by_name: dict[str, nn.Module] = {
            key: module
            for full, module in self.model.named_modules(remove_duplicate=False)
            for key in (clean_name(full), full)
        }
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise TreatmentError(
                f"`{type(self.model).__name__}` has no module `{name}`{hint} Use names "
                "of `model.named_modules()`."
            )
        found = by_name[name]
        return found.activation if isinstance(found, rewiring.Socket) else found

    def _places(self, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
        """Yield every (parent, key) at which a module is."""
        for parent in list(self.model.modules()):
            for key, child in list(parent._modules.items()):
                if child is module:
                    yield parent, key

    # -- whole modules ----------------------------------------------------------------

    def replace(self, name: str, module: nn.Module) -> None:
        """Put a module where another is, at every place that shares it.

        It is moved to the device, dtype and mode of the old one.

        Args:
            name: Qualified name of the old one; empty for the root.
            module: The new one.
        """
        old = self.module(name)
        fit(module, old, self.model)
        self._put(old, module)
        self._book(name, "module", title(old), title(module))

    def _put(self, old: nn.Module, new: nn.Module) -> None:
        if old is self.model:
            self.model = new
            return
        for parent, key in self._places(old):
            parent._modules[key] = new
            forget_fast_path(parent, key)

    def set_attribute(self, name: str, attribute: str, value: object) -> None:
        """Set a plain attribute of a module, such as `norm_first`.

        Args:
            name: Qualified name of the module.
            attribute: An attribute that it has.
            value: The new value.

        Raises:
            TreatmentError: If it has no such attribute.
        """
        module = self.module(name)
        if not hasattr(module, attribute):
            raise TreatmentError(
                f"`{name}` (={type(module).__name__}) has no attribute `{attribute}`."
            )
        before = getattr(module, attribute)
        setattr(module, attribute, value)
        self._book(name, attribute, str(before), str(value))

    def fill(
        self, name: str, parameter: str, draw: Callable[[Tensor], object], how: str
    ) -> None:
        """Draw a parameter anew, in place: `draw` gets the tensor, without gradient.

        Tied weights change together; a parametrized weight is set through its
        parametrization.

        Args:
            name: Qualified name of the module.
            parameter: Attribute name, such as `weight`.
            draw: Changes the tensor it gets in place.
            how: What it draws, for a reader, such as `He`.
        """
        before, after = fill_weight(self.module(name), parameter, draw, name)
        text = spread(after)
        text = how if how.lower() == text else f"{text} ({how})"
        self._book(name, parameter, spread(before), text)

    # -- activations ------------------------------------------------------------------

    def swap_activation(
        self, site: ActivationSite, to: Callable[[], nn.Module]
    ) -> None:
        """Exchange the activation that follows a weight layer.

        A module is exchanged at all its places; one that other layers share stays
        until it was swapped for each of them. A function is exchanged where it first
        reads the layer's output. In-place activations stay in-place where the new one
        can be.

        Args:
            site: The activation.
            to: Makes the new one.
        """
        layer = self.module(site.layer)
        new = to()
        fit(new, layer, self.model)
        if site.module is None:
            before = self._swap_function(site, layer, new)
        else:
            old = self.module(site.module)
            before = title(old)
            if getattr(old, "inplace", False):
                set_inplace(new, to=True)
            if site.shared_with:
                self._swap_partly(site, old, new)
            else:
                self._put(old, new)
        self._book(site.layer, "activation", before, title(new))

    def _swap_function(
        self, site: ActivationSite, layer: nn.Module, new: nn.Module
    ) -> str:
        name, _, child = site.layer.rpartition(".")
        parent = self.module(name)
        if isinstance(parent, _TRANSFORMER_LAYERS) and child == "linear1":
            # Torch keeps the function as an attribute, which may hold a module too.
            parent.activation = new
            forget_fast_path(parent, "activation")
            return f"{site.activation}()"
        graft = self._graft(site.layer, layer)
        before = f"{site.activation}()"
        if graft.activation is not None:
            before = title(graft.activation)
        self._await(graft, site)
        graft.activation = new
        return before

    def _swap_partly(
        self, site: ActivationSite, old: nn.Module, new: nn.Module
    ) -> None:
        assert site.module is not None
        done = self._partly.setdefault(site.module, {})
        done[site.layer] = new
        sharers = {site.layer, *site.shared_with}
        if sharers <= set(done) and len({repr(m) for m in done.values()}) == 1:
            for name in sharers - {site.layer}:
                self._drop_swap(self.module(name))
            self._put(old, new)
            del self._partly[site.module]
            return
        graft = self._graft(site.layer, self.module(site.layer))
        graft.activation = new
        self._await(graft, site)

    def _drop_swap(self, layer: nn.Module) -> None:
        graft = rewiring.graft_of(layer)
        if graft is None:
            return
        del graft.activation
        graft.activation = None
        if not graft.residual:
            graft.awaited_module = ""
        if graft.idle:
            rewiring.detach(layer)

    # -- around a layer ---------------------------------------------------------------

    def add_norm(
        self, layer: str, norm: nn.Module, site: ActivationSite | None
    ) -> None:
        """Put a norm between a weight layer and its activation.

        It comes right after the layer, so that pooling, reshaping, dropout or a sum on
        the way to the activation do not matter.

        Args:
            layer: Qualified name.
            norm: The norm, for the layer's output.
            site: The activation that follows; not needed.
        """
        self._insert(layer, norm, before=False)
        self._book(layer, "norm", "none", title(norm))

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
        With `learned` the scale is a parameter that starts at `scale`. The shapes must
        agree: the first forward raises a `TreatmentError` if they do not.

        Args:
            layer: Qualified name.
            site: The activation that follows; None to add to the layer's output.
            scale: What the branch is multiplied with.
            learned: Whether the scale is learned.
            pre_norm: Norm of the layer's input.

        Raises:
            TreatmentError: If the layer has a shortcut already.
        """
        module = self.module(layer)
        graft = self._graft(layer, module)
        if graft.residual:
            raise TreatmentError(f"`{layer}` has a shortcut already: leave it out.")
        graft.residual = True
        graft.scale = scale
        if learned:
            like = reference_of(module, self.model)
            start = torch.tensor(scale, dtype=like.dtype, device=like.device)
            graft.scale = nn.Parameter(start, requires_grad=learns(module))
        if pre_norm is not None:
            fit(pre_norm, module, self.model)
            follow_freeze(pre_norm, module)
            graft.pre_norm = pre_norm
        body = "layer(norm(x))" if pre_norm is not None else "layer(x)"
        if site is not None:
            self._await(graft, site)
            swapped = graft.activation
            kind = site.activation if swapped is None else type(swapped).__name__
            body = f"{kind}({body})"
        factor = f"a (learned, from {scale:.3g})" if learned else f"{scale:.3g}"
        self._book(layer, "shortcut", "none", f"x + {factor} * {body}")

    def insert_before(self, layer: str, module: nn.Module) -> None:
        """Pass the layer's input through a module first.

        Args:
            layer: Qualified name.
            module: Reads the layer's first input; fitted to its device and dtype.
        """
        self._insert(layer, module, before=True)
        self._book(layer, "input", "as it is", title(module))

    def insert_after(self, layer: str, module: nn.Module) -> None:
        """Pass the layer's output through a module.

        Args:
            layer: Qualified name.
            module: Reads the layer's output (of a tuple the first part).
        """
        self._insert(layer, module, before=False)
        self._book(layer, "output", "as it is", title(module))

    def _insert(self, layer: str, module: nn.Module, *, before: bool) -> None:
        target = self.module(layer)
        graft = self._graft(layer, target)
        fit(module, target, self.model)
        follow_freeze(module, target)
        if before:
            # What is put in last is nearest to the user's tensor.
            graft.before = nn.ModuleList([module, *(graft.before or ())])
        else:
            graft.after = nn.ModuleList([*(graft.after or ()), module])
        graft.train(target.training)

    # -- shared -----------------------------------------------------------------------

    def _graft(self, name: str, module: nn.Module) -> rewiring.Graft:
        if isinstance(module, torch.jit.ScriptModule):
            raise TreatmentError(
                f"`{name}` is scripted, and nothing can be put around it; treat the "
                "model before it is scripted."
            )
        if isinstance(module, nn.ModuleList | nn.ModuleDict) or any(
            isinstance(parent, nn.MultiheadAttention)
            for parent, _ in self._places(module)
        ):
            raise TreatmentError(
                f"`{name}` (={type(module).__name__}) is never called by itself: "
                "nothing can be put around it; name a layer that is."
            )
        return rewiring.attach(module, name)

    def _await(self, graft: rewiring.Graft, site: ActivationSite) -> None:
        """Make a graft wait for the activation of a site."""
        if site.module is None:
            graft.awaited = function_names(site.activation)
            graft.old = site.activation
        else:
            module = self.module(site.module)
            places = list(self._places(module))
            socket = next(
                (p for p, _ in places if isinstance(p, rewiring.Socket)), None
            )
            if socket is None:
                socket = rewiring.Socket(site.module, module)
                for parent, key in places:
                    parent._modules[key] = socket
                    forget_fast_path(parent, key)
            graft.awaited_module = socket.name
            graft.old = title(module)
        rewiring.guard_root(self.model)

    def _book(self, layer: str, what: str, before: str, after: str) -> None:
        self.changes.append(Change(layer, what, before, after))
