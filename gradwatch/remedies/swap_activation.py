"""Exchange hidden activations, and draw the weights before them to match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import nn

from gradwatch.anatomy import ActivationSite, Anatomy
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.activations import ACTIVATIONS, Activation, title_of
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.blocks import depth_of
from gradwatch.remedies.measured import record
from gradwatch.remedies.redrawing import redraw
from gradwatch.remedies.scope import (
    DEPTH_CODES,
    against_target,
    is_plain,
    sums,
    swappable_sites,
    why_none,
)
from gradwatch.remedies.snippets import drawn, replaced, swapped
from gradwatch.rules.wording import joined, plural, some, unique
from gradwatch.situations import (
    DEEP_BATCH_NORM,
    EXP_LIKE,
    SIGMOID_LIKE,
    TANH_LIKE,
    has_raw_data,
    main_activation,
)
from gradwatch.treatment import ModelEditor

#: Flat on both sides or steeper than any line: what another activation cures.
_FAULTY = SIGMOID_LIKE | TANH_LIKE | EXP_LIKE
#: Order of the variants, from facts C; what has no count there comes last.
_FADING = ("relu", "selu", "tanh", "leaky_relu", "elu", "gelu")
_GROWING = ("selu", "tanh", "relu")
_DEAD = ("leaky_relu", "selu", "elu", "gelu")
#: Learning rate without batch norms over the one with them. Batch norm stands rates
#: that plain networks do not (Santurkar et al. 2018, arXiv:1805.11604); at the full
#: rate the network below ended in NaN.
_WITHOUT_NORMS = 0.1
_NORMS_DROPPED = (
    "tried on one network of 60 layers: at a tenth of the rate it learned 0.4 to 0.65 "
    "of what it could (3 seeds)"
)
_RECORDS = {"relu": "relu+he", "selu": "selu+lecun", "tanh": "tanh+xavier"}
_NOT_AT_FAULT = {
    "GW102": "The activation between time steps is part of the recurrent cell",
    "GW202": "The activation between time steps is part of the recurrent cell",
    "GW106": "An activation cannot reconnect a layer",
    "GW107": "An activation does not widen the range of float16",
    "GW108": "Equal units stay equal behind any activation",
    "GW204": "Spikes come from the step size or the data, not from the activation",
    "GW301": "The learning rate is too large for any activation",
    "GW302": "The learning rate is too small for any activation",
    "GW303": "An activation does not change what clipping takes away",
}


class SwapActivation(Remedy):
    """Exchange hidden activations and draw the weights before them to match.

    When it applies:
        Hidden layers are followed by sigmoid-like or tanh-like activations and the
        gradient fades, the signal collapses or the outputs saturate; an exponential
        activation explodes or ends in NaN; ReLUs are dead (LeakyReLU, ELU and GELU
        pass a gradient below zero); a plain network explodes (SELU keeps the size of
        its signal by itself, also in place of the batch norms of a deep network).

    When it never does:
        Output activations, gates, activations inside attention or between time steps
        stay, and so does a module that serves such a place as well. A gradient that
        fades through ReLUs is not brought back by another ReLU: the initialisation is
        at fault. Learning rates, spikes, clipping and float16 are not its business.

    What apply does:
        Exchanges the activations, functions as well as modules, and draws the weights
        of the layers before them for the new one: He for ReLU, LeakyReLU, ELU and
        GELU (each with its own gain), LeCun for SELU, Xavier for Tanh; biases become
        0. The variant `init=keep` leaves the weights as they are, `norms=drop` takes
        the batch norms out and a tenth of the learning rate.

    Record:
        Of 30 vanishing sigmoid, tanh and ReLU networks, ReLU with He weights repaired
        29, SELU with LeCun weights 30, Tanh with Xavier weights 30, and ReLU with the
        weights left as they were 10. Of 24 exploding ones: 17, 20, 19 and 3. LeakyReLU,
        ELU and GELU were not counted.

    Risk:
        Reinitialises: what the layers before the activations had learned is lost. With
        `init=keep` the network computes something else with the same weights.

    References:
        - Glorot, Bordes & Bengio (2011). Deep sparse rectifier neural networks.
        - He et al. (2015). Delving deep into rectifiers. arXiv:1502.01852.
        - Klambauer et al. (2017). Self-normalizing neural networks. arXiv:1706.02515.
        - Clevert et al. (2016). Fast and accurate deep network learning by ELUs.
          arXiv:1511.07289.
    """

    name: ClassVar[str] = "swap-activation"
    summary: ClassVar[str] = (
        "Exchange hidden activations, with weights drawn to match the new ones."
    )
    risk: ClassVar[Risk] = Risk.RESHAPES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return a variant for each activation that fits, or why none does."""
        if case.code in _NOT_AT_FAULT:
            yield self.reject(case, f"{_NOT_AT_FAULT[case.code]}.")
            return
        sites = swappable_sites(case.anatomy)
        if not sites:
            yield self.reject(case, f"Nothing to swap: {why_none(case.anatomy)}.")
            return
        faulty = tuple(site for site in sites if site.activation in _FAULTY)
        if case.code == "GW205":
            faulty = tuple(site for site in sites if site.activation in EXP_LIKE)
            if not faulty:
                yield self.reject(case, "No activation here turns finite into NaN.")
                return
        if case.code == "GW103":
            yield from self._revive(case, sites)
        elif faulty:
            order = _FADING if case.code not in {"GW201", "GW203"} else _GROWING
            if any(site.activation in EXP_LIKE for site in faulty):
                order = _FADING
            for to in order:
                yield from self._variant(case, faulty, to)
            yield from self._variant(case, faulty, "relu", keep=True)
        else:
            yield from self._relu_like(case, sites)

    def _revive(
        self, case: Case, sites: Sequence[ActivationSite]
    ) -> Iterable[Recommendation | Rejection]:
        """Return what passes a gradient below zero, where units can be dead."""
        dead = tuple(s for s in sites if s.activation in {"relu", "relu6"})
        if not dead:
            yield self.reject(
                case, "No ReLU that may be swapped follows a hidden layer."
            )
        for to in _DEAD if dead else ():
            yield from self._variant(case, dead, to)

    def _relu_like(
        self, case: Case, sites: Sequence[ActivationSite]
    ) -> Iterable[Recommendation | Rejection]:
        """Return the swaps that help ReLU-like plain networks, and the word on ReLU."""
        old = title_of(main_activation(case.anatomy))
        if case.code in DEPTH_CODES and is_plain(case.structure, case.anatomy):
            for to in ("selu", "tanh"):
                yield from self._variant(case, sites, to)
        elif case.code in {"GW201", "GW203"} and _batch_norm_explodes(case):
            yield from self._variant(case, sites, "selu", drop=_batch_norms(case))
        yield self.reject(
            case,
            f"The activation is {old} already; swapping it for a ReLU does not help: "
            "the initialisation is at fault."
            if case.code in DEPTH_CODES
            else f"The activation is {old}, which does not saturate on both sides.",
        )

    def _variant(
        self,
        case: Case,
        sites: Sequence[ActivationSite],
        to: str,
        *,
        keep: bool = False,
        drop: Sequence[str] = (),
    ) -> Iterable[Recommendation]:
        """Return the swap for one activation, if there is anything to exchange."""
        sites = tuple(site for site in sites if site.activation != to)
        if not sites:
            return
        new = ACTIVATIONS[to]
        initialiser = new.initialiser
        layers = unique([site.layer for site in sites])
        code = swapped(sites, new)
        if not keep:
            code += "\n" + drawn(dict.fromkeys(layers, initialiser))
        weights = (
            " and keep the weights" if keep else f", with {initialiser.title} weights"
        )
        why = _why(case.anatomy, sites, new, keep=keep)
        options: dict[str, Option] = {
            "to": to,
            "init": "keep" if keep else initialiser.name,
        }
        if drop:
            code = f"{replaced(drop, 'nn.Identity()')}\n{code}"
            weights += f", without {plural(len(drop), 'batch norm')}"
            options |= {"norms": "drop", "lr_factor": _WITHOUT_NORMS}
            why = (
                "Batch norm makes the gradient of a plain network grow by 1.2 a layer, "
                f"and SELU needs none. {why} Without norms the network stands smaller "
                "learning rates only."
            )
            code += '\nfor group in optimizer.param_groups:\n    group["lr"] *= 0.1'
        yield self.recommend(
            case,
            f"Swap {_counted(sites)} for {new.title}{weights}",
            why,
            code,
            layers=layers,
            sites=sites,
            risk=Risk.RESHAPES if keep else Risk.REINITIALISES,
            options=options,
            caution=_caution(case.anatomy, new, keep=keep),
            source=new.source,
            record=_NORMS_DROPPED
            if drop
            else record("relu+keep" if keep else _RECORDS.get(to, ""), case.code),
            where=next((site.where for site in sites if site.module is None), ""),
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the lower learning rate that a network without its norms needs."""
        return Recipe(lr_factor=float(recommendation.options.get("lr_factor", 1.0)))

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Exchange the activations and draw the weights before them."""
        new = ACTIVATIONS[str(recommendation.options["to"])]
        if recommendation.options.get("norms") == "drop":
            for name, module in list(editor.model.named_modules()):
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    editor.replace(name, nn.Identity())
        for site in recommendation.sites:
            editor.swap_activation(site, new.make)
        if recommendation.options["init"] != "keep":
            for layer in recommendation.layers:
                redraw(editor, layer, new.initialiser)


def _batch_norm_explodes(case: Case) -> bool:
    """Whether the network is plain, deep, and normalised by batches throughout."""
    norms = [facts.norm or "" for facts in case.anatomy.weights if facts.hidden]
    return (
        depth_of(case) > DEEP_BATCH_NORM
        and not sums(case.structure)
        and sum("Batch" in norm for norm in norms) > len(norms) / 2
    )


def _batch_norms(case: Case) -> list[str]:
    kinds = {name: info.kind for name, info in case.structure.layers.items()}
    return [name for name in case.anatomy.norms if "Batch" in kinds.get(name, "")]


def _counted(sites: Sequence[ActivationSite]) -> str:
    """Return `10 Sigmoids`, or `8 Sigmoids and 2 Tanhs`."""
    counts = Counter(site.activation for site in sites)
    return joined([plural(n, title_of(name)) for name, n in counts.most_common()])


def _why(
    anatomy: Anatomy, sites: Sequence[ActivationSite], new: Activation, *, keep: bool
) -> str:
    kinds = {site.activation for site in sites}
    layers = unique([site.layer for site in sites])
    text = f"{_counted(sites)} {'follows' if len(sites) == 1 else 'follow'} "
    text += f"{some(layers)}; "
    if kinds & SIGMOID_LIKE:
        text += "a sigmoid passes on at most a quarter of a gradient"
    elif kinds & TANH_LIKE:
        text += (
            "a tanh passes on less than the whole gradient, and none where it is flat"
        )
    elif kinds & EXP_LIKE:
        text += "an exponential turns a sum into a factor"
    else:
        old = title_of(sites[0].activation)
        text += f"with {old}s nothing holds the size of the signal but the weights"
    text += f", {new.merit}."
    facts = [f for layer in layers if (f := anatomy.weight(layer)) is not None]
    if facts and not keep:
        stand = against_target(facts, new.initialiser, new.title)
        text += f" The weights must match it: {stand}."
    return text


def _caution(anatomy: Anatomy, new: Activation, *, keep: bool) -> str:
    parts = []
    if keep:
        parts.append(
            "Weights that were drawn for another activation do not suit it: PyTorch's "
            "default lets 0.41 of a gradient through each ReLU layer."
        )
    parts.append(new.caution)
    if has_raw_data(anatomy):
        parts.append("The inputs are far from unit scale: normalise them first.")
    return " ".join(parts)
