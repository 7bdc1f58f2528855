"""What a module is, read from its class and its own parameters; nothing is run."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: Prefixes that wrappers inside a model add to a layer's name. DDP's `module.` is not
#: among them: models have modules of that name of their own.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
#: Children that torch or a treatment hangs on a layer; they leave it a leaf.
_PARTS = ("parametrizations", "gradwatch")
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_LINEAR = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    *_RECURRENT,
    *_CELLS,
)
#: Activation modules by class name.
_ACTIVATION_MODULES: dict[str, str] = {
    "ReLU": "relu",
    "ReLU6": "relu",
    "Threshold": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "GELU": "gelu",
    "SiLU": "silu",
    "ELU": "elu",
    "SELU": "selu",
    "CELU": "celu",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "RReLU": "rrelu",
    "Hardtanh": "hardtanh",
    "Hardswish": "hardswish",
    "Hardsigmoid": "hardsigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
    "LogSigmoid": "logsigmoid",
    "Tanhshrink": "tanhshrink",
}


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """What gradwatch needs to know of a module.

    Attributes:
        name: Qualified name, wrappers' prefixes stripped.
        kind: Class name.
        leaf: Whether it has no submodules (parametrizations do not count).
        owns: Whether it owns parameters directly.
        weight: Whether it is surely a weight layer; None if only its graph can tell.
        embedding: Whether it looks rows up.
        norm: Whether it normalises.
        recurrent: Whether it is an `nn.RNN`, `nn.LSTM` or `nn.GRU`.
        activation: Lower-case name of the activation it is, or None.
        unit_dim: Axis of its units: 1 after a convolution or batch norm, else -1.
        trainable: Whether a parameter of its own requires a gradient.
        compiled: Whether it runs inside a compiled region.
        internal: Whether another module uses its parameters without calling it.
    """

    name: str
    kind: str
    leaf: bool
    owns: bool
    weight: bool | None
    embedding: bool
    norm: bool
    recurrent: bool
    activation: str | None
    unit_dim: int
    trainable: bool
    compiled: bool = False
    internal: bool = False

    @property
    def is_layer(self) -> bool:
        """Whether it is measured: a leaf, or a module with parameters of its own."""
        return self.leaf or self.owns


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters, parametrized ones by their original."""
    yield from module.named_parameters(recurse=False)
    for key, child in module.named_children():
        if key == "parametrizations":
            yield from child.named_parameters()


def count_entries(parameters: Iterable[Tensor]) -> int:
    """Return the number of entries; lazy parameters have none yet."""
    return sum(p.numel() for p in parameters if not is_lazy(p))


def matches(patterns: Iterable[str | type], name: str, module: nn.Module) -> bool:
    """Return whether a name pattern (or its parent) or a type fits a module."""
    for pattern in patterns:
        if isinstance(pattern, str):
            if fnmatchcase(name, pattern) or fnmatchcase(name, pattern + ".*"):
                return True
        elif isinstance(module, pattern):
            return True
    return False


def clean_name(name: str) -> str:
    """Return a qualified name without the prefixes that wrappers add."""
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            name = name[len(wrapper) :]
        name = name.replace("." + wrapper, ".")
    return name


def describe(name: str, module: nn.Module, *, compiled: bool = False) -> ModuleFacts:
    """Return the facts of a module.

    Args:
        name: Qualified name as `named_modules()` gives it.
        module: The module. Read only.
        compiled: Whether it lies inside an `OptimizedModule`.

    Returns:
        Its facts.
    """
    kind = type(module).__name__
    if kind.startswith("Parametrized"):
        kind = type(module).__bases__[0].__name__
    if name and is_wrapper(module):
        return _describe_block(name, module)
    parameters = [parameter for _, parameter in own_parameters(module)]
    children = [k for k, _ in module.named_children() if k not in _PARTS]
    embedding = isinstance(module, _EMBEDDINGS) or "PositionalEmbedding" in kind
    norm = "Norm" in kind and not children
    wide = any(
        sum(size > 1 for size in p.shape) >= 2 for p in parameters if not is_lazy(p)
    )
    weight: bool | None = False
    if isinstance(module, _LINEAR):
        weight = True
    elif wide and not embedding and not norm:
        weight = None
    return ModuleFacts(
        name=clean_name(name),
        kind=kind,
        leaf=not children,
        owns=bool(parameters),
        weight=weight,
        embedding=embedding,
        norm=norm,
        recurrent=isinstance(module, _RECURRENT),
        activation=_activation_of(kind, module),
        unit_dim=_unit_dim(module),
        trainable=any(parameter.requires_grad for parameter in parameters),
        compiled=compiled,
        # nn.MultiheadAttention hands `out_proj`'s weights to a function; a graft of a
        # treatment (`rewiring.py`) acts through the hooks of its layer.
        internal=kind in {"NonDynamicallyQuantizableLinear", "Graft"},
    )


