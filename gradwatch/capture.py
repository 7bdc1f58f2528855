"""Keeps what a trial needs of a watched run, within a limit of memory.

At probes: clones of the root's inputs, the random state before the forward, and the
output with its gradient, from which `losses.py` may recognise the loss. When the watch
begins: the weights as they are, on the host, so that a trial can start untrained.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Optimizer

from gradwatch.layers import clean_name
from gradwatch.losses import own_loss
from gradwatch.optimizer_spec import OptimizerSpec, read_spec
from gradwatch.statistics import tensors_in

#: Batches kept: enough that a short training does not learn one by heart.
_MAX_BATCHES = 8
NOTHING_YET = "no training step was probed yet"
#: Forwards cloned a probe while none gets a gradient: rollouts, evaluation.
_MAX_TRIES = 4
#: Outputs of one forward whose gradients are kept.
_MAX_OUTPUTS = 16
#: Share of the limit that the weights may take (chosen: two million in 10 MB).
_STATE_SHARE = 0.75
#: Share of what is left for batches that one may take, so that there are two.
_BATCH_SHARE = 0.5
_PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range)
_PLAIN_TORCH = (torch.dtype, torch.device, torch.Size)


class CaptureError(Exception):
    """An input cannot be cloned; nothing is captured of this forward."""


@dataclass(slots=True)
class CapturedBatch:
    """One training forward.

    Attributes:
        args: Clones of the positional inputs.
        kwargs: Clones of the keyword inputs.
        random: Random state of the CPU before the forward, and of each GPU in use.
        frozen: Modules that were not in training mode.
        autocast: Device type and dtype of autocast where it was on.
        step: Optimizer step.
        kept: Samples kept.
        of: Samples of the batch.
        outputs: Differentiable outputs, detached; empty where they did not fit or the
            model computes its loss itself.
        cotangents: Gradient of the loss at each of them, the loss scale still in it.
        scale: Loss scale, on the device; None without a scaler.
        bytes: Memory of all tensors.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: tuple[Tensor, dict[int, Tensor]]
    frozen: frozenset[str]
    autocast: tuple[tuple[str, torch.dtype], ...]
    step: int = 0
    kept: int = 0
    of: int = 0
    outputs: list[Tensor] = field(default_factory=list)
    cotangents: list[Tensor] = field(default_factory=list)
    scale: Tensor | None = None
    bytes: int = 0


