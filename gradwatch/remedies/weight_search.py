"""Advice: search weights without any gradient, and why that almost never pays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.rules.wording import amount

#: Weights up to which a search is worth a word (chosen): an evolution strategy needs
#: some evaluations a step for every direction it is to see.
_FEW = 10_000
_SALIMANS = "Salimans et al. (2017), Evolution strategies as a scalable alternative to "
_SALIMANS += "reinforcement learning, arXiv:1703.03864"


class WeightSearch(Remedy):
    """Advice: search weights without any gradient, and why that almost never pays.

    When it applies:
        The gradient fades in a network of few weights, and nothing else has helped: a
        search needs the loss alone, so no gradient can vanish.

    When it never does:
        Networks of more than 10,000 weights: the error of an estimate from random
        directions grows with their number, so each step costs that many forward passes
        where back-propagation costs about two.

    What apply does:
        Nothing: it replaces your training loop. The lines are an evolution strategy.

    Record:
        Not counted in our bench. 80 of its 84 sick networks were repaired by a remedy
        that keeps the gradient.

    Risk:
        Advice: slow, and it knows no mini-batch noise from progress.

    References:
        - Hochreiter & Schmidhuber (1996). Bridging long time lags by weight guessing
          and long short-term memory (guessing solves some benchmarks by chance).
        - Salimans et al. (2017). Evolution strategies as a scalable alternative to
          reinforcement learning. arXiv:1703.03864.
    """

    name: ClassVar[str] = "weight-search"
    summary: ClassVar[str] = (
        "Advice: a search needs no gradient, and almost never pays."
    )
    risk: ClassVar[Risk] = Risk.ADVICE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return a search for small networks, or how many weights forbid it."""
        if case.code not in {"GW101", "GW102"}:
            yield self.reject(
                case, "A search replaces gradients that vanish; these do not."
            )
            return
        count = sum(info.num_parameters for info in case.structure.layers.values())
        if not count:
            yield self.reject(case, "The number of weights is not known.")
            return
        if count > _FEW:
            yield self.reject(
                case,
                f"{amount(count)} weights are too many to search: each step would cost "
                "about as many forward passes.",
            )
            return
        yield self.recommend(
            case,
            f"Search the {amount(count)} weights with an evolution strategy",
            "It needs the loss alone, so no gradient can vanish; but each step must "
            f"try out directions among {amount(count)} weights, where back-propagation "
            "costs about two forward passes.",
            _CODE,
            caution="Almost never the answer: cure the gradient first.",
            source=_SALIMANS,
            record="not counted in our bench",
            can_apply=False,
        )


_CODE = """\
from torch.nn.utils import parameters_to_vector, vector_to_parameters

@torch.no_grad()
def loss_at(weights):
    vector_to_parameters(weights, model.parameters())
    return loss_fn(model(batch), target)

best, sigma, step = parameters_to_vector(model.parameters()).detach(), 0.02, 0.01
for _ in range(1000):
    noise = torch.randn(100, len(best))
    ups = torch.stack([loss_at(best + sigma * n) for n in noise])
    downs = torch.stack([loss_at(best - sigma * n) for n in noise])
    best = best - step * ((ups - downs) / (2 * sigma)) @ noise / len(noise)
vector_to_parameters(best, model.parameters())"""
