"""Reads a model's `Anatomy`: modules, optimizer and history in, plain data out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.activation_sites import read_sites
from gradwatch.anatomy import (
    Anatomy,
    InputFacts,
    OptimizerFacts,
    RecurrentFacts,
    WeightFacts,
)
from gradwatch.capture import CapturedBatch
from gradwatch.history import History
from gradwatch.layers import clean_name, peek, peek_whole
from gradwatch.losses import recover_loss
from gradwatch.records import TimeProfile
from gradwatch.statistics import plain, tensors_in
from gradwatch.structure import LayerInfo, Role, Structure

#: A clip factor below this is a clipped step (rounding is closer to 1).
_CLIPPED = 0.999
#: Largest sum of a softmax gradient over its classes, relative to its size: rounding.
_ROW_SUM = 1e-3
#: Rounding error of a target that is still read, relative to it.
_ROUNDING = 1e-2
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def read_anatomy(
    model: nn.Module,
    structure: Structure,
    history: History,
    optimizers: Iterable[Optimizer] = (),
    inputs: Any = None,
    batches: Iterable[CapturedBatch] = (),
) -> Anatomy:
    """Return what code can change of a model, as plain data.

    Args:
        model: The model. Read only.
        structure: Its structure at the last probe.
        history: What was measured.
        optimizers: The optimizers that stepped, the clock first.
        inputs: Positional and keyword inputs of the last forward, if they are known.
        batches: Batches captured at probes.

    Returns:
        The anatomy.
    """
    modules = {clean_name(name): module for name, module in model.named_modules()}
    began = _first_weights(history)
    weights = tuple(
        _weight(info, modules[info.name], began)
        for info in structure.weight_layers()
        if info.name in modules
        if info.order >= 0 and not isinstance(modules[info.name], _RECURRENT)
    )
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    first = next(iter(optimizers), None)
    return Anatomy(
        model=type(model).__name__,
        weights=weights,
        sites=read_sites(structure, history, modules),
        recurrent=tuple(_recurrent(modules, structure, history)),
        norms=tuple(i.name for i in structure.layers.values() if i.role is Role.NORM),
        norm_first=tuple(
            name
            for name, module in modules.items()
            if isinstance(
                module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
            )
            if not module.norm_first
        ),
        optimizer=None if first is None else optimizer_facts(first),
        inputs=_inputs(inputs, structure, history),
        dtype=str(parameter.dtype).removeprefix("torch.")
        if parameter is not None
        else "",
        autocast=_autocast(history, parameter),
        grad_clip=_grad_clip(history),
        from_start=history.first_probe is not None and history.first_probe.step == 0,
        target_scale=target_scale(batches),
        keyed=tuple(
            f"{name}.{key}" if name else key
            for name, module in modules.items()
            if isinstance(module, nn.ModuleDict)
            for key in module
            if key.isdecimal()
        ),
    )


def optimizer_facts(optimizer: Optimizer) -> OptimizerFacts:
    """Return what remedies must know of an optimizer."""
    groups = optimizer.param_groups

    def largest(key: str) -> float | None:
        values = [group.get(key) for group in groups]
        numbers = [float(v) for v in values if isinstance(v, float | int)]
        return max(numbers) if numbers else None

    return OptimizerFacts(
        kind=type(optimizer).__name__,
        lr=largest("lr") or 0.0,
        momentum=largest("momentum") or 0.0,
        weight_decay=largest("weight_decay") or 0.0,
        eps=largest("eps"),
        num_groups=len(groups),
    )


# -- weight layers -------------------------------------------------------------


def _first_weights(history: History) -> dict[str, float]:
    """Return the root mean square of each layer's weight at the first probe."""
    first = history.first_probe
    parameters = () if first is None else first.parameters
    return {
        parameter.layer: parameter.weight_rms
        for parameter in parameters
        if parameter.ndim > 1 and parameter.weight_rms is not None
    }


