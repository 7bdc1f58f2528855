"""One probe: from the hooks' tensors to entries in a ledger.

A `Probe` is armed from one step of the clock optimizer to the next. The forward hooks
hand it module calls, the tensor hooks gradients; `begin_backward` has the graph read
while it is whole; `at_step` reads what belongs to the optimizer step. Everything is
booked in one ledger; `probe_record.py` turns the numbers into a record.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch.graph_nodes import Node
from gradwatch.graph_reading import GraphMemory
from gradwatch.layers import ModuleFacts
from gradwatch.probe_books import ProbeBooks
from gradwatch.probe_entries import ActivationEntry, LayerEntry, UnitMemory
from gradwatch.probe_graph import GraphReader
from gradwatch.probe_step import StepReadings
from gradwatch.recurrent import RecurrentCapture
from gradwatch.settings import Settings
from gradwatch.statistics import plain, rms, sample_signal, tensors_in
from gradwatch.structure import Structure
from gradwatch.structure_build import build_structure

#: Forwards kept that no backward has come for yet: the towers of one loss.
_MAX_UNREAD = 4
#: Forwards measured a probe; micro-batches beyond tell nothing new.
_MAX_FORWARDS = 256


class Probe(ProbeBooks):
    """Collects one probe.

    Args:
        facts: Facts of the watched modules by `id(module)`.
        modules: The modules by clean name.
        settings: Thresholds of saturation, and limits of what is read.
        units: Memory of inactive units, kept from probe to probe.
        memory: What was found on the graphs of earlier probes.
        hook_tensor: Registers a guarded hook on a tensor.
        hook_node: Registers a guarded prehook on an autograd node.
    """

    def __init__(
        self,
        facts: Mapping[int, ModuleFacts],
        modules: MutableMapping[str, nn.Module],
        settings: Settings,
        units: UnitMemory,
        memory: GraphMemory,
        hook_tensor: Callable[[Tensor, Any], None],
        hook_node: Callable[[Node, Any], None],
    ) -> None:
        super().__init__(facts, modules, settings, memory, hook_tensor, hook_node)
        self.at_step = StepReadings(self.ledger, settings, units)
        self.loss_ticket: int | None = None
        self.loss_is_users = False
        self.scale_ticket: int | None = None
        self.backwards = 0
        self.no_grad_layers: dict[str, None] = {}
        self.float16 = False
        self._stack: list[tuple[int, LayerEntry | None]] = []
        self._calls: dict[int, int] = {}
        self._unread: deque[int] = deque()
        self._pending: list[tuple[int, Tensor]] = []
        self._root_outputs: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._containers: list[tuple[int, str, Node]] = []
        self._captures: list[tuple[int, RecurrentCapture]] = []
        self._fresh_group = True
        self._unit_dim = -1

    # -- forward ------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        """Note a module call before it runs: its inputs' nodes and its group."""
        facts = self.facts.get(id(module))
        if facts is None or self.group >= _MAX_FORWARDS:
            return
        is_root = facts.name == ""
        if is_root or (not self._stack and self._fresh_group):
            self._start_group(args, kwargs)
        if not facts.is_layer:
            self._stack.append((id(module), None))
            return
        for _, outer in self._stack[-1:]:
            if outer is not None:
                outer.nested = True
        inputs = [t for t in tensors_in((args, kwargs)) if t.numel()]
        call = self._calls.get(id(module), 0)
        self._calls[id(module)] = call + 1
        entry = LayerEntry(facts, call, self.group, next(self.order))
        entry.inputs = tuple(t.grad_fn for t in inputs if t.grad_fn is not None)
        entry.input_shapes = tuple(map(_shape, inputs))
        raw = next((t for t in inputs if t.grad_fn is None), None)
        if raw is not None and not entry.inputs:
            entry.raw_input = (_storage_key(raw), _shape(raw), raw.dtype)
        self._stack.append((id(module), entry))

    def pass_without_gradient(self, module: nn.Module) -> None:
        """Note a layer that runs with gradients off inside a training forward."""
        facts = self.facts.get(id(module))
        if facts is not None and facts.owns and self._stack:
            self.no_grad_layers.setdefault(facts.name)

    def _start_group(self, args: tuple[Any, ...], kwargs: Any) -> None:
        self._stack.clear()
        self.group += 1
        self._unread.append(self.group)
        if len(self._unread) > _MAX_UNREAD:
            self._forget(self._unread.popleft())
        self._calls.clear()
        self._fresh_group = False
        first = next(iter(tensors_in((args, kwargs))), None)
        shape = _shape(first) if first is not None else ()
        if shape:
            self.batch_size = int(shape[0])

    def _forget(self, group: int) -> None:
        """Let go of a forward that no backward came for: it would keep its graph alive.

        Rollouts, or an evaluation without `no_grad`: the user's memory must not grow.
        """
        self._pending = [p for p in self._pending if p[0] != group]
        self._containers = [c for c in self._containers if c[0] != group]
        self._captures = [c for c in self._captures if c[0] != group]
        self.layers = [e for e in self.layers if e.group != group]
        self.activations = [e for e in self.activations if e.group != group]

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Read a module's output and ask for its gradient."""
        began, entry = self._pop(module)
        facts = self.facts.get(id(module))
        if facts is None or not began:
            return
        outputs = [t for t in tensors_in(output) if _differentiable(t)]
        if not self._stack:
            self._note_root(output, outputs)
        contains = entry is None or (entry.nested and facts.weight is not True)
        if contains and len(outputs) == 1 and outputs[0].grad_fn is not None:
            node = outputs[0].grad_fn
            self._containers.append((self.group, facts.name, node))
        if entry is None:
            return
        if entry.call >= self.settings.max_calls:
            return
        self._note_layer(module, entry, args, output, outputs)

    def _pop(self, module: nn.Module) -> tuple[bool, LayerEntry | None]:
        """Return whether the call that ends was seen to begin, and its entry."""
        while self._stack:
            key, entry = self._stack.pop()
            if key == id(module):
                return True, entry
        return False, None

    def _note_layer(
        self,
        module: nn.Module,
        entry: LayerEntry,
        args: tuple[Any, ...],
        output: Any,
        outputs: list[Tensor],
    ) -> None:
        self.layers.append(entry)
        entry.requires_grad = bool(outputs)
        self.float16 = self.float16 or any(t.dtype is torch.float16 for t in outputs)
        entry.outputs = tuple(t.grad_fn for t in outputs if t.grad_fn is not None)
        if outputs:
            dim = entry.facts.unit_dim
            shape = _shape(outputs[0])
            entry.width = int(shape[dim]) if len(shape) > max(dim, 0) else None
        recomputing = torch._C._current_graph_task_id() != -1
        first = next((plain(t) for t in tensors_in(output)), None)
        if first is not None and not recomputing:
            self._read_output(module, entry, args, first)
        for number, tensor in enumerate(outputs):
            self._ask_gradient(entry, number, tensor, args)
        if entry.facts.recurrent and outputs and isinstance(module, nn.RNNBase):
            self._capture_recurrent(entry, module, args, output, outputs)

    def _read_output(
        self, module: nn.Module, entry: LayerEntry, args: tuple[Any, ...], out: Tensor
    ) -> None:
        value = rms(out)
        entry.rms = self.ledger.add(value)
        on_host = out.device.type == "cpu"
        if not on_host or not math.isfinite(float(value)):
            for tensor in map(plain, tensors_in(args)):
                if tensor is not None:
                    ticket = self.ledger.add(rms(tensor))
                    assert ticket is not None
                    entry.input_rms.append(ticket)
        facts = entry.facts
        if facts.weight is not False or facts.norm:
            self._unit_dim = facts.unit_dim
        if facts.weight is not False and self.batch_size is not None:
            axis = 0
            if isinstance(module, nn.RNNBase) and not module.batch_first:
                axis = 1 if out.dim() == 3 else 0
                self._learn_batch(args)
            elif out.dim() == 3 and out.shape[0] != self.batch_size:
                axis = 1 if out.shape[1] == self.batch_size else 0
            entry.signal = self.ledger.add(sample_signal(out, self.batch_size, axis))
        if facts.activation is not None and facts.leaf:
            self._read_activation(entry, out)

    def _learn_batch(self, args: tuple[Any, ...]) -> None:
        """An RNN with `batch_first=False` says which axis of the input is the batch."""
        first = next(iter(tensors_in(args)), None)
        if first is not None and first.dim() == 3 and self.batch_size == first.shape[0]:
            self.batch_size = int(first.shape[1])

    def _read_activation(self, module: LayerEntry, out: Tensor) -> None:
        name = module.facts.activation or ""
        layer = module.facts.name
        entry = ActivationEntry(layer, name, module.call, False, module.group, module)
        self.read_activation(entry, out, self._units_of(out))

    def _units_of(self, out: Tensor) -> int:
        """Return the axis of the units: the last weight layer or norm run says it."""
        if out.dim() == 3:
            return self._unit_dim
        return 1 if out.dim() >= 4 else -1

    def _ask_gradient(
        self, entry: LayerEntry, number: int, tensor: Tensor, args: tuple[Any, ...]
    ) -> None:
        target = tensor
        if tensor._is_view():
            base = tensor._base
            inputs = {id(t) for t in tensors_in(args)}
            if (
                base is not None
                and base.numel() == tensor.numel()
                and base.requires_grad
                and id(base) not in inputs
            ):
                target = base
        tickets = entry.grads.setdefault(number, [])

        def on_gradient(grad: Tensor) -> None:
            self.book_gradient(tickets, grad)

        self.hook_tensor(target, on_gradient)

    def _note_root(self, output: Any, outputs: list[Tensor]) -> None:
        """Remember the outputs from which the loss will be computed."""
        loss = _loss_of(output)
        if loss is not None:
            outputs = [loss] if _differentiable(loss) else outputs
            self.loss_ticket = self.ledger.add(loss.detach().double())
            self.loss_is_users = True
        for tensor in outputs:
            if tensor.grad_fn is None:
                continue
            self._pending.append((self.group, tensor))
            cotangents: list[Tensor] = []
            if len(self._root_outputs) < 16:
                self._root_outputs[len(self._root_outputs)] = (
                    tensor.detach(),
                    cotangents,
                )

            def on_root(grad: Tensor, box: list[Tensor] = cotangents) -> None:
                self.begin_backward()
                box.append(grad.detach())

            self.hook_tensor(tensor, on_root)

    def _capture_recurrent(
        self,
        entry: LayerEntry,
        module: nn.RNNBase,
        args: tuple[Any, ...],
        output: Any,
        outputs: list[Tensor],
    ) -> None:
        final = output[1] if isinstance(output[1], tuple) else (output[1],)
        sequence = next(iter(tensors_in(output[0])))
        every = (sequence, *final)
        if not isinstance(args[0], Tensor | PackedSequence):
            return
        state = args[1] if len(args) > 1 else None
        hidden = None
        if state is not None:
            hidden = state if isinstance(state, tuple) else (state,)
        capture = RecurrentCapture(
            entry.facts.name, module, args[0], hidden, (), [None] * len(every)
        )
        self._captures.append((self.group, capture))
        for number, tensor in enumerate(every):
            if not _differentiable(tensor):
                continue

            def on_cotangent(grad: Tensor, number: int = number) -> None:
                capture.cotangents[number] = grad.detach().clone()

            self.hook_tensor(tensor, on_cotangent)

    # -- backward -----------------------------------------------------------------

    def begin_backward(self) -> None:
        """Read the graph of the pending outputs once, before it is consumed."""
        pending, self._pending = self._pending, []
        self._unread.clear()
        self._fresh_group = True
        if not pending:
            return
        self.backwards += 1
        roots = [t.grad_fn for _, t in pending if t.grad_fn is not None]
        containers, self._containers = self._containers, []
        named = [(name, node) for _, name, node in containers]
        GraphReader(self).read(roots, named)  # kept, it would be a reference cycle

    def structure_or(self, known: Structure) -> Structure:
        """Return what this probe saw, what is known, or execution order alone."""
        if self.structure is not None:
            return self.structure
        if known.layers or not self.layers:
            return known
        reason = self.opaque or "no backward pass was seen from the model's output"
        facts = {f.name: f for f in self.facts.values()}
        called = list(dict.fromkeys(entry.facts.name for entry in self.layers))
        return build_structure(
            None, (), facts, self.modules, called, self.batch_size, reason
        )

    # -- the optimizer step -------------------------------------------------------

    def read_step(self) -> None:
        """Read what belongs to the clock's step, while the weights are as they were."""
        captures, self._captures = self._captures, []
        self.at_step.replay_recurrent([capture for _, capture in captures])
        self.at_step.read_units(self.activations)
        outputs, self._root_outputs = self._root_outputs, {}
        if self.loss_ticket is None:
            self.loss_ticket = self.at_step.read_loss(outputs.values())

    def drop_references(self) -> None:
        """Let go of every tensor and node of the step."""
        self._pending.clear()
        self._root_outputs.clear()
        self._containers.clear()
        self._captures.clear()
        self._unread.clear()
        self._stack.clear()
        for entry in self.layers:
            entry.inputs = entry.outputs = ()
        for parameter in self.at_step.parameters.values():
            parameter.before = None


def _differentiable(tensor: Tensor) -> bool:
    return (
        tensor.requires_grad
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.numel() > 0
    )


def _loss_of(output: Any) -> Tensor | None:
    """Return `output.loss` (or its key) where a model computes its own loss."""
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    return None


def _storage_key(tensor: Tensor) -> object:
    """Return what two references to the same raw input have in common."""
    try:
        return tensor.data_ptr()
    except RuntimeError:  # sparse tensors, wrapper subclasses
        return id(tensor)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the sizes; empty for nested tensors, whose axes have no single size."""
    return () if tensor.is_nested else tuple(tensor.shape)
