"""Tensors to numbers: reductions on the device, as 0-dim tensors for a `Ledger`.

Nothing here synchronises with an accelerator. On the CPU a
reduction is already on the host, so traps (underflow, overflow) are mended at once; on
other devices norms accumulate in float64, which the device does without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

#: A float32 norm below this may have lost entries whose squares underflow (1e-19
#: squared is a float32 denormal; facts A1c saw 66 % error at 1e-23): scale it first.
_SMALL_NORM = 1e-15
#: A float32 norm above this may have overflowed inside (entries of 3e20 gave inf).
_LARGE_NORM = 1e15
#: Sparse layouts whose `values()` are the stored entries.
_COMPRESSED = (
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    torch.sparse_bsc,
)
#: Dtypes that reductions take as they are.
PLAIN_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
#: Classes that have nothing to unwrap.
_ORDINARY = frozenset({Tensor, torch.nn.Parameter})
#: Rows of a batch read for the sample signal.
_SIGNAL_ROWS = 64


def plain(tensor: Tensor) -> Tensor | None:
    """Return the stored entries of a tensor as a dense, real, local tensor.

    DTensors give their local shard, sparse tensors their coalesced values (the user's
    tensor stays as it is), complex ones a real view.

    Args:
        tensor: Any tensor. Read, never changed.

    Returns:
        The entries, or None if there are none or they are not numbers of a floating
        dtype (quantised, meta, wrapped by a functorch transform).
    """
    if (
        type(tensor) in _ORDINARY
        and tensor.dtype in PLAIN_DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_nested
    ):
        known = tensor.numel() > 0 and not tensor.is_meta
        return tensor.detach() if known else None
    if is_lazy(tensor):
        return None
    tensor = tensor.detach()
    to_local = getattr(tensor, "to_local", None)
    if callable(to_local):
        tensor = to_local()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout in _COMPRESSED or tensor.is_nested:
        tensor = tensor.values()
    elif tensor.layout is not torch.strided:
        return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.to(torch.float32)  # float8 has no reductions
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
        return None
    return tensor


def l2_norm(tensor: Tensor) -> Tensor:
    r"""Return the L2 norm of all entries as a 0-dim tensor.

    16-bit inputs accumulate in float32, entries whose squares leave the range of
    float32 are scaled by the largest magnitude first, so that
    :math:`\lVert g \rVert_2` of entries at 1e-25 is not 0 and of 3e20 not inf.

    Args:
        tensor: Dense, real, non-empty tensor, as `plain` returns it.

    Returns:
        Norm, float32 on the CPU (float64 where rescued) and float64 elsewhere. NaN or
        inf only if an entry is not finite.
    """
    if tensor.device.type != "cpu":
        wide = torch.float32 if tensor.device.type == "mps" else torch.float64
        wide_norm: Tensor = torch.linalg.vector_norm(tensor, dtype=wide)
        return wide_norm
    if tensor.dtype in (torch.float16, torch.bfloat16):
        norm = torch.linalg.vector_norm(tensor, dtype=torch.float32)
    else:
        norm = torch.linalg.vector_norm(tensor)
    return rescue(tensor, norm)


def rescue(tensor: Tensor, norm: Tensor) -> Tensor:
    """Recompute a CPU norm that may have left the range of float32.

    Args:
        tensor: The tensor, dense, real and on the CPU.
        norm: Its L2 norm as computed directly.

    Returns:
        `norm`, or a float64 norm of the tensor scaled by its largest magnitude.
    """
    value = float(norm)
    if _SMALL_NORM <= value <= _LARGE_NORM:
        return norm
    low, high = torch.aminmax(tensor)
    largest = max(abs(float(low)), abs(float(high)))
    if largest == 0.0 or not math.isfinite(largest):
        return norm
    scaled = tensor.to(torch.float64) / largest  # not in place: `to` may not copy
    return l2_norm(scaled) * largest


def rms(tensor: Tensor) -> Tensor:
    r"""Return the root mean square, :math:`\lVert x \rVert_2 / \sqrt{n}`.

    Args:
        tensor: Dense, real, non-empty tensor.

    Returns:
        0-dim tensor.
    """
    return l2_norm(tensor) / math.sqrt(tensor.numel())


def foreach_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the L2 norm of each tensor in one fused pass per device and dtype.

    Args:
        tensors: Dense, real, non-empty tensors.

    Returns:
        One 0-dim tensor each, in order. Not rescued: see `rescue`.
    """
    norms: list[Tensor | None] = [None] * len(tensors)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(index)
    fused = getattr(torch, "_foreach_norm", None)
    for (_, dtype), indices in groups.items():
        members = [tensors[index] for index in indices]
        half = dtype in (torch.float16, torch.bfloat16)
        if fused is None:
            results = [l2_norm(member) for member in members]
        elif half:
            results = fused(members, 2, dtype=torch.float32)
        else:
            results = fused(members, 2)
        for index, result in zip(indices, results, strict=True):
            norms[index] = result
    return [norm for norm in norms if norm is not None]


