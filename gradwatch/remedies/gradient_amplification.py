"""Multiply the gradients of starved layers for the first steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar

from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.measured import record
from gradwatch.remedies.scope import hidden_weights
from gradwatch.remedies.snippets import quoted
from gradwatch.rules.depth_profile import depth_profiles
from gradwatch.rules.wording import amount, plural, some

#: Largest factor: what was measured (facts C).
_MOST = 100.0
#: Factors below this are not worth a hook.
_LEAST = 2.0
#: Steps that it acts: chosen, not measured; the measured runs had it for their first
#: half. The paper amplifies for the first epochs.
_STEPS = 1000
#: Optimizers whose step is the gradient times a number, up to momentum.
_LINEAR = frozenset({"SGD", "ASGD"})
_PREFIX = "factor "


class GradientAmplification(Remedy):
    """Multiply the gradients of starved layers for the first steps.

    When it applies:
        The gradient fades along the depth and plain SGD trains the network: each
        starved layer's gradient is multiplied by what it lacks against the top, at
        most 100 times.

    When it never does:
        Adam and its relatives divide each gradient by its own size: a factor changes
        nothing. A gradient that explodes, and any other sickness.

    What apply does:
        Multiplies the parameter gradients of the layers for the first 1,000 steps. The
        model stays as it is.

    Record:
        Poor. Multiplied by 100 for the first half of training, it repaired 1 of 36
        vanishing networks: where the gradient fades over many decades the forward
        signal is lost too, and no factor brings that back. The paper has networks of
        up to 110 layers with batch norm, which do not vanish in this sense.

    Risk:
        Safe: nothing is lost.

    References:
        - Basodi, Ji, Zhang & Pan (2020). Gradient amplification: an efficient way to
          train deep neural networks. arXiv:2006.10560.
    """

    name: ClassVar[str] = "gradient-amplification"
    summary: ClassVar[str] = (
        "Multiply the gradients of starved layers for the first steps (poor record)."
    )
    risk: ClassVar[Risk] = Risk.SAFE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the factors of the starved layers, or why none helps."""
        if case.code != "GW101":
            yield self.reject(
                case, "It answers a gradient that fades along the depth only."
            )
            return
        optimizer = case.anatomy.optimizer
        if optimizer is not None and optimizer.kind not in _LINEAR:
            yield self.reject(
                case,
                f"{optimizer.kind} divides each gradient by its own size: a factor "
                "changes nothing.",
            )
            return
        factors = _factors(case)
        if not factors:
            yield self.reject(case, "No starved layer with a gradient was measured.")
            return
        layers = [f.layer for f in hidden_weights(case.anatomy) if f.layer in factors]
        options: dict[str, Option] = {
            f"{_PREFIX}{layer}": factors[layer] for layer in layers
        }
        largest = max(factors.values())
        yield self.recommend(
            case,
            f"Multiply the gradients of {plural(len(layers), 'layer')} by up to "
            f"{amount(largest)} for {_STEPS:,} steps",
            f"{some(layers)} get a gradient up to {amount(largest)} times too small "
            f"against the top{' (more than that is cut)' if largest == _MOST else ''}.",
            _code(factors),
            layers=layers,
            options=options | {"steps": _STEPS},
            caution="It scales the noise of the gradient as well, and nothing of the "
            "forward signal.",
            source="Basodi et al. (2020), Gradient amplification, arXiv:2006.10560",
            record=record("amplification", case.code) + ": poor",
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the factor of each layer and the steps that it acts."""
        return Recipe(
            gradient_factors=MappingProxyType(
                {
                    key.removeprefix(_PREFIX): float(value)
                    for key, value in recommendation.options.items()
                    if key.startswith(_PREFIX)
                }
            ),
            gradient_steps=int(recommendation.options["steps"]),
        )


def _factors(case: Case) -> Mapping[str, float]:
    """Return what each layer's gradient lacks against the top of its chain."""
    record = case.history.latest
    if record is None:
        return {}
    factors: dict[str, float] = {}
    known = {facts.layer for facts in hidden_weights(case.anatomy)}
    for profile in depth_profiles(record, case.settings):
        top = profile.points[-1].grad_norm or 0.0
        for point in profile.points[:-1]:
            if point.layer in known and point.grad_norm:
                lack = min(_MOST, top / point.grad_norm)
                factors[point.layer] = max(lack, factors.get(point.layer, 0.0))
    return {
        layer: float(f"{factor:.3g}")
        for layer, factor in factors.items()
        if factor >= _LEAST
    }


def _code(factors: Mapping[str, float]) -> str:
    entries = "\n".join(f"    {quoted(layer)}: {f:g}," for layer, f in factors.items())
    return (
        f"factors = {{\n{entries}\n}}\n"
        "handles = [\n"
        "    parameter.register_hook(lambda grad, factor=factor: factor * grad)\n"
        "    for name, factor in factors.items()\n"
        "    for parameter in model.get_submodule(name).parameters(recurse=False)\n"
        "]\n"
        f"# after {_STEPS:,} steps:\n"
        "for handle in handles:\n"
        "    handle.remove()"
    )
