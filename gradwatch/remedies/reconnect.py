"""Name what keeps weights from learning: no optimizer, no path, a softmax over one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.records import StepRecord
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.snippets import each, path
from gradwatch.rules.disconnection import (
    cut_off,
    one_unit_head,
    outside_optimizer,
    silent_layers,
    uncalled_layers,
)
from gradwatch.rules.weight_updates import weights
from gradwatch.rules.wording import amount, named, some
from gradwatch.structure import Structure

_RECORD = "not counted in our bench: it is a mistake to undo, not a treatment"


class Reconnect(Remedy):
    """Name what keeps weights from learning, so that you can undo it.

    When it applies:
        Weights take part in the forward pass and do not learn: no optimizer owns them;
        something detaches them; they run under `torch.no_grad()`; a softmax over one
        unit, which is always 1, makes every gradient zero; they are never called.

    When it never does:
        Layers that are left out on purpose, as in fine-tuning. Gradients that are small
        and not zero.

    What apply does:
        Nothing: what cuts a graph stands in your forward, and what belongs into an
        optimizer in your set-up. The lines say what to write, with your layer names.

    Record:
        Not counted: it is a mistake to undo, not a treatment.

    Risk:
        Advice. Weights that join the optimizer now start from their initial values.

    References:
        - Zhang et al. (2021). AUTOTRAINER: an automatic DNN training problem detection
          and repair system. ICSE 2021.
        - huggingface/accelerate#2665: a flat loss because nothing is updated.
    """

    name: ClassVar[str] = "reconnect"
    summary: ClassVar[str] = "Names what no optimizer owns, and what is cut off."
    risk: ClassVar[Risk] = Risk.ADVICE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return what to undo, one advice for each way of being disconnected."""
        record = case.history.latest
        if case.code != "GW106" or record is None:
            yield self.reject(case, "Every weight that is trained gets a gradient.")
            return
        offers = [
            *self._head(case, record),
            *self._outside(case, record),
            *self._cut(case, record),
            *self._muted(case, record),
            *self._silent(case, record),
            *self._uncalled(case),
        ]
        # The finding's own layers first.
        offers.sort(key=lambda offer: not set(offer.layers) & set(case.finding.layers))
        yield from offers
        if not offers:
            yield self.reject(case, "Every weight that is trained gets a gradient.")

    def _advise(
        self, case: Case, title: str, why: str, code: str, layers: Sequence[str]
    ) -> Recommendation:
        return self.recommend(
            case,
            title,
            why,
            code,
            layers=layers,
            source="Zhang et al. (2021), AUTOTRAINER, ICSE",
            record=_RECORD,
            can_apply=False,
        )

    def _outside(self, case: Case, record: StepRecord) -> Iterable[Recommendation]:
        layers = outside_optimizer(record, case.structure)
        if not layers:
            return
        groups = _parents(layers, record, case.structure)
        weights_lost = sum(p.numel for p in record.parameters if p.layer in layers)
        add = 'optimizer.add_param_group({"params": list(layer.parameters())})'
        yield self._advise(
            case,
            f"Give {some(groups)} to the optimizer",
            f"{some(layers)} get a gradient, but no optimizer holds their "
            f"{amount(weights_lost)} weights, so they keep their initial values.",
            each(groups, [add])
            + "\n# or make the optimizer after the model is complete",
            layers,
        )

    def _cut(self, case: Case, record: StepRecord) -> Iterable[Recommendation]:
        layers, steps = cut_off(case.history, case.structure)
        if not layers:
            return
        above = _next_layer(layers[-1], record, case.structure)
        between = path(layers[-1])
        if above is not None:
            between = f"between {between} and {path(above)}"
        else:
            between = f"above {between}"
        yield self._advise(
            case,
            f"Let the gradient through above {named(layers[-1])}",
            f"{some(layers)} had no gradient in {steps} steps and the layers above had "
            "one: something in between leaves the graph.",
            f"# in forward, {between}:\n"
            "# no .detach(), .data, .item(), .numpy(), torch.tensor(...), argmax or\n"
            "# torch.no_grad(); round() and comparisons have no gradient either",
            layers,
        )

    def _muted(self, case: Case, record: StepRecord) -> Iterable[Recommendation]:
        owned = {p.layer for p in record.parameters if p.trainable and p.in_optimizer}
        layers = tuple(name for name in record.no_grad_layers if name in owned)
        if layers:
            yield self._advise(
                case,
                f"Run {some(layers)} with gradients",
                f"{some(layers)} ran with gradients switched off in the training "
                "forward, although an optimizer owns the weights.",
                f"# in forward: take the call of {path(layers[0])} out of\n"
                "# torch.no_grad() or torch.inference_mode(); if it is meant to be\n"
                f"# frozen: {path(layers[0])}.requires_grad_(False)",
                layers,
            )

    def _head(self, case: Case, record: StepRecord) -> Iterable[Recommendation]:
        head = one_unit_head(record, case.structure)
        if (
            head is None
            or not silent_layers(case.history, case.structure, case.settings)[0]
        ):
            return
        yield self._advise(
            case,
            f"Use a sigmoid, not a softmax, behind {named(head)}",
            f"{named(head)} has one unit: a softmax over one unit is always 1, so "
            "every gradient is zero.",
            "# no softmax and no nn.CrossEntropyLoss over one unit:\n"
            "logits = output.squeeze(-1)\n"
            "loss = F.binary_cross_entropy_with_logits(logits, target.float())\n"
            f"# or two units: {path(head)} = nn.Linear("
            f"{_inputs(case.structure, head)}, 2)",
            (head,),
        )

    def _silent(self, case: Case, record: StepRecord) -> Iterable[Recommendation]:
        layers, steps = silent_layers(case.history, case.structure, case.settings)
        if not layers or one_unit_head(record, case.structure) is not None:
            return
        zeros = [p.layer for p in weights(record, case.structure) if p.zero_weight]
        above = (
            f"{some(zeros)} is all zero" if zeros else "a product with zero or a mask"
        )
        yield self._advise(
            case,
            f"Find the zero above {named(layers[-1])}",
            f"{some(layers)} had an exactly zero gradient for {steps} steps: {above} "
            "stands between them and the loss."
            if not zeros
            else f"{some(layers)} had an exactly zero gradient for {steps} steps, and "
            f"the weight of {above}: nothing passes it.",
            each(zeros, ["nn.init.kaiming_normal_(layer.weight)"])
            if zeros
            else f"# in forward, above {path(layers[-1])}: a factor, mask or gate\n"
            "# that is always 0, or clamp() outside its range",
            layers,
        )

    def _uncalled(self, case: Case) -> Iterable[Recommendation]:
        layers = uncalled_layers(case.history, case.structure)
        record = case.history.latest
        muted = set(record.no_grad_layers) if record is not None else set()
        layers = tuple(name for name in layers if name not in muted)
        if layers:
            yield self._advise(
                case,
                f"Call {some(layers)}, or delete what is not needed",
                f"No training forward has called {some(layers)}.",
                f"# in forward: x = {path(layers[0], 'self')}(x)\n"
                f"# a list of layers must be an nn.ModuleList, and be looped over",
                layers,
            )


def _parents(
    layers: Sequence[str], record: StepRecord, structure: Structure
) -> tuple[str, ...]:
    """Return the layers, or the top-level children all of whose layers are lost."""
    lost = set(layers)
    found: list[str] = []
    every = {p.layer for p in record.parameters if p.trainable} | set(structure.layers)
    for layer in layers:
        child = layer.split(".")[0]
        owned = {p.layer for p in record.parameters if p.layer.split(".")[0] == child}
        whole = bool(owned) and owned <= lost and child not in every
        found.append(child if whole else layer)
    return tuple(dict.fromkeys(found))


def _next_layer(layer: str, record: StepRecord, structure: Structure) -> str | None:
    """Return the weight layer that runs after another."""
    called = {r.layer for r in record.layers}
    ordered = [i.name for i in structure.weight_layers() if i.name in called]
    if layer not in ordered or ordered[-1] == layer:
        return None
    return ordered[ordered.index(layer) + 1]


def _inputs(structure: Structure, layer: str) -> str:
    info = structure.layers.get(layer)
    return "..." if info is None or info.fan_in is None else str(info.fan_in)