def exact_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return `foreach_norms`, on the CPU rescued where they left float32's range.

    Args:
        tensors: Dense, real, non-empty tensors.

    Returns:
        One 0-dim tensor each, in order.
    """
    norms = foreach_norms(tensors)
    return [
        rescue(tensor, norm) if norm.device.type == "cpu" else norm
        for tensor, norm in zip(tensors, norms, strict=True)
    ]


def sample_signal(tensor: Tensor, batch: int, batch_dim: int) -> Tensor | None:
    r"""Return the standard deviation over samples divided by the RMS.

    :math:`s = \sqrt{\overline{\mathrm{Var}_b\, x}} / \mathrm{RMS}(x)`: 0 when the
    output is the same for every sample, about 1 for zero-mean outputs that differ.

    Args:
        tensor: Dense, real tensor with one axis over samples.
        batch: Number of samples.
        batch_dim: Axis of the samples. `batch` times positions may be flattened in it.

    Returns:
        0-dim tensor in [0, 1]; None if the axis does not fit or `batch` < 2.

    References:
        Poole et al. 2016, arXiv:1606.05340, section 3: correlation of two inputs; an
        ordered network maps all inputs to one output.
    """
    if batch < 2 or tensor.dim() <= batch_dim:
        return None
    size = tensor.shape[batch_dim]
    if size % batch != 0:
        return None
    if batch_dim != 0:
        tensor = tensor.movedim(batch_dim, 0)
    rows = tensor.reshape(batch, -1)[:_SIGNAL_ROWS].float()
    tiny = torch.finfo(torch.float32).tiny
    if rows.device.type == "cpu":
        # `var_mean` over the rows takes as long as 100 passes here.
        mean = rows.mean(dim=0)
        spread = torch.linalg.vector_norm(rows - mean)
        level = torch.linalg.vector_norm(mean) * math.sqrt(len(rows))
        signal: Tensor = spread / torch.hypot(spread, level).clamp_min(tiny)
        return signal
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    spread = variance.mean()
    power = spread + mean.square().mean()
    return (spread / power.clamp_min(tiny)).sqrt()


def active_units(tensor: Tensor, unit_dim: int) -> Tensor:
    """Return, for each unit, whether any of its outputs is above zero.

    Args:
        tensor: Output of a ReLU-like activation.
        unit_dim: Axis of the units.

    Returns:
        Boolean tensor, one entry a unit.
    """
    unit_dim %= tensor.dim()
    others = [dim for dim in range(tensor.dim()) if dim != unit_dim]
    return (tensor.amax(dim=others) if others else tensor) > 0


def zero_share(tensor: Tensor) -> Tensor:
    """Return the share of entries that are exactly zero, a 0-dim tensor."""
    # Floats are counted one by one on the CPU, booleans in one pass.
    counted = tensor != 0 if tensor.device.type == "cpu" else tensor
    return 1.0 - torch.count_nonzero(counted) / tensor.numel()


def saturated_share(tensor: Tensor, activation: str, tanh: float, sig: float) -> Tensor:
    """Return the share of outputs on the flat part of a tanh or sigmoid.

    Args:
        tensor: Output of the activation.
        activation: `tanh` or `sigmoid`.
        tanh: |y| beyond which a tanh counts as saturated.
        sig: Distance from 0 or 1 below which a sigmoid counts as saturated.

    Returns:
        0-dim tensor in [0, 1].
    """
    if activation == "tanh":
        flat = tensor.abs() > tanh
    else:
        flat = (tensor - 0.5).abs_() > 0.5 - sig
    return torch.count_nonzero(flat) / flat.numel()


def sample_entries(tensor: Tensor, limit: int) -> Tensor:
    """Return at most `limit` entries, spread over the whole tensor, as a view or copy.

    The stride is coprime to the number of entries: a stride that divides a row would
    read a few columns only.

    Args:
        tensor: Dense, real, non-empty tensor.
        limit: Largest number of entries.

    Returns:
        One-dimensional tensor. A view for contiguous tensors.
    """
    flat = tensor.reshape(-1)
    count = flat.numel()
    if count <= limit:
        return flat
    stride = -(-count // limit)  # up: a smaller one would not reach the end
    while math.gcd(stride, count) != 1:
        stride += 1
    return flat[::stride][:limit]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A copy of some entries of a parameter before an optimizer step."""

    entries: Tensor
    norm: Tensor