class Capture:
    """What is captured of one watched model.

    Args:
        limit: Bytes that all of it may take; 0 captures nothing.

    Attributes:
        batches: Captured batches, oldest first.
        initial: Parameters and buffers when the watch began, on the host, by clean
            name; empty if they did not fit.
        optimizers: What the optimizers of the last probe were made of, the clock last.
        reason: Why the last forward was not captured; empty if it was.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.batches: deque[CapturedBatch] = deque()
        self.initial: dict[str, Tensor] = {}
        self.optimizers: tuple[OptimizerSpec, ...] = ()
        self.reason = NOTHING_YET
        self._open: CapturedBatch | None = None
        self._seen: list[tuple[Tensor, list[Tensor]]] = []
        self._tries = 0
        self._stepping: dict[int, OptimizerSpec] = {}

    def newest(self, step: int) -> CapturedBatch | None:
        """Return what was captured of a step; None if nothing was."""
        batch = self.batches[-1] if self.batches else None
        return batch if batch is not None and batch.step == step else None

    @property
    def bytes(self) -> int:
        """Memory taken now."""
        return _bytes(self.initial) + sum(batch.bytes for batch in self.batches)

    def keep_initial(self, model: nn.Module) -> None:
        """Copy the weights to the host, if they fit."""
        tensors = list(_state(model))
        plain = all(_is_plain(tensor) for _, tensor in tensors)
        if plain and _bytes([t for _, t in tensors]) <= _STATE_SHARE * self.limit:
            self.initial = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors
            }

    def fits(self, model: nn.Module) -> bool:
        """Whether the first weights were kept and a model still has places for them."""
        now = dict(_state(model))
        return bool(self.initial) and {n: t.shape for n, t in now.items()} == {
            name: kept.shape for name, kept in self.initial.items()
        }

    def restore_initial(self, twin: nn.Module) -> None:
        """Write the first weights into a copy that they fit."""
        now = dict(_state(twin))
        with torch.no_grad():
            for name, kept in self.initial.items():
                now[name].copy_(kept)

    # -- one forward --------------------------------------------------------------

    def begin_probe(self) -> None:
        """Forget a forward whose step never came."""
        self._open, self._seen, self._tries = None, [], 0
        self._stepping = {}

    def note_optimizer(self, optimizer: Optimizer, names: Mapping[int, str]) -> None:
        """Note what an optimizer that steps in a probe is made of.

        The user's own may be gone when a trial wants one like it.

        Args:
            optimizer: The optimizer.
            names: Clean names of the model's parameters by `id(parameter)`.
        """
        if self.limit > 0:
            self._stepping[id(optimizer)] = read_spec(optimizer, names)

    def begin(self, args: tuple[Any, ...], kwargs: Any, model: nn.Module) -> None:
        """Clone the inputs of a root forward, before it runs.

        Args:
            args: Positional inputs.
            kwargs: Keyword inputs.
            model: The root, for the modes of its parts.
        """
        if any(cotangents for _, cotangents in self._seen):
            return  # the first micro-batch with a gradient is enough
        if self.limit <= 0 or self._tries >= _MAX_TRIES:
            self._open = None
            return
        self._tries += 1
        self._open, self._seen = None, []
        inputs = (args, dict(kwargs or {}))
        size = _batch_size(inputs)
        kept = self._fitting(size, _bytes(inputs))
        if kept is None:
            self.reason = "the inputs are larger than `capture_limit`"
            return
        try:
            args, kwargs = _clone(inputs, kept, size)
        except CaptureError as error:
            self.reason = str(error)
            return
        frozen = (
            clean_name(name) for name, m in model.named_modules() if not m.training
        )
        self._open = CapturedBatch(
            args, kwargs, _random(), frozenset(frozen), _autocast(), 0, kept, size
        )

    def _fitting(self, size: int, needed: int) -> int | None:
        """Return how many of `size` samples fit; None if not even one."""
        room = self.limit - _bytes(self.initial)
        if needed <= room * _BATCH_SHARE:
            return size
        kept = int(size * room * _BATCH_SHARE / needed)
        return kept if kept >= 1 else None

    def note_output(
        self, output: Any, hook_tensor: Callable[[Tensor, Any], None]
    ) -> None:
        """Ask for the gradients of a root forward's outputs.

        Args:
            output: What the root returned.
            hook_tensor: Registers a guarded hook on a tensor.
        """
        if self._open is None or self._seen:
            return
        if own_loss(output) is not None:
            self._seen = [(torch.empty(0), [torch.empty(0)])]  # a gradient is certain
            return
        for tensor in outputs_of(output):
            box: list[Tensor] = []
            self._seen.append((tensor.detach(), box))
            hook_tensor(tensor, box.append)

    def complete(self, step: int, scale: Tensor | None) -> None:
        """Keep the forward that is open, once its gradients have come.

        Args:
            step: Optimizer step.
            scale: Loss scale, on the device.
        """
        batch, seen = self._open, self._seen
        self.optimizers = tuple(self._stepping.values())
        self.begin_probe()
        pairs = [(output, box[-1]) for output, box in seen if box]
        if batch is None or not pairs:
            return
        batch.step = step
        batch.scale = None if scale is None else scale.detach().clone()
        batch.bytes = _bytes((batch.args, batch.kwargs))
        self._keep_outputs(batch, [p for p in pairs if p[0].numel()], len(seen))
        room = self.limit - _bytes(self.initial)
        while self.batches and (
            len(self.batches) >= _MAX_BATCHES
            or sum(b.bytes for b in self.batches) + batch.bytes > room
        ):
            # The first stays: of a run that diverges it is the one that tells.
            del self.batches[min(1, len(self.batches) - 1)]
        if batch.bytes > room:
            self.reason = "one batch is larger than `capture_limit`"
            return
        self.batches.append(batch)
        self.reason = ""

    def _keep_outputs(
        self, batch: CapturedBatch, pairs: list[tuple[Tensor, Tensor]], count: int
    ) -> None:
        if not pairs or len(pairs) != count:
            return  # some outputs were not in the loss
        if not all(_is_plain(t) for pair in pairs for t in pair):
            return
        kept = batch.kept
        share = kept / batch.of if batch.of else 1.0
        needed = batch.bytes + _bytes(pairs) * share
        room = (self.limit - _bytes(self.initial)) * _BATCH_SHARE
        if needed > room:
            kept = int(kept * room / needed)
            if kept < 1:
                return
        rows = {len(t) if t.dim() else -1 for pair in pairs for t in pair}
        if kept < batch.of and rows != {batch.of}:
            return
        if kept < batch.kept:
            inputs = (batch.args, batch.kwargs)
            batch.args, batch.kwargs = _clone(inputs, kept, batch.kept)
            batch.kept = kept
        cut = slice(None, kept) if kept < batch.of else ...
        batch.outputs = [output[cut].clone() for output, _ in pairs]
        batch.cotangents = [cotangent[cut].clone() for _, cotangent in pairs]
        tensors = (batch.args, batch.kwargs, batch.outputs, batch.cotangents)
        batch.bytes = _bytes(tensors)


def outputs_of(output: Any) -> list[Tensor]:
    """Return the differentiable tensors that a root returned, in order."""
    found = [
        tensor
        for tensor in tensors_in(output)
        if tensor.requires_grad and tensor.is_floating_point()
    ]
    return found[:_MAX_OUTPUTS]


def cloned(value: Any) -> Any:
    """Return clones of captured inputs: a forward may change what it is given."""
    return _clone(value, 0, 0)


def _clone(value: Any, kept: int, size: int) -> Any:
    """Clone tensors in containers; cut those of `size` samples to `kept`."""
    if isinstance(value, Tensor):
        if not _is_plain(value):
            raise CaptureError(f"an input is a {type(value).__name__} tensor")
        cut = kept < size and value.dim() > 0 and len(value) == size
        part = value.detach()[:kept] if cut else value.detach()
        return part.clone().requires_grad_(value.requires_grad)
    if isinstance(value, PackedSequence):
        if kept < size:
            raise CaptureError("a packed sequence cannot be cut to `capture_limit`")
        parts: Any = [None if part is None else part.clone() for part in value]
        return PackedSequence(*parts)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_clone(item, kept, size) for item in value))
    if type(value) in (list, tuple):
        return type(value)(_clone(item, kept, size) for item in value)
    if isinstance(value, MutableMapping):
        mapping = copy(value)
        for key in list(mapping):
            mapping[key] = _clone(mapping[key], kept, size)
        return mapping
    if isinstance(value, (*_PLAIN, *_PLAIN_TORCH)):
        return value
    raise CaptureError(f"an input is a {type(value).__name__}, which may hold tensors")


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (is_lazy(tensor) or tensor.is_nested or tensor.is_meta)
    )


def _bytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_in(value))


def _batch_size(inputs: Any) -> int:
    first = next((t for t in tensors_in(inputs) if not t.is_nested), None)
    return len(first) if first is not None and first.dim() else 0


def _state(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield clean_name(name), tensor


def _random() -> tuple[Tensor, dict[int, Tensor]]:
    gpus: dict[int, Tensor] = {}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        device = torch.cuda.current_device()
        gpus[device] = torch.cuda.get_rng_state(device)
    return torch.get_rng_state(), gpus


def _autocast() -> tuple[tuple[str, torch.dtype], ...]:
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return tuple(
        (kind, torch.get_autocast_dtype(kind))
        for kind in kinds
        if torch.is_autocast_enabled(kind)
    )


@contextlib.contextmanager
def as_captured(batch: CapturedBatch, twin: nn.Module) -> Iterator[None]:
    """Put a copy into the modes, autocast and random state of a captured forward.

    Args:
        batch: The forward.
        twin: The copy that will run it.

    Yields:
        Nothing; autocast ends with it, the random states are left where they come to.
    """
    for name, module in twin.named_modules():
        module.training = clean_name(name) not in batch.frozen
    cpu, gpus = batch.random
    torch.set_rng_state(cpu)
    for device, state in gpus.items():
        torch.cuda.set_rng_state(state, device)
    with contextlib.ExitStack() as stack:
        for kind, dtype in batch.autocast:
            stack.enter_context(torch.autocast(kind, dtype))
        yield
