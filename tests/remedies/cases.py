"""Hand-made cases for the remedies on depth: a chain of layers and what is wrong."""

from __future__ import annotations

from dataclasses import replace

from gradwatch.anatomy import ActivationSite, Anatomy, WeightFacts
from gradwatch.findings import Confidence, Evidence, Finding, Health, Severity
from gradwatch.recommendations import Recommendation, Rejection
from gradwatch.remedies.base import Case
from gradwatch.rules import RULES
from gradwatch.structure import LayerInfo, ResidualSpan, Role, Structure

#: Standard deviation of PyTorch's default weights at 64 inputs: 1 / sqrt(3 * 64).
DEFAULT_STD = 0.0722


def finding(code="GW101", decades=6.0, **fields):
    """Return a finding of a rule, with D as its first evidence."""
    rule = next(rule for rule in RULES if rule.code == code)
    base = Finding(
        code=code,
        name=rule.name,
        health=rule.health,
        severity=Severity.WARNING,
        confidence=Confidence.HIGH,
        layers=("fc1", "fc2"),
        message="",
        help="",
        evidence=(Evidence("D", decades, 2.0, "decades", (0, 5)),),
    )
    return replace(base, **fields)


def weight(layer, activation=None, **fields):
    """Return a linear layer of 64 units with PyTorch's default weights."""
    base = WeightFacts(
        layer,
        "Linear",
        fan_in=64,
        fan_out=64,
        in_size=64,
        out_size=64,
        std=DEFAULT_STD,
        bias_mean=0.0,
        keeps_shape=True,
        activation=activation,
    )
    return replace(base, **fields)


def chain(depth=6, activation="sigmoid", *, functional=False, **fields):
    """Return the anatomy of fc1, act1, ..., fcN, actN, head, all 64 wide."""
    hidden = [weight(f"fc{i}", activation, **fields) for i in range(1, depth + 1)]
    head = weight("head", out_size=10, fan_out=10, keeps_shape=False, hidden=False)
    sites = [
        ActivationSite(
            f"fc{i}",
            activation,
            None if functional else f"act{i}",
            where="net.py:12" if functional else "",
        )
        for i in range(1, depth + 1)
        if activation is not None
    ]
    return Anatomy("Net", (*hidden, head), tuple(sites))


def structure_of(anatomy, spans=(), **fields):
    """Return the structure of a chain."""
    layers = {
        facts.layer: LayerInfo(
            facts.layer,
            facts.kind,
            role=Role.TRUNK if facts.hidden else Role.HEAD,
            order=order,
            is_weight=True,
        )
        for order, facts in enumerate(anatomy.weights)
    }
    return Structure(layers=layers, spans=tuple(spans), known=True, reason="", **fields)


def case(code="GW101", anatomy=None, spans=(), structure=None, **fields):
    """Return a case of a chain of six sigmoid layers, or of the anatomy given."""
    anatomy = chain() if anatomy is None else anatomy
    return Case(
        finding=finding(code, **fields),
        structure=structure or structure_of(anatomy, spans),
        anatomy=anatomy,
    )


def spans_of(count, layers=2, prefix="blocks"):
    """Return residual sums, each over some layers called a, b, ..."""
    return tuple(
        ResidualSpan(
            f"{prefix}.{i}", tuple(f"{prefix}.{i}.{n}" for n in "abc"[:layers])
        )
        for i in range(count)
    )


def offers(remedy, case):
    """Return the recommendations of a remedy."""
    return [a for a in remedy.propose(case) if isinstance(a, Recommendation)]


def refusals(remedy, case):
    """Return the rejections of a remedy."""
    return [a for a in remedy.propose(case) if isinstance(a, Rejection)]


__all__ = [
    "DEFAULT_STD",
    "Health",
    "case",
    "chain",
    "finding",
    "offers",
    "refusals",
    "spans_of",
    "structure_of",
    "weight",
]
