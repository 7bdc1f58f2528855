"""What the network looks like: order, kinds, trunk and branches, residual spans.

Plain data that rules, remedies and reports read. `autograd_graph.py` fills it from the
autograd graph of a probe; where the graph is opaque, `known` is False, `reason` says
why, and execution order of modules stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import MappingProxyType


class Role(str, Enum):
    """What part a layer plays."""

    TRUNK = "trunk"
    """A weight layer on the trunk: every gradient path passes through it."""
    BRANCH = "branch"
    """A weight layer on a residual, gated or side branch, or an expert."""
    HEAD = "head"
    """A weight layer from which no other weight layer is reachable."""
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"
    NORM = "norm"
    ACTIVATION = "activation"
    OTHER = "other"
    UNUSED = "unused"
    """Owns parameters, but was not called in a training forward."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is known of one layer, apart from measurements.

    Attributes:
        name: Qualified name from `named_modules()`.
        kind: Class name, such as `Linear`.
        role: Part that it plays.
        order: Position in forward execution order; -1 if never called.
        is_weight: Whether it owns a trainable weight of two or more dimensions and is
            neither an embedding nor a norm.
        trainable: Whether any of its own parameters requires a gradient.
        num_parameters: Number of entries of its own parameters.
        fan_in: Inputs per unit, as `torch.nn.init` counts them; None without a weight.
        fan_out: Outputs per unit.
        weight_std: Standard deviation of the weight when the structure was read.
        activation: Lower-case name of the activation that follows, functional ones
            included; None if none was found before the next weight layer.
        norm: Class or function name of the norm between it and that activation.
        functional_activation: Whether that activation is a function call.
        activation_module: Qualified name of that activation; None for a function.
        gate: Whether the output of that activation only scales another tensor.
    """

    name: str
    kind: str
    role: Role = Role.OTHER
    order: int = -1
    is_weight: bool = False
    trainable: bool = True
    num_parameters: int = 0
    fan_in: int | None = None
    fan_out: int | None = None
    weight_std: float | None = None
    activation: str | None = None
    norm: str | None = None
    functional_activation: bool = False
    activation_module: str | None = None
    gate: bool = False


@dataclass(frozen=True, slots=True)
class ResidualSpan:
    """One join of a skip path and a body.

    Attributes:
        label: Name a reader knows it by.
        body: Layers on the body, in execution order.
        kind: `add` or `cat`.
        norm: `pre`, `post` or None: where a norm stands on it.
    """

    label: str
    body: tuple[str, ...]
    kind: str = "add"
    norm: str | None = None


@dataclass(frozen=True, slots=True)
class Structure:
    """The network as gradwatch understood it.

    Attributes:
        layers: Every leaf or parameter-owning module by name, in execution order.
        spans: Residual and concatenation joins.
        known: Whether the autograd graph could be read through.
        reason: Why not, if not.
        last_hidden: Weight layer just below the head.
        heads: Weight layers from which no other is reachable.
        batch_size: Batch size of the root's input, if one was recognised.
    """

    # No function of ours: pydantic's serializer calls it, and swallows a Ctrl-C there.
    layers: Mapping[str, LayerInfo] = field(
        default_factory=partial(MappingProxyType, {})
    )
    spans: tuple[ResidualSpan, ...] = ()
    known: bool = False
    reason: str = "no training forward was probed yet"
    last_hidden: str | None = None
    heads: tuple[str, ...] = ()
    batch_size: int | None = None

    def weight_layers(self) -> Iterator[LayerInfo]:
        """Yield the trainable weight layers in execution order."""
        return (
            info for info in self.layers.values() if info.is_weight and info.trainable
        )

    def role(self, layer: str) -> Role:
        """Return the role of `layer`, OTHER if it is not known."""
        info = self.layers.get(layer)
        return info.role if info is not None else Role.OTHER

    def is_judged(self, layer: str) -> bool:
        """Whether a per-layer verdict may be given: a trainable layer off the head."""
        info = self.layers.get(layer)
        return info is not None and info.trainable and info.role is not Role.HEAD
