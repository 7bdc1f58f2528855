"""What a probe reads from the autograd graph: weights, loops, chains, activations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradwatch.autograd_graph import Graph
from gradwatch.graph_neighbours import activation_name, is_gate, nearest_weight
from gradwatch.graph_nodes import Call, Node
from gradwatch.graph_reading import (
    FoundActivation,
    GraphReading,
    PlannedChain,
    PlannedPoint,
    key_of,
)
from gradwatch.layers import ModuleFacts, own_parameters
from gradwatch.probe_books import SATURATING, ProbeBooks
from gradwatch.probe_entries import ActivationEntry, ChainEntry, LayerEntry, PointEntry
from gradwatch.statistics import plain
from gradwatch.structure import Structure
from gradwatch.structure_build import build_structure
from gradwatch.trunk import Chain, plan_chains


class GraphReader:
    """Reads the graph of one backward pass of a probe into its books.

    Args:
        books: What the probe has booked in the forward pass.
    """

    def __init__(self, books: ProbeBooks) -> None:
        self._books = books

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
        reading = self._reading(graph, calls)
        entries = list(calls.values())
        for entry, weight in zip(entries, reading.weights, strict=True):
            entry.weight = weight
        self._books.loop_layers |= reading.loops
        self._books.opaque = reading.opaque or self._books.opaque
        self._hook_chains(graph, reading.chains, entries)
        self._read_functional(graph, reading.functional)
        self._place_activations(reading.modules, entries)
        if self._books.structure is None:
            self._books.structure = reading.structure
        for entry in entries:
            entry.inputs = entry.outputs = ()

    def _reading(self, graph: Graph, calls: dict[Call, LayerEntry]) -> GraphReading:
        """Return what is known of such a graph, or study it."""
        if (
            self._books.functional_layers
        ):  # the place of such a layer is found anew each time
            return self._study(graph, calls)
        books = self._books
        groups = [entry.group - books.group for entry in calls.values()]
        called = tuple(entry.facts.name for entry in books.layers)
        key = (key_of(graph, list(calls), groups), called, books.batch_size)
        reading = books.memory.get(key)
        if reading is None:
            reading = self._study(graph, calls)
            books.memory.put(key, reading)
        return reading

    def _study(self, graph: Graph, calls: dict[Call, LayerEntry]) -> GraphReading:
        self._settle_weights(graph, calls)
        loops = self._find_loops(graph, calls)
        chains = plan_chains(graph)
        opaque = ""
        if graph.opaque_nodes:
            opaque = (
                f"the autograd graph is opaque ({graph.opaque_nodes[0]}: checkpointing "
                "with use_reentrant=True, or a compiled region)"
            )
        functional = (
            _found(graph, index)
            for index in graph.order
            if graph.owner[index] is None
            and activation_name(graph, index) in ("relu", *SATURATING)
        )
        places = {call: place for place, call in enumerate(calls)}
        modules = {
            place: _found(graph, index)
            for call, place in places.items()
            if call.activation is not None
            and (index := graph.output_index(call)) is not None
        }
        return GraphReading(
            weights=tuple(call.weight for call in calls),
            loops=loops,
            chains=tuple(_planned(graph, chain, places) for chain in chains),
            opaque=opaque,
            functional=tuple(functional),
            modules=modules,
            structure=self._build_structure(graph, chains, opaque),
        )

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

    def _find_loops(
        self, graph: Graph, calls: dict[Call, LayerEntry]
    ) -> frozenset[str]:
        """Mark modules that run many times on their own output: time, not depth."""
        loops = set()
        by_layer: dict[str, list[Call]] = {}
        for call, entry in calls.items():
            if call.weight and entry.group == self._books.group:
                by_layer.setdefault(call.layer, []).append(call)
        for layer, runs in by_layer.items():
            if len(runs) < self._books.settings.cell_loop_calls:
                continue
            if graph.reaches(runs[1].inputs, runs[0].outputs):
                loops.add(layer)
                for call in runs:
                    call.loops = True
        return frozenset(loops)

    def _find_functional_weights(
        self, graph: Graph, calls: dict[Call, LayerEntry]
    ) -> None:
        """Find the layers whose weight another module handed to a function.

        `F.linear(x, self.qkv.weight)` never calls `qkv`, so no hook sees it (Swin of
        torchvision, BEiT); the node that multiplies by the weight is its output. The
        forward values are not known, only the gradient.
        """
        called = {entry.facts.name for entry in self._books.layers}
        called -= self._books.functional_layers
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
        self._books.functional_layers.add(facts.name)
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

    def _hook_chains(
        self, graph: Graph, chains: Sequence[PlannedChain], entries: list[LayerEntry]
    ) -> None:
        for chain in chains:
            points = []
            for point in chain.points:
                call = None if point.call is None else entries[point.call]
                tickets: list[int] = []
                if not point.own:
                    self._hook_node(graph.nodes[point.index], tickets)
                points.append(
                    PointEntry(
                        point.label,
                        point.layer,
                        call if point.own else None,
                        tickets,
                        None if call is None else call.width,
                    )
                )
            self._books.chains.append(ChainEntry(chain.source, chain.main, points))

    def _hook_node(self, node: Node, tickets: list[int]) -> None:
        def on_gradients(grads: tuple[Tensor | None, ...]) -> None:
            for grad in grads:
                if grad is not None:
                    self._books.book_gradient(tickets, grad)

        self._books.hook_node(node, on_gradients)

    def _read_functional(self, graph: Graph, found: Sequence[FoundActivation]) -> None:
        """Read functional activations from what their nodes saved for backward."""
        counts: dict[tuple[str, str], int] = {}
        for one in found:
            result = _saved_result(graph.nodes[one.index])
            if result is None:
                continue
            layer = one.layer or f"{one.activation} (functional)"
            call = counts.get((layer, one.activation), 0)
            counts[layer, one.activation] = call + 1
            if call >= self._books.settings.max_calls:
                continue
            group = self._books.group
            entry = ActivationEntry(layer, one.activation, call, True, group)
            entry.hidden, entry.gate = one.hidden, one.gate
            dim = 1 if result.dim() >= 4 else -1
            if one.unit_dim is not None and result.dim() == 3:
                dim = one.unit_dim
            self._books.read_activation(entry, result, dim)

    def _own(self, layer: str) -> list[Tensor]:
        """Return a layer's own parameters; none if it was replaced meanwhile."""
        module = self._books.modules.get(layer)
        return [] if module is None else [p for _, p in own_parameters(module)]

    def _place_activations(
        self, found: dict[int, FoundActivation], entries: list[LayerEntry]
    ) -> None:
        """Say whether activation modules are hidden or gates, and what they follow."""
        places = {id(entry): place for place, entry in enumerate(entries)}
        for activation in self._books.activations:
            if activation.module is None:
                continue
            one = found.get(places.get(id(activation.module), -1))
            activation.module = None
            if one is not None:
                activation.hidden, activation.gate = one.hidden, one.gate
                activation.layer = one.layer or activation.layer

    def _build_structure(
        self, graph: Graph, chains: Sequence[Chain], opaque: str
    ) -> Structure:
        books = self._books
        facts = {f.name: f for f in books.facts.values()}
        called = list(dict.fromkeys(entry.facts.name for entry in books.layers))
        return build_structure(
            graph, chains, facts, books.modules, called, books.batch_size, opaque
        )


def _found(graph: Graph, index: int) -> FoundActivation:
    feeding = nearest_weight(graph, index)
    return FoundActivation(
        index=index,
        activation=activation_name(graph, index) or "",
        hidden=graph.weight_above[index],
        gate=is_gate(graph, index),
        layer=None if feeding is None else feeding.layer,
        unit_dim=None if feeding is None else feeding.unit_dim,
    )


def _planned(graph: Graph, chain: Chain, places: dict[Call, int]) -> PlannedChain:
    points = tuple(
        PlannedPoint(
            point.label,
            point.layer,
            point.index,
            None if point.call is None else places[point.call],
            point.call is not None and graph.output_index(point.call) == point.index,
        )
        for point in chain.points
    )
    return PlannedChain(chain.source, chain.main, points)


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
