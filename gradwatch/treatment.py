"""Primitive edits on a deep copy of a model; the only file that changes a model."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from gradwatch.anatomy import ActivationSite
from gradwatch.recommendations import Change


class ModelEditor:
    """Edits a deep copy of a model and books every change.

    Args:
        model: The model to treat. It is copied, never changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.changes: list[Change] = []

    def module(self, name: str) -> nn.Module:
        """Return a module of the copy."""
        raise NotImplementedError

    def replace(self, name: str, module: nn.Module) -> None:
        """Put a module where another is, at every place that shares it."""
        raise NotImplementedError

    def set_attribute(self, name: str, attribute: str, value: object) -> None:
        """Set a plain attribute of a module, such as `norm_first`."""
        raise NotImplementedError

    def fill(
        self, name: str, parameter: str, draw: Callable[[Tensor], object], how: str
    ) -> None:
        """Draw a parameter anew, in place: `draw` gets the tensor, without gradient."""
        raise NotImplementedError

    def swap_activation(
        self, site: ActivationSite, to: Callable[[], nn.Module]
    ) -> None:
        """Exchange the activation that follows a weight layer."""
        raise NotImplementedError

    def add_norm(
        self, layer: str, norm: nn.Module, site: ActivationSite | None
    ) -> None:
        """Put a norm between a weight layer and its activation (or after it)."""
        raise NotImplementedError

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
        With `learned` the scale is a parameter that starts at `scale`.
        """
        raise NotImplementedError

    def insert_before(self, layer: str, module: nn.Module) -> None:
        """Pass the layer's input through a module first."""
        raise NotImplementedError

    def insert_after(self, layer: str, module: nn.Module) -> None:
        """Pass the layer's output through a module."""
        raise NotImplementedError
