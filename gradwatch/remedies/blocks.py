"""Repeated blocks of a model, and what stands on residual branches without a norm."""

from __future__ import annotations

from gradwatch.anatomy import Anatomy, WeightFacts
from gradwatch.remedies.base import Case
from gradwatch.remedies.scope import hidden_weights, sums
from gradwatch.structure import Role, Structure

_Signature = tuple[tuple[str, str, int, int], ...]


def depth_of(case: Case) -> int:
    """Return how many weight layers the gradient passes one after the other.

    Points of the longest trunk, where a probe has one: parallel experts do not count.
    """
    record = case.history.latest
    lengths = [len(chain.points) for chain in record.chains] if record else []
    return max(lengths, default=len(case.anatomy.weights))


def repeated_blocks(structure: Structure, anatomy: Anatomy, least: int) -> list[str]:
    """Return modules that repeat one after the other, such as `blocks.0`, `blocks.1`.

    Siblings that are numbered and hold equal weight layers; as each reads what the one
    before it returns, input and output have one shape. Parallel ones have no layer on
    the trunk and are left out.

    Args:
        structure: How the gradient flows.
        anatomy: What code can change.
        least: Fewest siblings.

    Returns:
        Names in execution order, of the outermost level that repeats.
    """
    members: dict[str, list[WeightFacts]] = {}
    for facts in anatomy.weights:
        parts = facts.layer.split(".")
        for end in range(1, len(parts)):
            if parts[end - 1].isdigit():
                members.setdefault(".".join(parts[:end]), []).append(facts)
    families: dict[tuple[str, _Signature], list[str]] = {}
    for name, inside in members.items():
        signature = tuple(
            (f.layer.removeprefix(name), f.kind, f.in_size, f.out_size) for f in inside
        )
        on_trunk = any(structure.role(f.layer) is Role.TRUNK for f in inside)
        if on_trunk and inside[0].in_size == inside[-1].out_size:
            families.setdefault((name.rpartition(".")[0], signature), []).append(name)
    found = [names for names in families.values() if len(names) >= least]
    return min(found, key=lambda names: names[0].count("."), default=[])


def bare_branches(structure: Structure, anatomy: Anatomy) -> list[WeightFacts]:
    """Return the weight layers on residual branches that have no norm at all.

    Args:
        structure: How the gradient flows.
        anatomy: What code can change.

    Returns:
        Their facts in execution order; empty if a branch holds a layer of a kind whose
        input cannot be normalised, such as attention.
    """
    spans = [span for span in sums(structure) if span.norm is None]
    names = {
        name
        for span in spans
        if not any(structure.role(part) is Role.NORM for part in span.body)
        for name in span.body
    }
    if any((f := anatomy.weight(n)) and not _has_input(f) for n in names):
        return []
    return [f for f in hidden_weights(anatomy) if f.layer in names and f.norm is None]


def _has_input(facts: WeightFacts) -> bool:
    return facts.kind in {"Linear", "Conv1d", "Conv2d", "Conv3d", "Conv1D"}
