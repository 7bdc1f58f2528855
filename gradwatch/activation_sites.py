"""Finds the activation that follows each weight layer, and the code that calls it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from torch import nn

from gradwatch.anatomy import ActivationSite
from gradwatch.history import History
from gradwatch.records import ActivationRecord
from gradwatch.structure import LayerInfo, Role, Structure

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def read_sites(
    structure: Structure, history: History, modules: Mapping[str, nn.Module]
) -> tuple[ActivationSite, ...]:
    """Return the activations that follow weight layers, in execution order.

    Args:
        structure: Structure at the last probe.
        history: What was measured: it knows gates and output activations.
        modules: The model's modules by name.

    Returns:
        The sites.
    """
    seen: dict[str, ActivationRecord] = {}
    for probe in history.probes:
        seen |= {record.layer: record for record in probe.activations}
    shared: dict[str, list[str]] = {}
    for info in structure.layers.values():
        if info.activation_module is not None:
            shared.setdefault(info.activation_module, []).append(info.name)
    sites = []
    for info in structure.layers.values():
        if info.activation is None or not info.is_weight:
            continue
        others = shared.get(info.activation_module or "", [])
        reason = _why_not(info, seen.get(info.name), modules)
        where = ""
        if info.functional_activation:
            where = where_called(info.name, info.activation, modules)
        sites.append(
            ActivationSite(
                layer=info.name,
                activation=info.activation,
                module=info.activation_module,
                shared_with=tuple(name for name in others if name != info.name),
                where=where,
                swappable=not reason,
                reason=reason,
            )
        )
    return tuple(sites)


def _why_not(
    info: LayerInfo, record: ActivationRecord | None, modules: Mapping[str, nn.Module]
) -> str:
    """Say why an activation must stay; empty if it need not."""
    if info.role is Role.HEAD or (record is not None and not record.hidden):
        return "output activation"
    if info.gate or (record is not None and record.gate):
        return "gate"
    parts = info.name.split(".")
    parents = (".".join(parts[:k]) for k in range(len(parts)))
    if any(isinstance(modules.get(name), nn.MultiheadAttention) for name in parents):
        return "inside attention"
    if isinstance(modules.get(info.name), _RECURRENT):
        return "after a recurrent layer"
    return ""


def where_called(layer: str, activation: str, modules: Mapping[str, nn.Module]) -> str:
    """Return `file:line` of the class that calls an activation as a function.

    The classes around the layer are searched from the inside out, first for the
    function's name, then for the layer's own.

    Args:
        layer: The weight layer that it follows.
        activation: Lower-case name of the function.
        modules: The model's modules by name.

    Returns:
        `file:line`; empty if no source is at hand.
    """
    parts = layer.split(".")
    word = re.compile(rf"\b{re.escape(activation)}_?\b")
    fallback = ""
    for end in range(len(parts) - 1, -1, -1):
        parent = modules.get(".".join(parts[:end]))
        if parent is None or type(parent).__module__.startswith("torch."):
            continue
        try:
            file = inspect.getsourcefile(type(parent))
            lines, first = inspect.getsourcelines(type(parent))
        except (OSError, TypeError):
            continue
        if file is None:
            continue
        for offset, line in enumerate(lines):
            code = line.partition("#")[0]
            if word.search(code) and "def " not in code:
                return f"{file}:{first + offset}"
            if not fallback and "def forward" in code:
                fallback = f"{file}:{first + offset}"
    return fallback
