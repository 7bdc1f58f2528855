"""The ways of being disconnected, each as a function over records."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.history import History
from gradwatch.records import Coverage, ParameterRecord, StepRecord
from gradwatch.rules.layer_signals import dead_shares
from gradwatch.rules.weight_updates import weights
from gradwatch.rules.wording import unique
from gradwatch.settings import Settings
from gradwatch.structure import Role, Structure


def called_layers(record: StepRecord) -> set[str]:
    """Return the layers that were called in the probed forward."""
    return {layer.layer for layer in record.layers}


def silent_layers(
    history: History, structure: Structure, settings: Settings
) -> tuple[tuple[str, ...], int]:
    """Return layers whose gradient is exactly zero without an explanation.

    Zero weights above explain zeros only while nothing is updated (a learning rate of
    zero): after `disconnected_steps` real steps, weights that are still zero are the
    cause and not an excuse.

    Returns:
        Layers in execution order, and the fewest steps in a row among them.
    """
    record = history.latest
    if record is None or record.lr == 0.0:
        return (), 0
    called = called_layers(record)
    candidates = [p for p in weights(record, structure) if p.grad_norm is not None]
    least = settings.disconnected_steps
    silent = [
        p
        for p in candidates
        if p.grad_norm == 0.0 and p.zero_steps >= least and p.layer in called
    ]
    if not silent or not _loss_asks_for_more(history, structure, candidates):
        return (), 0
    explained = _explained_by_dead(record, structure, settings)
    # A module with another weight that learns is connected: relative positions are
    # never asked for where only one position is read.
    explained |= {p.layer for p in candidates if p.grad_norm}
    left = [p for p in silent if p.layer not in explained]
    layers = sorted({p.layer for p in left}, key=lambda name: _order(structure, name))
    return tuple(layers), min((p.zero_steps for p in left), default=0)


def _loss_asks_for_more(
    history: History, structure: Structure, candidates: Sequence[ParameterRecord]
) -> bool:
    """Whether a zero gradient is strange: the loss or another gradient is not zero."""
    record = history.latest
    assert record is not None
    if any(p.grad_norm for p in record.parameters):
        return True
    if record.loss is not None and record.loss != 0.0:
        return True
    # A hinge loss that is met ends with zero gradients; it never starts with them.
    never = all(p.zero_steps > record.step for p in candidates)
    return never and one_unit_head(record, structure) is not None


def _order(structure: Structure, layer: str) -> int:
    info = structure.layers.get(layer)
    return info.order if info is not None else -1


def _explained_by_dead(
    record: StepRecord, structure: Structure, settings: Settings
) -> set[str]:
    """Return layers up to the weight layer that reads the last dead activation."""
    dead = [
        _order(structure, layer)
        for layer, share in dead_shares(record).items()
        if share >= settings.dead_unit_share
    ]
    if not dead:
        return set()
    ordered = sorted(
        {p.layer for p in weights(record, structure)},
        key=lambda name: _order(structure, name),
    )
    last = max(dead)
    upto = sum(_order(structure, name) <= last for name in ordered)
    return set(ordered[: upto + 1])


def one_unit_head(record: StepRecord, structure: Structure) -> str | None:
    """Return the head with one unit if no parameter of the network has a gradient."""
    if any(p.grad_norm for p in record.parameters):
        return None
    for name in structure.heads:
        info = structure.layers.get(name)
        if info is not None and info.fan_out == 1:
            return name
    return None


def cut_off(history: History, structure: Structure) -> tuple[tuple[str, ...], int]:
    """Return called first layers that the optimizer owns and no gradient ever reached.

    Only an input-side run counts: an auxiliary head that is left out of the loss has no
    gradient either, and that is common and harmless.

    Returns:
        The layers in execution order, and the steps from the first to the newest probe.
    """
    record = history.latest
    first = history.first_probe
    if record is None or first is None:
        return (), 0
    called = called_layers(record)
    mute = {
        p.layer
        for p in weights(record, structure)
        if p.grad_norm is None and p.in_optimizer and p.layer in called
    }
    for probe in history.probes:
        mute -= {p.layer for p in probe.parameters if p.grad_norm is not None}
    ordered = [info.name for info in structure.weight_layers() if info.order >= 0]
    ordered = [name for name in ordered if name in called]
    prefix: list[str] = []
    for name in ordered:
        if name not in mute:
            break
        prefix.append(name)
    if len(prefix) == len(ordered):
        return (), 0
    return tuple(prefix), record.step - first.step + 1


def outside_optimizer(record: StepRecord, structure: Structure) -> tuple[str, ...]:
    """Return layers with a gradient that no optimizer owns and that do not change."""
    ours = [p for p in record.parameters if p.trainable and p.in_optimizer]
    if not ours:
        return ()
    lost = [
        p.layer
        for p in record.parameters
        if p.trainable
        and p.in_optimizer is False
        and p.grad_norm is not None
        and p.grad_norm > 0.0
        and not p.update_ratio
    ]
    ordered = sorted(set(lost), key=lambda name: _order(structure, name))
    return unique(ordered)


def is_on_purpose(
    layers: Sequence[str], structure: Structure, *, prefix_counts: bool
) -> bool:
    """Whether leaving these layers out looks like a decision, not like an oversight.

    Args:
        layers: Layers that are left out.
        structure: The network.
        prefix_counts: Whether the whole input side of the network is a decision.

    Returns:
        Whether they make up whole top-level children with at least two weight layers
        each, or (with `prefix_counts`) all weight layers up to some depth.
    """
    ordered = [info.name for info in structure.weight_layers() if info.order >= 0]
    out = set(layers)
    out_weights = [name for name in ordered if name in out]
    if not out_weights or len(out_weights) == len(ordered):
        return False
    if prefix_counts and ordered[: len(out_weights)] == out_weights:
        return True
    children: dict[str, list[str]] = {}
    for name in ordered:
        children.setdefault(name.split(".")[0], []).append(name)
    return all(
        len(children[child]) >= 2 and out.issuperset(children[child])
        for child in {name.split(".")[0] for name in out_weights}
    )


def uncalled_layers(history: History, structure: Structure) -> tuple[str, ...]:
    """Return trainable weight layers that no probe ever saw called."""
    seen: set[str] = set()
    for probe in history.probes:
        seen |= called_layers(probe)
        seen |= {name for name, state in probe.coverage if state is Coverage.OBSERVED}
    return tuple(
        info.name
        for info in structure.weight_layers()
        if info.role is Role.UNUSED and info.name not in seen
    )
