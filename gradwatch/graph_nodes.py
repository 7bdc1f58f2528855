"""Autograd nodes: what their names say, and which module call they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

#: An autograd node. torch has no public type that covers C++ and Python nodes.
Node = Any

#: Node names (without `Backward0`) to activation names.
ACTIVATIONS: dict[str, str] = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Gelu": "gelu",
    "Silu": "silu",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "Hardtanh": "hardtanh",
    "Softplus": "softplus",
    "PreluKernel": "prelu",
    "Mish": "mish",
    "Hardswish": "hardswish",
    "Hardsigmoid": "hardsigmoid",
    "LogSigmoid": "logsigmoid",
    "Threshold": "relu",
    "Celu": "celu",
    "RreluWithNoise": "rrelu",
    "Exp": "exp",
}
#: Node names of norms called as functions.
NORMS: tuple[str, ...] = (
    "NativeLayerNorm",
    "NativeBatchNorm",
    "CudnnBatchNorm",
    "NativeGroupNorm",
)
NORMS += ("FusedRmsNorm", "RmsNorm", "MkldnnBatchNorm", "BatchNorm", "LayerNorm")
#: Reductions over positions: a mean over k positions shrinks a norm by sqrt(k).
REDUCTIONS: tuple[str, ...] = (
    "Mean",
    "AdaptiveAvgPool",
    "MkldnnAdaptiveAvgPool",
    "Sum",
    "Amax",
)
REDUCTIONS += ("AdaptiveMaxPool",)
#: The same entries in another shape or order.
VIEWS = frozenset({"View", "Unsqueeze", "Reshape", "UnsafeView", "Transpose"})
VIEWS |= {
    "Permute",
    "Squeeze",
    "Clone",
    "Alias",
    "ToCopy",
}  #: Nodes that multiply by a matrix or kernel.
LINEAR: tuple[str, ...] = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear")
LINEAR += ("Matmul", "MkldnnLinear", "Addmv", "Mv", "Einsum", "Addbmm")
#: Nodes that hide whole modules.
OPAQUE = ("CheckpointFunction", "CompiledFunction", "GraphModule")


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's first output; empty if torch hides it."""
    metadata = getattr(node, "_input_metadata", None)
    try:
        return tuple(map(int, metadata[0].shape)) if metadata else ()
    except RuntimeError:  # nested tensors have no sizes
        return ()


def entries_of(node: Node) -> int | None:
    """Return the number of entries of a node's first output, if torch tells it."""
    shape = shape_of(node)
    return math.prod(shape) if shape else None


def base_name(node: Node) -> str:
    """Return the name of a node without its `Backward0` ending and namespace."""
    name: str = node.name().rsplit("::", 1)[-1]
    return name.split("Backward")[0]


def next_nodes(node: Node) -> tuple[list[Node], tuple[int, ...]]:
    """Return the nodes below a node, and the identities of the leaves that it reads."""
    below, leaves = [], []
    for child, _ in node.next_functions:
        if child is None:
            continue
        if type(child).__name__ == "AccumulateGrad":
            leaves.append(id(child.variable))
        else:
            below.append(child)
    return below, tuple(leaves)


@dataclass(eq=False, slots=True)
class Call:
    """One run of a leaf module in the probed forward.

    Attributes:
        layer: Qualified name.
        call: Index within its root forward.
        order: Position in execution order over the whole probe.
        kind: Class name.
        weight: Whether it counts as a weight layer.
        embedding: Whether it looks rows up.
        norm: Whether it normalises.
        activation: Lower-case name if it is an activation module.
        inputs: Nodes of its inputs, taken before it ran.
        outputs: Nodes of its outputs.
        raw_input: Identity of its first input without a node; None if it has none.
        has_batch: Whether an input has the root's batch size, so depends on the data.
        loops: Whether the module runs on its own output many times.
        width: Number of units of its output.
        unit_dim: Axis of the units: 1 after a convolution, else -1.
    """

    layer: str
    call: int
    order: int
    kind: str
    weight: bool = False
    embedding: bool = False
    norm: bool = False
    activation: str | None = None
    inputs: tuple[Node, ...] = ()
    outputs: tuple[Node, ...] = ()
    raw_input: tuple[object, ...] | None = None
    has_batch: bool = True
    loops: bool = False
    width: int | None = None
    unit_dim: int = -1