def _describe_block(name: str, wrapper: nn.Module) -> ModuleFacts:
    """Return the facts of a compiled block: one layer as seen from outside."""
    inner: nn.Module = wrapper._modules["_orig_mod"]  # type: ignore[assignment]
    parameters: list[Tensor] = list(inner.parameters())
    wide = any(
        sum(size > 1 for size in p.shape) >= 2 for p in parameters if not is_lazy(p)
    )
    alone = describe(f"{name}._orig_mod", inner)
    return replace(
        alone,
        name=clean_name(name),
        leaf=True,
        owns=bool(parameters),
        weight=alone.weight if alone.leaf else wide,
        recurrent=False,
        trainable=any(parameter.requires_grad for parameter in parameters),
        internal=False,
    )


def _activation_of(kind: str, module: nn.Module) -> str | None:
    if kind in _ACTIVATION_MODULES:
        return _ACTIVATION_MODULES[kind]
    if next(module.children(), None) is None and kind.endswith("Activation"):
        for word in ("gelu", "silu", "mish", "relu", "tanh", "sigmoid"):
            if word in kind.lower():
                return word
        return kind.removesuffix("Activation").lower()
    return None


def _unit_dim(module: nn.Module) -> int:
    spatial = (
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._NormBase,
        nn.GroupNorm,
    )
    return 1 if isinstance(module, spatial) else -1


def peek_whole(module: nn.Module, name: str) -> Tensor | None:
    """Return a weight by name, as `peek`, but none that is spread over processes.

    Any arithmetic with one may be a collective, for which one process would wait.

    Args:
        module: The module. Read only.
        name: Attribute name.

    Returns:
        The weight, without a gradient; None if it is not there or not whole.
    """
    weight = peek(module, name)
    return None if weight is None or hasattr(weight, "to_local") else weight


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters are spread over processes, as by `fully_shard`."""
    return any(hasattr(parameter, "to_local") for parameter in module.parameters())


def peek(module: nn.Module, name: str) -> Tensor | None:
    """Return a weight by name; nothing of the user's runs or changes.

    Reading a parametrized attribute runs its parametrization, which may change buffers
    (spectral norm's power iteration) or draw random numbers: a copy of it runs instead.

    Args:
        module: The module. Read only.
        name: Attribute name.

    Returns:
        The weight, without a gradient; None if there is none, or only a lazy one.
    """
    lists = dict(module.named_children()).get("parametrizations")
    value: object = None
    if isinstance(lists, nn.ModuleDict) and name in lists:
        value = _parametrized(lists[name])
    else:
        for store in (module._parameters, module._buffers, module.__dict__):
            if name in store and store[name] is not None:
                value = store[name]
                break
    if not isinstance(value, Tensor) or is_lazy(value):
        return None
    return value.detach()


def _parametrized(parametrization: nn.Module) -> object:
    devices = {p.device.index for p in parametrization.parameters() if p.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        try:
            return copy.deepcopy(parametrization).eval()()
        except Exception:  # the user's code, which need not run on a copy
            return None


def fans(module: nn.Module) -> tuple[int, int] | None:
    """Return (`fan_in`, `fan_out`) of a module's weight as `torch.nn.init` counts them.

    Returns:
        The pair; None without a weight of two or more dimensions.
    """
    weight = peek(module, "weight")
    if weight is None:
        weight = peek(module, "weight_ih_l0")
    if weight is None or weight.dim() < 2 or 0 in weight.shape:
        return None
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    if type(module).__name__ == "Conv1D":  # transformers stores [in, out]
        return fan_out, fan_in
    return fan_in, fan_out


def has_compiled() -> bool:
    """Return whether this process has compiled anything by `torch.compile`."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", None)
    return bool(counters and (counters.get("frames") or counters.get("stats")))


def is_wrapper(module: nn.Module) -> bool:
    """Return whether a module is what `torch.compile(module)` returned."""
    return type(module).__name__ == "OptimizedModule"


def outer_wrappers(model: nn.Module) -> list[nn.Module]:
    """Return what `torch.compile(model)` returned, as long as somebody holds it.

    The model does not know of it: it is looked for among all living objects.
    """
    if "torch._dynamo.eval_frame" not in sys.modules:
        return []
    # Who refers to the model is asked in C: a third of the time of the loop below.
    holders = gc.get_referrers(model)
    if not any(
        issubclass(type(holder), dict) and dict.get(holder, "_orig_mod") is model
        for holder in holders
    ):
        return []
    return [
        module
        for module in gc.get_objects()
        if type(module).__name__ == "OptimizedModule"
        and module._modules.get("_orig_mod") is model
    ]


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Yield (name, module, compiled) of every module, parametrizations left out.

    `compiled` is True for modules that run inside a compiled region (below an
    `OptimizedModule`, or compiled in place by `module.compile()`): a hook there would
    cost graph breaks (facts A4).
    """
    compiled_prefixes: list[str] = []
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        inside = any(
            prefix in ("", name) or name.startswith(prefix + ".")
            for prefix in compiled_prefixes
        )
        if is_wrapper(module):
            compiled_prefixes.append(f"{name}._orig_mod" if name else "_orig_mod")
        elif getattr(module, "_compiled_call_impl", None) is not None:
            compiled_prefixes.append(name)
            inside = True
        elif hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable"):
            compiled_prefixes.append(name)  # the call itself runs outside
        yield name, module, inside
