"""Let each layer of a run of equal shapes add to its input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import nn

from gradwatch.anatomy import WeightFacts
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.activations import ACTIVATIONS
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.blocks import repeated_blocks
from gradwatch.remedies.initialisers import HE, XAVIER, Initialiser, for_activation
from gradwatch.remedies.measured import record
from gradwatch.remedies.norm_layers import dims_of, norm_after, norm_literal, sizes_of
from gradwatch.remedies.redrawing import redraw
from gradwatch.remedies.residual_code import block_code, wrapping_code
from gradwatch.remedies.scope import DEPTH_CODES, hidden_weights, sums, swappable_sites
from gradwatch.remedies.snippets import drawn
from gradwatch.rules.wording import plural, some
from gradwatch.situations import EXP_LIKE
from gradwatch.structure import Role
from gradwatch.treatment import ModelEditor

#: Layers of equal shape in a row from which shortcuts make a difference. Chosen: a
#: shortcut over fewer spares the gradient at most two factors.
_MIN_RUN = 3


class AddResidual(Remedy):
    """Let each layer of a run of equal shapes add to its input.

    When it applies:
        The gradient or the signal fades or grows along at least 3 layers in a row whose
        output has the shape of their input.

    When it never does:
        Layers that stand on a residual branch already get no second shortcut; the layer
        that reads the data needs none, as nothing below it learns; layers that change
        the shape would need a projection, which is the user's to choose.
        An unscaled shortcut, y = x + f(x), is never proposed: it grows with the depth.

    What apply does:
        Each layer returns y = x + f(W x) / sqrt(L), L layers in all (`scaled`); or
        y = x + a f(W x) with an `a` that is learned and starts at 0 (`learned`: ReZero,
        SkipInit); or, the largest change and the most robust, y = x + ReLU(W norm(x)) /
        sqrt(L) with He weights (`pre-norm`). Where no layers but whole blocks repeat,
        such as a transformer's without shortcuts, y = x + block(norm(x)) with either
        factor, in the pre-norm variant with weights drawn for their activations.

    Record:
        Of 30 vanishing networks shortcuts with the weights as they were repaired 26,
        the pre-norm variant 30; of 24 exploding ones 2 and 19; of 5 dead ones 3 with
        the weights as they were. The learned variant was not counted by itself.

    Risk:
        Reshapes: the network computes something else. The pre-norm variant also loses
        what the layers had learned.

    References:
        - He et al. (2016). Deep residual learning for image recognition.
          arXiv:1512.03385.
        - He et al. (2016). Identity mappings in deep residual networks.
          arXiv:1603.05027.
        - Bachlechner et al. (2020). ReZero is all you need. arXiv:2003.04887.
        - De & Smith (2020). SkipInit. arXiv:2002.10444.
        - Hanin & Rolnick (2018). How to start training. arXiv:1803.01719.
    """

    name: ClassVar[str] = "add-residual"
    summary: ClassVar[str] = "Let each layer of a run of equal shapes add to its input."
    risk: ClassVar[Risk] = Risk.RESHAPES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the variants, best first by their record, or why none fits."""
        if case.code not in DEPTH_CODES:
            yield self.reject(
                case, "A shortcut changes what happens along the depth only."
            )
            return
        layers = _runs(case)
        if not layers:
            blocks = [] if sums(case.structure) else _blocks(case)
            if blocks:
                for variant in ("pre-norm", "scaled", "learned"):
                    yield self._around(case, blocks, variant)
            else:
                yield self.reject(case, _why_none(case))
            return
        yield self._pre_norm(case, layers)
        if any(facts.activation in EXP_LIKE for facts in layers):
            return  # a branch that explodes must be rebuilt
        variants = [self._scaled(case, layers), self._learned(case, layers)]
        # With exploding weights only a branch that starts at zero begins well.
        yield from variants if case.code in {"GW101", "GW105"} else variants[::-1]

    def _scaled(self, case: Case, layers: Sequence[WeightFacts]) -> Recommendation:
        scale = _scale(layers)
        return self._variant(
            case,
            layers,
            f"Add a shortcut around each of {len(layers)} layers, branches scaled by "
            f"{scale:.2g}",
            f"Each branch is scaled by 1/sqrt({len(layers)}), so that all of them "
            "together add as much as the stream began with.",
            {"variant": "scaled", "scale": scale},
            source="He et al. (2016), arXiv:1512.03385; Hanin & Rolnick (2018), "
            "arXiv:1803.01719",
            measured=record("residual", case.code),
        )

    def _learned(self, case: Case, layers: Sequence[WeightFacts]) -> Recommendation:
        return self._variant(
            case,
            layers,
            f"Add a shortcut around each of {len(layers)} layers, branches growing "
            "from 0",
            "The network begins as the identity; each branch has a factor that starts "
            "at 0 and grows as far as it helps.",
            {"variant": "learned", "scale": 0.0},
            source="Bachlechner et al. (2020), ReZero, arXiv:2003.04887; De & Smith "
            "(2020), SkipInit, arXiv:2002.10444",
            measured="not counted by itself in our bench",
        )

    def _pre_norm(self, case: Case, layers: Sequence[WeightFacts]) -> Recommendation:
        scale = _scale(layers)
        return self._variant(
            case,
            layers,
            f"Rebuild {len(layers)} layers as pre-norm residual ReLU blocks with He "
            "weights",
            f"Each layer reads a normalised input and adds 1/sqrt({len(layers)}) of a "
            "ReLU: neither weights nor activation can make the stream fade or explode.",
            {"variant": "pre-norm", "pre_norm": True, "scale": scale},
            source="He et al. (2016), arXiv:1603.05027; He et al. (2015), "
            "arXiv:1502.01852; Hanin & Rolnick (2018), arXiv:1803.01719",
            measured=record("residual+he+pre-norm", case.code),
        )

    def _variant(
        self,
        case: Case,
        layers: Sequence[WeightFacts],
        title: str,
        why: str,
        options: dict[str, Option],
        *,
        source: str,
        measured: str,
    ) -> Recommendation:
        chosen = [facts.layer for facts in layers]
        sites = [site for name in chosen if (site := case.anatomy.site(name))]
        pre_norm = options["variant"] == "pre-norm"
        return self.recommend(
            case,
            title,
            f"The outputs of {some(chosen)} have the shape of their inputs, so that a "
            f"shortcut fits: it gives the gradient a way past each layer. {why}",
            wrapping_code(
                layers, sites, str(options["variant"]), float(options["scale"])
            ),
            layers=chosen,
            sites=sites,
            risk=Risk.REINITIALISES if pre_norm else Risk.RESHAPES,
            options=options,
            caution="The optimizer must own the new parameters: make it after the "
            "change. Names in the state dict change."
            if options["variant"] != "scaled"
            else "Names in the state dict change.",
            source=source,
            record=measured,
            where=next((site.where for site in sites if site.where), ""),
        )

    def _around(
        self, case: Case, blocks: Sequence[str], variant: str
    ) -> Recommendation:
        """Return shortcuts around whole blocks, each behind a norm."""
        inside = [f for f in hidden_weights(case.anatomy) if _within(f.layer, blocks)]
        draws: dict[str, Initialiser] = {}
        if variant == "pre-norm":
            for facts in inside:
                if (initialiser := for_activation(facts.activation)) is not None:
                    draws[facts.layer] = initialiser
        learned = variant == "learned"
        scale = 0.0 if learned else 1.0 / math.sqrt(len(blocks))
        begins = "growing from 0" if learned else f"scaled by {scale:.2g}"
        code = block_code(blocks, norm_literal(inside[0]), scale, learned=learned)
        return self.recommend(
            case,
            f"Add a shortcut around each of {len(blocks)} blocks, branches {begins}"
            + (f", and draw {plural(len(draws), 'layer')} anew" if draws else ""),
            f"{some(blocks)} repeat without a shortcut, so that the gradient must pass "
            "every layer of each. A block then reads a normalised input and adds to "
            "the raw one.",
            f"{drawn(draws)}\n{code}" if draws else code,
            layers=(*blocks, *draws),
            sites=[s for s in case.anatomy.sites if s.layer in draws],
            risk=Risk.REINITIALISES if draws else Risk.RESHAPES,
            options={
                "variant": variant,
                "pre_norm": True,
                "scale": scale,
                "blocks": len(blocks),
            },
            caution="That the blocks keep the shape of their input is inferred from "
            "their repetition. The optimizer must own the new parameters.",
            source="He et al. (2016), arXiv:1603.05027; Xiong et al. (2020), "
            "arXiv:2002.04745",
            record=f"repaired {1 if draws else 0} of 2 transformers without shortcuts "
            "in our bench (1 seed)",
        )

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Wrap the layers."""
        variant = recommendation.options["variant"]
        scale = float(recommendation.options["scale"])
        sites = {site.layer: site for site in recommendation.sites}
        blocks = int(recommendation.options.get("blocks", 0))
        if blocks:
            for block in recommendation.layers[:blocks]:
                _wrap(editor, block, scale, learned=variant == "learned")
            for layer in recommendation.layers[blocks:]:
                site = sites.get(layer)
                fitting = for_activation(None if site is None else site.activation)
                redraw(editor, layer, fitting or XAVIER)
            return
        for layer in recommendation.layers:
            site = sites.get(layer)
            norm: nn.Module | None = None
            if variant == "pre-norm":
                module = editor.module(layer)
                norm = norm_after("layer", dims_of(module), sizes_of(module)[0])
                if site is not None and site.activation != "relu":
                    editor.swap_activation(site, ACTIVATIONS["relu"].make)
                redraw(editor, layer, HE)
            editor.add_residual(
                layer, site, scale, learned=variant == "learned", pre_norm=norm
            )


def _within(layer: str, blocks: Sequence[str]) -> bool:
    return any(layer.startswith(f"{block}.") for block in blocks)


def _wrap(editor: ModelEditor, block: str, scale: float, *, learned: bool) -> None:
    """Put a shortcut around a block, and a norm of its input's size in front."""
    entry = next(
        module
        for module in editor.module(block).modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    )
    norm = norm_after("layer", dims_of(entry), sizes_of(entry)[0])
    editor.add_residual(block, None, scale, learned=learned, pre_norm=norm)