def _weight(
    info: LayerInfo, module: nn.Module, began: Mapping[str, float]
) -> WeightFacts:
    weight, bias = _entries(module, "weight"), _entries(module, "bias")
    sizes = _sizes(module, info)
    return WeightFacts(
        layer=info.name,
        kind=info.kind,
        dims=len(getattr(module, "kernel_size", ())) if _is_conv(module) else 0,
        fan_in=info.fan_in or 1,
        fan_out=info.fan_out or 1,
        in_size=sizes[0],
        out_size=sizes[1],
        std=_std(weight, began.get(info.name, 0.0)),
        bias_mean=None if bias is None else float(bias.mean()),
        keeps_shape=_keeps_shape(module, sizes),
        activation=info.activation,
        norm=info.norm,
        hidden=info.role is not Role.HEAD,
    )


def _std(weight: Tensor | None, began: float) -> float:
    """Return the deviation; as it began where training has made it NaN or Inf."""
    if weight is None or weight.numel() < 2:
        return 0.0
    std = float(weight.std())
    return std if math.isfinite(std) else began


def _entries(module: nn.Module, name: str) -> Tensor | None:
    tensor = peek(module, name)
    entries = None if tensor is None else plain(tensor)
    return None if entries is None else entries.float()


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _sizes(module: nn.Module, info: LayerInfo) -> tuple[int, int]:
    """Return features or channels in and out."""
    for names in (
        ("in_features", "out_features"),
        ("in_channels", "out_channels"),
        ("nx", "nf"),  # transformers' Conv1D
    ):
        values = [getattr(module, name, None) for name in names]
        if all(isinstance(value, int) for value in values):
            return int(values[0] or 1), int(values[1] or 1)
    return info.fan_in or 1, info.fan_out or 1


def _keeps_shape(module: nn.Module, sizes: tuple[int, int]) -> bool:
    if sizes[0] != sizes[1]:
        return False
    if not isinstance(module, nn.modules.conv._ConvNd):
        return True
    if isinstance(module.padding, str):
        return module.padding == "same"
    return not module.transposed and all(
        stride == 1 and 2 * pad == dilation * (kernel - 1)
        for stride, pad, dilation, kernel in zip(
            module.stride,
            module.padding,
            module.dilation,
            module.kernel_size,
            strict=True,
        )
    )


# -- recurrent layers ----------------------------------------------------------


def _recurrent(
    modules: Mapping[str, nn.Module], structure: Structure, history: History
) -> Iterable[RecurrentFacts]:
    profiles: dict[str, TimeProfile] = {}
    for probe in history.probes:
        profiles |= {profile.layer: profile for profile in probe.time_profiles}
    for name, module in modules.items():
        if not isinstance(module, _RECURRENT):
            continue
        info = structure.layers.get(name)
        if info is None or info.order < 0 or not info.trainable:
            continue
        profile = profiles.get(name)
        yield RecurrentFacts(
            layer=name,
            kind=_kind(module),
            nonlinearity=str(getattr(module, "nonlinearity", "")),
            input_size=int(module.input_size),
            hidden_size=int(module.hidden_size),
            num_layers=int(getattr(module, "num_layers", 1)),
            bidirectional=bool(getattr(module, "bidirectional", False)),
            batch_first=bool(getattr(module, "batch_first", False)),
            steps=None if profile is None else len(profile.norms),
            spectral_radius=None if profile is None else profile.spectral_radius,
            gate_bias=_gate_bias(module),
        )


def _kind(module: nn.Module) -> str:
    """Return the class name of torch that a recurrent module is or derives from."""
    kinds = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)
    return next(
        (kind.__name__ for kind in kinds if isinstance(module, kind)),
        type(module).__name__,
    )


def _gate_bias(module: nn.Module) -> float | None:
    """Mean bias of the gate that keeps the state (second in torch: i f g o, r z n)."""
    if not isinstance(module, nn.LSTM | nn.GRU | nn.LSTMCell | nn.GRUCell):
        return None
    size = int(module.hidden_size)
    total = 0.0
    for name in ("bias_ih", "bias_hh"):
        bias = peek_whole(module, name)
        bias = peek_whole(module, f"{name}_l0") if bias is None else bias
        if bias is None:
            return None
        total += float(bias[size : 2 * size].float().mean())
    return total


