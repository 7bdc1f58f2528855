"""One probe: from the hooks' tensors to a `StepRecord`.

A `Probe` is armed from one step of the clock optimizer to the next. The forward hooks
hand it module calls, the tensor hooks gradients; `begin_backward` reads the graph while
it is whole; `read_gradients` runs before an optimizer step, `read_updates` after it.
Everything is booked in one ledger, and `build` turns the numbers into a record.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch.autograd_graph import Call, Graph, Node
from gradwatch.layers import ModuleFacts, own_parameters
from gradwatch.probe_entries import (
    ActivationEntry,
    ChainEntry,
    LayerEntry,
    PointEntry,
    UnitMemory,
)
from gradwatch.probe_step import StepReadings
from gradwatch.recurrent import RecurrentCapture
from gradwatch.settings import Settings
from gradwatch.statistics import (
    Ledger,
    active_units,
    l2_norm,
    plain,
    rms,
    sample_signal,
    saturated_share,
    tensors_in,
    zero_share,
)
from gradwatch.structure import Structure
from gradwatch.structure_build import build_structure
from gradwatch.trunk import Chain, plan_chains

_SATURATING = ("tanh", "sigmoid")
#: Forwards kept that no backward has come for yet: the towers of one loss.
_MAX_UNREAD = 4
#: Forwards measured a probe; micro-batches beyond tell nothing new.
_MAX_FORWARDS = 256


class Probe:
    """Collects one probe.

    Args:
        facts: Facts of the watched modules by `id(module)`.
        modules: The modules by clean name.
        settings: Thresholds of saturation, and limits of what is read.
        units: Memory of inactive units, kept from probe to probe.
    """

    def __init__(
        self,
        facts: Mapping[int, ModuleFacts],
        modules: MutableMapping[str, nn.Module],
        settings: Settings,
        units: UnitMemory,
        silent_outputs: frozenset[int] = frozenset(),
    ) -> None:
        self._facts = facts
        self._modules = modules
        self._settings = settings
        self.ledger = Ledger()
        self.at_step = StepReadings(self.ledger, settings, units)
        self.layers: list[LayerEntry] = []
        self.activations: list[ActivationEntry] = []
        self.chains: list[ChainEntry] = []
        self.structure: Structure | None = None
        self.opaque = ""
        self.loss_ticket: int | None = None
        self.scale_ticket: int | None = None
        self.backwards = 0
        self.nodes_read = 0
        self.batch_size: int | None = None
        self.silent_outputs = silent_outputs
        self._stack: list[tuple[int, LayerEntry | None]] = []
        self._group = -1
        self._calls: dict[int, int] = {}
        self._order = itertools.count()
        self._unread: deque[int] = deque()
        self._pending: list[tuple[int, Tensor]] = []
        self._root_outputs: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._containers: list[tuple[int, str, Node]] = []
        self._captures: list[tuple[int, RecurrentCapture]] = []
        self._fresh_group = True
        self.loss_is_users = False
        self.no_grad_layers: dict[str, None] = {}
        self.float16 = False
        self.loop_layers: set[str] = set()
        self._functional: set[str] = set()
        self._unit_dim = -1

    # -- forward ------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        """Note a module call before it runs: its inputs' nodes and its group."""
        facts = self._facts.get(id(module))
        if facts is None or self._group >= _MAX_FORWARDS:
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
        entry = LayerEntry(facts, call, self._group, next(self._order))
        entry.inputs = tuple(t.grad_fn for t in inputs if t.grad_fn is not None)
        entry.input_shapes = tuple(map(_shape, inputs))
        raw = next((t for t in inputs if t.grad_fn is None), None)
        if raw is not None and not entry.inputs:
            entry.raw_input = (_storage_key(raw), _shape(raw), raw.dtype)
        self._stack.append((id(module), entry))

    def pass_without_gradient(self, module: nn.Module) -> None:
        """Note a layer that runs with gradients off inside a training forward."""
        facts = self._facts.get(id(module))
        if facts is not None and facts.owns and self._stack:
            self.no_grad_layers.setdefault(facts.name)

    def _start_group(self, args: tuple[Any, ...], kwargs: Any) -> None:
        self._stack.clear()
        self._group += 1
        self._unread.append(self._group)
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
        facts = self._facts.get(id(module))
        if facts is None or not began:
            return
        outputs = [t for t in tensors_in(output) if _differentiable(t)]
        if not self._stack:
            self._note_root(output, outputs)
        contains = entry is None or (entry.nested and facts.weight is not True)
        if contains and len(outputs) == 1 and outputs[0].grad_fn is not None:
            node = outputs[0].grad_fn
            self._containers.append((self._group, facts.name, node))
        if entry is None:
            return
        if entry.call >= self._settings.max_calls:
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
        if not on_host or not bool(torch.isfinite(value)):
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
        self._read_activation_values(entry, out, self._units_of(out))

    def _units_of(self, out: Tensor) -> int:
        """Return the axis of the units: the last weight layer or norm run says it."""
        if out.dim() == 3:
            return self._unit_dim
        return 1 if out.dim() >= 4 else -1

    def _read_activation_values(
        self, entry: ActivationEntry, out: Tensor, unit_dim: int
    ) -> None:
        if out.dim() == 0:
            return  # a loss, not units
        if entry.activation == "relu":
            entry.zero = self.ledger.add(zero_share(out))
            entry.active = active_units(out, unit_dim)
            entry.num_units = int(entry.active.numel())
        elif entry.activation in _SATURATING:
            share = saturated_share(
                out,
                entry.activation,
                self._settings.tanh_saturation,
                self._settings.sigmoid_saturation,
            )
            entry.saturated = self.ledger.add(share)
        else:
            return
        self.activations.append(entry)

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
            self._on_gradient(tickets, grad)

        self.hook_tensor(target, on_gradient)

    def hook_tensor(self, tensor: Tensor, callback: Any) -> None:
        """Register a tensor hook; replaced by `hooks.py`, which guards it."""
        raise NotImplementedError

    def hook_node(self, node: Node, callback: Any) -> None:
        """Register a node prehook; replaced by `hooks.py`, which guards it."""
        raise NotImplementedError

    def _on_gradient(self, tickets: list[int], grad: Tensor) -> None:
        values = plain(grad)
        if values is not None:
            ticket = self.ledger.add(l2_norm(values))
            assert ticket is not None
            tickets.append(ticket)

    def _note_root(self, output: Any, outputs: list[Tensor]) -> None:
        """Remember the outputs from which the loss will be computed."""
        loss = _loss_of(output)
        if loss is not None:
            outputs = [loss] if _differentiable(loss) else outputs
            self.loss_ticket = self.ledger.add(loss.detach().double())
            self.loss_is_users = True
        for number, tensor in enumerate(outputs):
            if tensor.grad_fn is None or number in self.silent_outputs:
                continue
            self._pending.append((self._group, tensor))
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
        self._captures.append((self._group, capture))
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
        calls = self._graph_calls()
        containers, self._containers = self._containers, []
        graph = Graph(
            roots, list(calls), [(name, node) for _, name, node in containers]
        )
        self.nodes_read += len(graph.nodes)
        self._find_functional_weights(graph, calls)
        self._settle_weights(graph, calls)
        self._find_loops(graph, calls)
        chains = plan_chains(graph)
        self._note_opaque(graph, calls)
        self._hook_chains(graph, chains, calls)
        self._read_functional(graph)
        self._place_activations(graph, calls)
        if self.structure is None:
            self.structure = self._build_structure(graph, chains)
        for entry in calls.values():
            entry.inputs = entry.outputs = ()

    def _graph_calls(self) -> dict[Call, LayerEntry]:
        calls = {}
        batch = self.batch_size
        for entry in self.layers:
            if not entry.outputs or (entry.nested and entry.facts.weight is not True):
                continue
            facts = entry.facts
            call = Call(
                layer=facts.name,
                call=entry.call,
                order=entry.order,
                kind=facts.kind,
                weight=facts.weight is True,
                embedding=facts.embedding,
                norm=facts.norm,
                activation=facts.activation,
                inputs=entry.inputs,
                outputs=entry.outputs,
                raw_input=entry.raw_input,
                has_batch=_has_batch(entry.input_shapes, batch),
                width=entry.width,
                unit_dim=facts.unit_dim,
            )
            calls[call] = entry
        return calls

    def _find_loops(self, graph: Graph, calls: dict[Call, LayerEntry]) -> None:
        """Mark modules that run many times on their own output: time, not depth."""
        by_layer: dict[str, list[Call]] = {}
        for call, entry in calls.items():
            if call.weight and entry.group == self._group:
                by_layer.setdefault(call.layer, []).append(call)
        for layer, runs in by_layer.items():
            if len(runs) < self._settings.cell_loop_calls:
                continue
            if graph.reaches(runs[1].inputs, runs[0].outputs):
                self.loop_layers.add(layer)
                for call in runs:
                    call.loops = True

    def _find_functional_weights(
        self, graph: Graph, calls: dict[Call, LayerEntry]
    ) -> None:
        """Find the layers whose weight another module handed to a function.

        `F.linear(x, self.qkv.weight)` never calls `qkv`, so no hook sees it (Swin of
        torchvision, BEiT); the node that multiplies by the weight is its output. The
        forward values are not known, only the gradient.
        """
        called = {entry.facts.name for entry in self.layers} - self._functional
        silent = {
            id(parameter): facts
            for facts in self._facts.values()
            if facts.weight is True and not facts.internal and facts.name not in called
            for parameter in self._own(facts.name)
            if parameter.dim() >= 2
        }
        if not silent:
            return
        times: dict[str, int] = {}
        for index, read in graph.weights_read.items():
            for facts in (silent[key] for key in read if key in silent):
                number = times.get(facts.name, 0)
                times[facts.name] = number + 1
                if number < self._settings.max_calls:
                    self._note_functional(graph, calls, facts, index, number)

    def _note_functional(
        self,
        graph: Graph,
        calls: dict[Call, LayerEntry],
        facts: ModuleFacts,
        index: int,
        number: int,
    ) -> None:
        """Book a weight layer by the node that is its output."""
        node, shape = graph.nodes[index], graph.shape(index)
        # It ran before the first call in this forward whose output is younger.
        at = next(
            (
                place
                for place, other in enumerate(self.layers)
                if other.outputs and _age(other.outputs[0]) > _age(node)
            ),
            len(self.layers),
        )
        later = self.layers[at : at + 1] or self.layers[-1:]
        group = later[0].group if later else self._group
        order = later[0].order if later else next(self._order)
        entry = LayerEntry(facts, number, group, order)
        entry.requires_grad = True
        entry.outputs = (node,)
        entry.inputs = tuple(graph.nodes[child] for child in graph.children[index])
        entry.width = shape[facts.unit_dim] if len(shape) > 1 else None
        self._hook_node(node, entry.grads.setdefault(0, []))
        self._functional.add(facts.name)
        self.layers.insert(at, entry)
        call = Call(
            layer=facts.name,
            call=number,
            order=entry.order,
            kind=facts.kind,
            weight=True,
            inputs=entry.inputs,
            outputs=entry.outputs,
            has_batch=_has_batch((shape,), self.batch_size),
            width=entry.width,
            unit_dim=facts.unit_dim,
        )
        graph.add_call(call)
        calls[call] = entry

    def _settle_weights(self, graph: Graph, calls: dict[Call, LayerEntry]) -> None:
        """A module that owns a matrix is a weight layer if it multiplies by it.

        Not so if it only multiplies activations (a table of position biases beside
        them) or by what belongs to another module. Leaves that no module owns are its
        own in another guise: sharded, flattened, or passed by `functional_call`. A
        frozen matrix leaves no trace in the graph: any multiplication may be its.
        """
        unsure = {call for call, e in calls.items() if e.facts.weight is None}
        owners = {
            id(p): name
            for name in (self._modules if unsure else ())
            for p in self._own(name)
        }
        for index, read in graph.weights_read.items() if unsure else ():
            owner = graph.owner[index]
            if owner in unsure and not owner.weight:
                layer = owner.layer
                matrices = [p for p in self._own(layer) if p.dim() >= 2]
                frozen = not any(p.requires_grad for p in matrices)
                other = {key for key in read if owners.get(key, layer) != layer}
                vectors = {id(p) for p in self._own(layer) if p.dim() < 2}
                owner.weight = bool(read - other - vectors) or (frozen and not read)
        for call, entry in calls.items():
            entry.weight = call.weight

    def _note_opaque(self, graph: Graph, calls: dict[Call, LayerEntry]) -> None:
        if graph.opaque_nodes:
            self.opaque = (
                f"the autograd graph is opaque ({graph.opaque_nodes[0]}: checkpointing "
                "with use_reentrant=True, or a compiled region)"
            )

    def _hook_chains(
        self, graph: Graph, chains: Sequence[Chain], calls: dict[Call, LayerEntry]
    ) -> None:
        for chain in chains:
            points = []
            for point in chain.points:
                entry = None
                tickets: list[int] = []
                own = None if point.call is None else graph.output_index(point.call)
                if point.call is not None and own == point.index:
                    entry = calls[point.call]
                else:
                    self._hook_node(graph.nodes[point.index], tickets)
                width = point.call.width if point.call is not None else None
                points.append(
                    PointEntry(point.label, point.layer, entry, tickets, width)
                )
            self.chains.append(ChainEntry(chain.source, chain.main, points))

    def _hook_node(self, node: Node, tickets: list[int]) -> None:
        def on_gradients(grads: tuple[Tensor | None, ...]) -> None:
            for grad in grads:
                if grad is not None:
                    self._on_gradient(tickets, grad)

        self.hook_node(node, on_gradients)

    def _read_functional(self, graph: Graph) -> None:
        """Read functional activations from what their nodes saved for backward."""
        counts: dict[tuple[str, str], int] = {}
        for index in graph.order:
            name = None if graph.owner[index] else graph.activation_name(index)
            if name not in ("relu", *_SATURATING):
                continue
            result = _saved_result(graph.nodes[index])
            if result is None:
                continue
            feeding = graph.nearest_weight(index)
            layer = feeding.layer if feeding is not None else f"{name} (functional)"
            call = counts.get((layer, name), 0)
            counts[layer, name] = call + 1
            if call >= self._settings.max_calls:
                continue
            entry = ActivationEntry(layer, name, call, True, self._group)
            entry.hidden = graph.weight_above[index]
            entry.gate = graph.is_gate(index)
            dim = 1 if result.dim() >= 4 else -1
            if feeding is not None and result.dim() == 3:
                dim = feeding.unit_dim
            self._read_activation_values(entry, result, dim)

    def _own(self, layer: str) -> list[Tensor]:
        """Return a layer's own parameters; none if it was replaced meanwhile."""
        module = self._modules.get(layer)
        return [] if module is None else [p for _, p in own_parameters(module)]

    def _place_activations(self, graph: Graph, calls: dict[Call, LayerEntry]) -> None:
        """Say whether activation modules are hidden or gates, and what they follow."""
        by_entry = {id(entry): call for call, entry in calls.items()}
        for activation in self.activations:
            if activation.module is None:
                continue
            call = by_entry.get(id(activation.module))
            index = graph.output_index(call) if call is not None else None
            activation.module = None
            if call is None or index is None:
                continue
            activation.hidden = graph.weight_above[index]
            activation.gate = graph.is_gate(index)
            feeding = graph.nearest_weight(index)
            if feeding is not None:
                activation.layer = feeding.layer

    def _build_structure(self, graph: Graph, chains: Sequence[Chain]) -> Structure:
        facts = {f.name: f for f in self._facts.values()}
        called = list(dict.fromkeys(entry.facts.name for entry in self.layers))
        return build_structure(
            graph, chains, facts, self._modules, called, self.batch_size, self.opaque
        )

    def fallback_structure(self, reason: str) -> Structure:
        """Return a structure from execution order alone."""
        facts = {f.name: f for f in self._facts.values()}
        called = list(dict.fromkeys(entry.facts.name for entry in self.layers))
        return build_structure(
            None, (), facts, self._modules, called, self.batch_size, reason
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


def _has_batch(shapes: Sequence[tuple[int, ...]], batch: int | None) -> bool:
    """Whether a shape has the batch size in it, also flattened with positions."""
    if batch is None or batch < 2:
        return True
    return any(
        (len(shape) > 0 and shape[0] > 0 and shape[0] % batch == 0)
        or (len(shape) > 1 and shape[1] == batch)
        for shape in shapes
    )


def _age(node: Node) -> int:
    number = getattr(node, "_sequence_nr", None)
    return int(number()) if callable(number) else -1


def _loss_of(output: Any) -> Tensor | None:
    """Return `output.loss` (or its key) where a model computes its own loss."""
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    return None


def _saved_result(node: Node) -> Tensor | None:
    """Return what an activation node saved; None if it is packed, gone or changed.

    What hooks packed (checkpointing, offloading) must not be unpacked here: a
    checkpoint is unpacked once only, and a second time is an error in the user's
    backward pass. A torch that cannot say whether it is packed is not asked.
    """
    for name in ("result", "self"):
        try:
            raw = getattr(node, f"_raw_saved_{name}", None)
            if raw is None:
                continue
            if getattr(raw, "unpack_hook", raw) is not None:
                return None
            saved = getattr(node, f"_saved_{name}", None)
        except RuntimeError:
            return None
        if isinstance(saved, Tensor):
            return plain(saved)
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
