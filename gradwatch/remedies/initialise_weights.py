"""Draw the weights anew for the activation that really follows each layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from gradwatch.anatomy import WeightFacts
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies.activations import title_of
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.branches import (
    branch_variants,
    is_far_too_large,
    scale_branches,
)
from gradwatch.remedies.initialiser_words import (
    CAUTIONS,
    REASONS,
    bias_clause,
    caution_of,
    how_far_off,
    measured,
)
from gradwatch.remedies.initialisers import (
    KUMAR,
    NAMES,
    ORTHOGONAL,
    XAVIER,
    YILMAZ_POLI,
    Initialiser,
    for_activation,
    named_initialiser,
)
from gradwatch.remedies.measured import record
from gradwatch.remedies.redrawing import redraw, slope_of
from gradwatch.remedies.scope import (
    MAX_BIAS,
    against_target,
    head_weights,
    hidden_weights,
    log10_too_small,
)
from gradwatch.remedies.snippets import drawn
from gradwatch.rules.wording import plural, some
from gradwatch.situations import TANH_LIKE
from gradwatch.structure import Role
from gradwatch.treatment import ModelEditor

#: Decades by which the weights of a network must be off, all layers together, before
#: they are blamed: a quarter of the limit of GW101. Chosen, not measured.
_MIN_DECADES = 0.5
#: Decades by which they must be too large to be behind a NaN. Chosen, not measured.
_TOO_LARGE = 1.0
#: Factor by which the weights of a head must be off before they are drawn anew too.
_HEAD_FACTOR = 10.0
#: Last step at which dead units count as dead from the start: the third probe.
_AT_START = 2
_NOT_AT_FAULT = {
    "GW102": "Recurrent weights are the business of orthogonal-recurrence",
    "GW202": "Recurrent weights are the business of orthogonal-recurrence",
    "GW107": "Weights of another size do not widen the range of float16",
    "GW204": "A spike in training does not come from how it began",
    "GW301": "The learning rate is too large for any weights",
    "GW302": "The learning rate is too small for any weights",
}


class InitialiseWeights(Remedy):
    """Draw the weights anew for the activation that really follows each layer.

    When it applies:
        The gradient fades or grows along the depth, or the signal does, and the weights
        are off: measured against what the initialiser of the activation asks for, they
        make at least half a decade over all layers together. A residual stream
        explodes: the last weight of each branch is scaled instead. Units are dead from
        the start, saturated, or all equal (then nothing else helps).

    When it never does:
        Norms between a layer and its activation undo the scale of its weights: such
        layers are left out. Weights that already fit are not drawn again. No
        initialiser makes a deep logistic network train: Xavier repaired none of 12, so
        it is not proposed; Kumar's and Yilmaz & Poli's come with their record.
        Recurrent layers have a remedy of their own.

    What apply does:
        Draws He (ReLU, LeakyReLU with its slope, and GELU, SiLU, ELU, Mish with their
        own gain), Xavier with gain 1 (Tanh and linear layers), LeCun (SELU); the
        variants draw orthogonal weights (Tanh), Kumar's or Yilmaz & Poli's (Sigmoid).
        Biases become 0. A head is drawn too where it is off by more than 10 times.
        `scale-branches` multiplies the end of each residual branch with 1/sqrt(number
        of sums), `zero-branches` with 0; both draw the layers first where most are more
        than 1.5 times too large.

    Record:
        Of 30 vanishing networks, the initialiser of the present activation repaired 17:
        12 of 13 ReLU-like, 5 of 5 tanh, 0 of 12 sigmoid. Of 24 exploding ones 14, of
        5 dead ones 3. Of 5 exploding residual networks (2 of them transformers, one an
        encoder and decoder; one seed) scaled branches repaired 4, zero ones 5. Kumar's
        weights repaired 4 of 12 logistic networks, Yilmaz and Poli's 0 of 12 within 300
        steps.

    Risk:
        Reinitialises: what the layers had learned is lost.

    References:
        - He et al. (2015). Delving deep into rectifiers. arXiv:1502.01852.
        - Glorot & Bengio (2010). Understanding the difficulty of training deep
          feedforward neural networks.
        - Saxe et al. (2014). Exact solutions to the nonlinear dynamics of learning in
          deep linear neural networks. arXiv:1312.6120.
        - Zhang, Dauphin & Ma (2019). Fixup initialization. arXiv:1901.09321.
        - De & Smith (2020). Batch normalization biases residual blocks towards the
          identity function (SkipInit). arXiv:2002.10444.
        - Kumar (2017). On weight initialization in deep neural networks.
          arXiv:1704.08863.
        - Yilmaz & Poli (2022). Successfully and efficiently training deep multi-layer
          perceptrons with logistic activation function. Neural Networks 153.
    """

    name: ClassVar[str] = "initialise-weights"
    summary: ClassVar[str] = (
        "Draw the weights anew for the activation that really follows each layer."
    )
    risk: ClassVar[Risk] = Risk.REINITIALISES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return variants for this network, or why its weights are not at fault."""
        if case.code in _NOT_AT_FAULT:
            yield self.reject(case, f"{_NOT_AT_FAULT[case.code]}.")
            return
        if case.code in {"GW106", "GW108"}:
            yield from self._without_difference(case)
            return
        if case.code == "GW103" and case.finding.since_step > _AT_START:
            yield self.reject(
                case,
                f"The units died at step {case.finding.since_step}, in training: new "
                "weights alone would die the same way.",
            )
            return
        answers: list[Recommendation | Rejection] = []
        if case.code in {"GW201", "GW203"}:
            answers += self._branches(case)
        answers += self._along_depth(case)
        yield from answers

    # -- equal or zero weights --------------------------------------------------

    def _without_difference(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Draw what is constant: its units can never come to differ."""
        named = set(case.finding.layers)
        layers = [
            facts
            for facts in hidden_weights(case.anatomy)
            if facts.layer in named and (case.code == "GW108" or facts.std == 0.0)
        ]
        if not layers:
            yield self.reject(
                case, f"The weights of {some(case.finding.layers)} are not all zero."
            )
            return
        heads = [facts for facts in head_weights(case.anatomy) if facts.std == 0.0]
        what = "equal in every unit" if case.code == "GW108" else "all zero"
        yield self._matching(
            case,
            layers,
            heads,
            f"The weights of {some([f.layer for f in layers])} are {what}: all units "
            "get the same gradient and stay equal. Only random weights part them.",
        )

    # -- residual streams -------------------------------------------------------

    def _branches(self, case: Case) -> Iterable[Recommendation]:
        """Scale what each branch adds, and draw branches that are far too large."""
        for variant in branch_variants(case):
            yield self.recommend(
                case,
                variant.title,
                variant.why,
                variant.code,
                layers=variant.layers,
                sites=[s for s in case.anatomy.sites if s.layer in variant.draws],
                options=variant.options,
                source=variant.source,
                record=variant.record,
                caution="What the branches had learned is lost.",
            )

    # -- the scale of the weights -----------------------------------------------

    def _along_depth(self, case: Case) -> Iterable[Recommendation | Rejection]:
        hidden = [
            facts
            for facts in hidden_weights(case.anatomy)
            if facts.activation is not None
            or case.structure.role(facts.layer) is Role.TRUNK
            or is_far_too_large(facts)
        ]
        if not hidden:
            yield self.reject(case, "No hidden weight layer was found.")
            return
        free = [facts for facts in hidden if facts.norm is None]
        if 2 * len(free) < len(hidden):
            yield self.reject(
                case,
                f"A norm follows {len(hidden) - len(free)} of the "
                f"{plural(len(hidden), 'layer')} and undoes the scale of its weights.",
            )
            return
        pairs = [(f, i) for f in free if (i := for_activation(f.activation))]
        logistic = [facts for facts in free if facts.activation == "sigmoid"]
        off = log10_too_small(pairs)
        biased = [f for f in free if abs(f.bias_mean or 0.0) > MAX_BIAS]
        if case.code == "GW205" and sum(off) > -_TOO_LARGE:
            yield self.reject(
                case, "The weights are not too large for their activations."
            )
            return
        if pairs and (biased or sum(abs(x) for x in off) >= _MIN_DECADES):
            layers = [facts for facts, _ in pairs]
            why = how_far_off(pairs, off) + bias_clause(biased)
            yield self._matching(case, layers, self._bad_heads(case), why)
            if all(facts.activation in TANH_LIKE for facts in layers):
                yield self._named(case, layers, ORTHOGONAL)
        elif pairs:
            yield self.reject(
                case,
                f"The weights of {some([f.layer for f, _ in pairs])} fit their "
                f"activations: off by {sum(map(abs, off)):.1f} decades together.",
            )
        if logistic:
            yield self._named(case, logistic, KUMAR)
            if case.code != "GW104":  # its gradient does not fade, but the unit is flat
                yield self._named(case, logistic, YILMAZ_POLI)
        elif not pairs:
            kinds = sorted({title_of(f.activation or "") for f in free})
            yield self.reject(case, f"No initialiser suits {', '.join(kinds)}.")

    def _bad_heads(self, case: Case) -> list[WeightFacts]:
        return [
            facts
            for facts in head_weights(case.anatomy)
            if abs(log10_too_small([(facts, XAVIER)])[0]) > math.log10(_HEAD_FACTOR)
        ]

    def _matching(
        self,
        case: Case,
        layers: Sequence[WeightFacts],
        heads: Sequence[WeightFacts],
        why: str,
    ) -> Recommendation:
        draws = {f.layer: for_activation(f.activation) or XAVIER for f in layers}
        draws |= {facts.layer: XAVIER for facts in heads}
        titles = list(dict.fromkeys(draw.title for draw in draws.values()))
        if heads:
            why += f" So is the head, {some([f.layer for f in heads])}."
        names = set(draws)
        return self.recommend(
            case,
            f"Draw {plural(len(draws), 'layer')} anew, {' and '.join(titles)}",
            why,
            drawn(draws),
            layers=[f.layer for f in case.anatomy.weights if f.layer in names],
            sites=[s for s in case.anatomy.sites if s.layer in names],
            options={"init": "matching"},
            source="; ".join(dict.fromkeys(draw.source for draw in draws.values())),
            record=measured(case.code, layers),
            caution=caution_of(layers),
        )

    def _named(
        self, case: Case, layers: Sequence[WeightFacts], initialiser: Initialiser
    ) -> Recommendation:
        return self.recommend(
            case,
            f"Draw {plural(len(layers), 'layer')} anew, {initialiser.title}",
            against_target(layers, initialiser, title_of(layers[0].activation or ""))
            + f". {REASONS[initialiser.name]}",
            drawn(dict.fromkeys((f.layer for f in layers), initialiser)),
            layers=[facts.layer for facts in layers],
            sites=[s for f in layers if (s := case.anatomy.site(f.layer)) is not None],
            options={"init": initialiser.name},
            source=initialiser.source,
            record=record(initialiser.name, case.code),
            caution=CAUTIONS[initialiser.name],
        )

    # -- doing it ---------------------------------------------------------------

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Draw the layers, scale the ends of the branches, or both."""
        init = str(recommendation.options["init"])
        if init.endswith("-branches"):
            layers = _listed(recommendation, "draw")
            ends = _listed(recommendation, "ends") or recommendation.layers
        else:
            layers, ends = recommendation.layers, ()
        sites = {site.layer: site for site in recommendation.sites}
        for layer in layers:
            site = sites.get(layer)
            slope = None
            if site is not None and site.module is not None:
                slope = slope_of(editor.module(site.module))
            activation = None if site is None else site.activation
            by_name = init in NAMES
            redraw(
                editor,
                layer,
                named_initialiser(init)
                if by_name
                else for_activation(activation, slope) or XAVIER,
            )
        if ends:
            scale_branches(editor, ends, float(recommendation.options["scale"]))


def _listed(recommendation: Recommendation, option: str) -> tuple[str, ...]:
    """Return the layers that an option lists."""
    return tuple(filter(None, str(recommendation.options.get(option, "")).split(",")))