# -- training ------------------------------------------------------------------


def _inputs(
    inputs: Any, structure: Structure, history: History
) -> tuple[InputFacts, ...]:
    floating = [
        tensor
        for tensor in tensors_in(inputs)
        if tensor.is_floating_point() and tensor.numel() > 1
    ]
    latest = history.latest
    sources = [chain.source for chain in latest.chains] if latest is not None else []
    facts = []
    for tensor in floating:
        values = plain(tensor.detach())
        if values is None:
            continue
        values = values.float()
        facts.append(
            InputFacts(
                layer=_reader(tensor, sources, structure),
                mean=float(values.mean()),
                std=float(values.std()),
                max_abs=float(values.abs().max()),
            )
        )
    return tuple(facts)


def _reader(tensor: Tensor, sources: list[str], structure: Structure) -> str:
    """Return the source layer that can read a tensor, if just one can."""
    fitting = []
    for name in dict.fromkeys(sources):
        info = structure.layers.get(name)
        if info is not None and info.fan_in is not None:
            axis = 1 if "Conv" in info.kind and tensor.dim() > 2 else -1
            size = tensor.shape[axis] if tensor.dim() else 0
            if size and info.fan_in % size == 0:
                fitting.append(name)
    return fitting[0] if len(fitting) == 1 else ""


def _autocast(history: History, parameter: Tensor | None) -> str:
    latest = history.latest
    if latest is None or parameter is None:
        return ""
    half = "float16" in str(parameter.dtype) and "bfloat16" not in str(parameter.dtype)
    return "float16" if latest.float16 and not half else ""


def _grad_clip(history: History) -> float | None:
    """Median norm after clipping, where more than half of the steps were clipped."""
    read = [p for p in history.pulses if p.clip_factor is not None]
    clipped = [
        p.step_grad_norm
        for p in read
        if p.clip_factor is not None and p.clip_factor < _CLIPPED
        if p.step_grad_norm is not None
    ]
    return median(clipped) if clipped and 2 * len(clipped) > len(read) else None


def target_scale(batches: Iterable[CapturedBatch]) -> float | None:
    """Return the root mean square of a regression target, read from its gradient.

    The gradient of a mean squared error over n entries is 2 (y - t) / n, so the target
    is t = y - n / 2 times the gradient. Nothing verifies that the loss is one: a
    classification (a recognised cross-entropy, or gradients that sum to zero over the
    classes, as behind any softmax) is left out, the rest is a hint.

    Args:
        batches: Captured batches, oldest first.

    Returns:
        The root mean square at the batch with the smallest outputs; None if no batch
        tells it.
    """
    found: list[tuple[float, float]] = []
    for batch in batches:
        if len(batch.outputs) != 1 or not batch.cotangents:
            continue
        output, cotangent = batch.outputs[0].double(), batch.cotangents[0].double()
        if batch.scale is not None:
            cotangent = cotangent / batch.scale.double()
        if not bool(cotangent.isfinite().all()) or _is_classification(batch):
            continue
        entries = output.numel() * (batch.of / batch.kept if batch.kept else 1.0)
        target = output - cotangent * entries / 2.0
        size, value = (float(x.square().mean().sqrt()) for x in (output, target))
        # An error smaller than the output says nothing of the target: it is near the
        # output then, or the loss is another one (a logistic loss of huge logits).
        error = float((output - target).square().mean().sqrt())
        if error < size:
            continue
        # Behind outputs that have run away, the target is lost in rounding.
        if torch.finfo(batch.cotangents[0].dtype).eps * size < _ROUNDING * value:
            found.append((size, value))
    return min(found)[1] if found else None


def _is_classification(batch: CapturedBatch) -> bool:
    output, cotangent = batch.outputs[0], batch.cotangents[0]
    if recover_loss(output, cotangent) is not None:
        return True
    if output.dim() < 2 or output.shape[-1] < 2:
        return False
    rows = cotangent.double()
    total, size = rows.sum(-1).abs(), rows.abs().sum(-1)
    return bool((total <= _ROW_SUM * size).all())
