"""Pre-train the layers one after the other, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch.nn import functional

from gradwatch.anatomy import WeightFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.scope import hidden_weights
from gradwatch.remedies.snippets import quoted
from gradwatch.rules.wording import some
from gradwatch.structure import Role

#: Steps for each layer: 300 repaired 6 of 33 runs, 100 one of them (see Record).
_STEPS_PER_LAYER = 300
_MIN_LAYERS = 3


class PretrainLayers(Remedy):
    """Pre-train the layers one after the other, without labels.

    When it applies:
        The gradient or the signal fades along at least 3 linear layers or convolutions
        in a row. It was the first way to train deep networks; today another activation
        or initialisation does the same at once.

    When it never does:
        A gradient that explodes, fades through time, or is not at fault. Layers on
        branches, embeddings, attention and recurrent layers are left out.

    What apply does:
        Nothing to the model as such: before training, each layer in turn learns to keep
        what it is given (a denoising autoencoder with a linear decoder), 300 steps
        each. `gradwatch.remedies.pretraining.pretrain` does it in any script.

    Record:
        Poor. Of 11 vanishing set-ups of our bench (5 fully connected, 3 convolutional,
        3 autoencoders, 3 seeds each) it repaired 2, ReLU and Tanh with small weights,
        and none of 4 logistic ones; 6 of 33 runs. With 100 steps a layer 1 of 33. In
        most others the loss went part of the way.

    Risk:
        Reinitialises: what the layers had learned is overwritten.

    References:
        - Schmidhuber (1992). Learning complex, extended sequences using the principle
          of history compression. Neural Computation 4(2).
        - Hinton, Osindero & Teh (2006). A fast learning algorithm for deep belief nets.
          Neural Computation 18(7).
        - Bengio et al. (2007). Greedy layer-wise training of deep networks.
        - Vincent et al. (2010). Stacked denoising autoencoders. JMLR 11.
    """

    name: ClassVar[str] = "pretrain-layers"
    summary: ClassVar[str] = "Pre-train the layers one after the other, without labels."
    risk: ClassVar[Risk] = Risk.REINITIALISES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the layers to pre-train, or why it would not help."""
        if case.code not in {"GW101", "GW105"}:
            yield self.reject(
                case, "It answers a gradient or signal that fades along the depth only."
            )
            return
        layers = [f for f in hidden_weights(case.anatomy) if _can_learn(f, case)]
        if len(layers) < _MIN_LAYERS:
            yield self.reject(
                case,
                f"Fewer than {_MIN_LAYERS} linear layers or convolutions stand on the "
                "trunk.",
            )
            return
        chosen = [facts.layer for facts in layers]
        steps = _STEPS_PER_LAYER * len(chosen)
        yield self.recommend(
            case,
            f"Pre-train {len(chosen)} layers one after the other, without labels",
            f"{some(chosen)} are trained from the input end on, each against a decoder "
            "of its own, so that no gradient passes more than one layer.",
            "from gradwatch.remedies.pretraining import pretrain\n\n"
            f"pretrain(model, batches, {_mapping(layers)}, steps={steps})",
            layers=chosen,
            sites=[s for n in chosen if (s := case.anatomy.site(n)) is not None],
            options={"steps": steps},
            source="Schmidhuber (1992), Neural Computation 4(2); Hinton et al. (2006), "
            "Neural Computation 18(7); Vincent et al. (2010), JMLR 11",
            record="repaired 2 of 11 vanishing networks in our bench: poor",
            caution="Takes steps of its own before training, and inputs like those of "
            "training.",
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the steps before training."""
        return Recipe(pretrain_steps=int(recommendation.options["steps"]))


def layers_to_pretrain(recommendation: Recommendation) -> Mapping[str, str | None]:
    """Return what `pretrain` must know of a recommendation: layers and activations."""
    sites = {site.layer: site.activation for site in recommendation.sites}
    return {layer: sites.get(layer) for layer in recommendation.layers}


def _can_learn(facts: WeightFacts, case: Case) -> bool:
    return (
        case.structure.role(facts.layer) is Role.TRUNK
        and (facts.kind == "Linear" or facts.kind in {"Conv1d", "Conv2d", "Conv3d"})
        and (facts.activation is None or hasattr(functional, facts.activation))
    )


def _mapping(layers: Iterable[WeightFacts]) -> str:
    entries = [f"    {quoted(f.layer)}: {_quoted(f.activation)}," for f in layers]
    return "\n".join(["{", *entries, "}"])


def _quoted(activation: str | None) -> str:
    return "None" if activation is None else f'"{activation}"'