def sample_parameter(parameter: Tensor, limit: int) -> Sampled | None:
    """Copy the sampled entries of a parameter.

    Returns:
        The copy and its norm; None for empty or non-floating parameters.
    """
    entries = plain(parameter)
    if entries is None:
        return None
    copy = sample_entries(entries, limit).clone()
    return Sampled(copy, l2_norm(copy))


def equal_rows(parameter: Tensor) -> Tensor | None:
    """Return how far the first, a middle and the last row of a weight lie apart.

    Units whose weights are equal get equal gradients and stay equal.

    Args:
        parameter: Weight with units along dimension 0.

    Returns:
        Largest difference, a 0-dim tensor; None with fewer than two dimensions or rows.
    """
    weight = plain(parameter)
    if weight is None or weight.dim() < 2 or weight.shape[0] < 2:
        return None
    if weight.numel() < 2 * weight.shape[0]:
        return None
    others = torch.stack((weight[weight.shape[0] // 2], weight[-1]))
    return others.sub_(weight[0]).abs_().amax()


def sample_parameters(parameters: Sequence[Tensor], limit: int) -> list[Sampled | None]:
    """Copy the sampled entries of many parameters, their norms in one fused pass.

    Returns:
        For each what `sample_parameter` returns.
    """
    copies: list[Tensor | None] = []
    for parameter in parameters:
        entries = plain(parameter)
        copies.append(
            None if entries is None else sample_entries(entries, limit).clone()
        )
    known = [copy for copy in copies if copy is not None]
    norms = iter(exact_norms(known))
    return [None if copy is None else Sampled(copy, next(norms)) for copy in copies]


def applied_update(before: Sampled, parameter: Tensor, limit: int) -> Tensor | None:
    """Return what the optimizer added to the sampled entries.

    Returns:
        The change; None if the parameter changed its shape or device meanwhile.
    """
    entries = plain(parameter)
    if entries is None:
        return None
    now = sample_entries(entries, limit)
    if now.shape != before.entries.shape or now.device != before.entries.device:
        return None
    return now.to(before.entries.dtype) - before.entries


def tensors_in(value: object, depth: int = 4) -> Iterable[Tensor]:
    """Yield the tensors inside a module's input or output.

    Looks into tuples, lists, mappings, dataclasses and PackedSequence (its `data`).

    Args:
        value: Whatever a module took or returned.
        depth: Levels of nesting looked into.
    """
    if isinstance(value, Tensor):
        yield value
    elif depth == 0 or value is None or isinstance(value, str | int | float | bool):
        return
    elif isinstance(value, torch.nn.utils.rnn.PackedSequence):
        yield value.data
    elif isinstance(value, dict) or hasattr(value, "items"):
        for item in list(value.values()):  # type: ignore[attr-defined]
            yield from tensors_in(item, depth - 1)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name, None), depth - 1)
