"""What a probe reads from the autograd graph: weights, loops, chains, activations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradwatch.autograd_graph import Graph
from gradwatch.graph_neighbours import activation_name, is_gate, nearest_weight
from gradwatch.graph_nodes import Call, Node
from gradwatch.layers import ModuleFacts, own_parameters
from gradwatch.probe_books import SATURATING, ProbeBooks
from gradwatch.probe_entries import ActivationEntry, ChainEntry, LayerEntry, PointEntry
from gradwatch.statistics import plain
from gradwatch.structure import Structure
from gradwatch.structure_build import build_structure
from gradwatch.trunk import Chain, plan_chains


class GraphReader:
    """Reads the graph of each backward pass of a probe into its books.

    Args:
        books: What the probe has booked in the forward pass.
    """

    def __init__(self, books: ProbeBooks) -> None:
        self._books = books
        self._functional: set[str] = set()

    def read(
        self, roots: Sequence[Node], containers: Sequence[tuple[str, Node]]
    ) -> None:
        """Read the graph below the outputs, before backward consumes it.

        Args:
            roots: Nodes of the tensors that the loss was computed from.
            containers: Pairs of container name and the node of its output.
        """
        calls = self._graph_calls()
        graph = Graph(roots, list(calls), containers)
        self._find_functional_weights(graph, calls)
        self._settle_weights(graph, calls)
        self._find_loops(graph, calls)
        chains = plan_chains(graph)
        self._note_opaque(graph, calls)
        self._hook_chains(graph, chains, calls)
        self._read_functional(graph)
        self._place_activations(graph, calls)
        if self._books.structure is None:
            self._books.structure = self._build_structure(graph, chains)
        for entry in calls.values():
            entry.inputs = entry.outputs = ()

    def _graph_calls(self) -> dict[Call, LayerEntry]:
        calls = {}
        batch = self._books.batch_size
        for entry in self._books.layers:
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
            if call.weight and entry.group == self._books.group:
                by_layer.setdefault(call.layer, []).append(call)
        for layer, runs in by_layer.items():
            if len(runs) < self._books.settings.cell_loop_calls:
                continue
            if graph.reaches(runs[1].inputs, runs[0].outputs):
                self._books.loop_layers.add(layer)
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
        called = {entry.facts.name for entry in self._books.layers} - self._functional
        silent = {
            id(parameter): facts
            for facts in self._books.facts.values()
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
                if number < self._books.settings.max_calls:
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
                for place, other in enumerate(self._books.layers)
                if other.outputs and _age(other.outputs[0]) > _age(node)
            ),
            len(self._books.layers),
        )
        later = self._books.layers[at : at + 1] or self._books.layers[-1:]
        group = later[0].group if later else self._books.group
        order = later[0].order if later else next(self._books.order)
        entry = LayerEntry(facts, number, group, order)
        entry.requires_grad = True
        entry.outputs = (node,)
        entry.inputs = tuple(graph.nodes[child] for child in graph.children[index])
        entry.width = shape[facts.unit_dim] if len(shape) > 1 else None
        self._hook_node(node, entry.grads.setdefault(0, []))
        self._functional.add(facts.name)
        self._books.layers.insert(at, entry)
        call = Call(
            layer=facts.name,
            call=number,
            order=entry.order,
            kind=facts.kind,
            weight=True,
            inputs=entry.inputs,
            outputs=entry.outputs,
            has_batch=_has_batch((shape,), self._books.batch_size),
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
            for name in (self._books.modules if unsure else ())
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
            self._books.opaque = (
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
            self._books.chains.append(ChainEntry(chain.source, chain.main, points))

    def _hook_node(self, node: Node, tickets: list[int]) -> None:
        def on_gradients(grads: tuple[Tensor | None, ...]) -> None:
            for grad in grads:
                if grad is not None:
                    self._books.book_gradient(tickets, grad)

        self._books.hook_node(node, on_gradients)

    def _read_functional(self, graph: Graph) -> None:
        """Read functional activations from what their nodes saved for backward."""
        counts: dict[tuple[str, str], int] = {}
        for index in graph.order:
            name = None if graph.owner[index] else activation_name(graph, index)
            if name not in ("relu", *SATURATING):
                continue
            result = _saved_result(graph.nodes[index])
            if result is None:
                continue
            feeding = nearest_weight(graph, index)
            layer = feeding.layer if feeding is not None else f"{name} (functional)"
            call = counts.get((layer, name), 0)
            counts[layer, name] = call + 1
            if call >= self._books.settings.max_calls:
                continue
            entry = ActivationEntry(layer, name, call, True, self._books.group)
            entry.hidden = graph.weight_above[index]
            entry.gate = is_gate(graph, index)
            dim = 1 if result.dim() >= 4 else -1
            if feeding is not None and result.dim() == 3:
                dim = feeding.unit_dim
            self._books.read_activation(entry, result, dim)

    def _own(self, layer: str) -> list[Tensor]:
        """Return a layer's own parameters; none if it was replaced meanwhile."""
        module = self._books.modules.get(layer)
        return [] if module is None else [p for _, p in own_parameters(module)]

    def _place_activations(self, graph: Graph, calls: dict[Call, LayerEntry]) -> None:
        """Say whether activation modules are hidden or gates, and what they follow."""
        by_entry = {id(entry): call for call, entry in calls.items()}
        for activation in self._books.activations:
            if activation.module is None:
                continue
            call = by_entry.get(id(activation.module))
            index = graph.output_index(call) if call is not None else None
            activation.module = None
            if call is None or index is None:
                continue
            activation.hidden = graph.weight_above[index]
            activation.gate = is_gate(graph, index)
            feeding = nearest_weight(graph, index)
            if feeding is not None:
                activation.layer = feeding.layer

    def _build_structure(self, graph: Graph, chains: Sequence[Chain]) -> Structure:
        books = self._books
        facts = {f.name: f for f in books.facts.values()}
        called = list(dict.fromkeys(entry.facts.name for entry in books.layers))
        return build_structure(
            graph, chains, facts, books.modules, called, books.batch_size, books.opaque
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