def _blocks(case: Case) -> list[str]:
    """Return repeated blocks that hold a layer of a kind whose size is known."""
    blocks = repeated_blocks(case.structure, case.anatomy, _MIN_RUN)
    known = {
        facts.layer
        for facts in hidden_weights(case.anatomy)
        if facts.kind in {"Linear", "Conv1d", "Conv2d", "Conv3d"}
    }
    whole = all(any(n.startswith(f"{b}.") for n in known) for b in blocks)
    return blocks if whole else []


def _runs(case: Case) -> list[WeightFacts]:
    """Return the layers of all long enough runs of equal shapes on the trunk."""
    inside = {name for span in case.structure.spans for name in span.body}
    allowed = {site.layer for site in swappable_sites(case.anatomy)}
    first = _first_layers(case)
    found: list[WeightFacts] = []
    run: list[WeightFacts] = []
    for facts in hidden_weights(case.anatomy):
        fits = (
            facts.keeps_shape
            and facts.layer not in inside
            and (facts.layer in allowed or facts.activation is None)
            and case.structure.role(facts.layer) is Role.TRUNK
            and facts.layer not in first
        )
        same = run and (run[-1].out_size, run[-1].dims) == (facts.out_size, facts.dims)
        if not fits or (run and not same):
            found += run if len(run) >= _MIN_RUN else []
            run = []
        if fits:
            run.append(facts)
    return found + (run if len(run) >= _MIN_RUN else [])


def _first_layers(case: Case) -> frozenset[str]:
    """Return the layers that read the data: nothing below needs a way past them."""
    record = case.history.latest
    roles = {info.role for info in case.structure.layers.values()}
    if record is None or Role.EMBEDDING in roles:
        return frozenset()
    return frozenset(chain.source for chain in record.chains)


def _why_none(case: Case) -> str:
    count = len(sums(case.structure))
    if count:
        return f"The network has {plural(count, 'residual sum')} already."
    return (
        f"No {_MIN_RUN} hidden layers in a row keep the shape of their input; a "
        "shortcut around others would need a projection."
    )


def _scale(layers: Sequence[WeightFacts]) -> float:
    return 1.0 / math.sqrt(len(layers))
