"""Let each layer of a run of equal shapes add to its input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import nn

from gradwatch.anatomy import ActivationSite, WeightFacts
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.activations import ACTIVATIONS
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.initialisers import HE
from gradwatch.remedies.measured import record
from gradwatch.remedies.norm_layers import dims_of, norm_after, norm_code, sizes_of
from gradwatch.remedies.redrawing import redraw
from gradwatch.remedies.scope import DEPTH_CODES, hidden_weights, sums, swappable_sites
from gradwatch.remedies.snippets import drawn, function_of, names
from gradwatch.rules.wording import plural, some
from gradwatch.situations import EXP_LIKE
from gradwatch.structure import Role
from gradwatch.treatment import ModelEditor

#: Layers of equal shape in a row from which shortcuts make a difference. Chosen: a
#: shortcut over fewer spares the gradient at most two factors.
_MIN_RUN = 3
_CLASS = """\
class Residual(nn.Module):
    def __init__(self, layer, activation, scale, norm=None):
        super().__init__()
        self.layer, self.activation, self.norm = layer, activation, norm
        self.scale = {scale}

    def forward(self, x):
        inner = x if self.norm is None else self.norm(x)
        return x + self.scale * self.activation(self.layer(inner))

"""


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
        sqrt(L) with He weights (`pre-norm`).

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
            _code(layers, sites, str(options["variant"]), float(options["scale"])),
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

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Wrap the layers."""
        variant = recommendation.options["variant"]
        scale = float(recommendation.options["scale"])
        sites = {site.layer: site for site in recommendation.sites}
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


def _code(
    layers: Sequence[WeightFacts],
    sites: Sequence[ActivationSite],
    variant: str,
    scale: float,
) -> str:
    """Return the class and its use; a comment where the activation is a function."""
    pre_norm = variant == "pre-norm"
    modules = [site.module for site in sites]
    alike = len({facts.dims for facts in layers}) == 1
    if len(set(modules)) < len(layers) or None in modules or not alike:
        return _comments(sites, variant, scale)
    number = "nn.Parameter(torch.tensor(scale))" if variant == "learned" else "scale"
    norm = f", {norm_code('layer', layers[0], inputs=True)}" if pre_norm else ""
    activation = "nn.ReLU()" if pre_norm else "model.get_submodule(act)"
    text = _CLASS.format(scale=number)
    chosen = [facts.layer for facts in layers]
    if pre_norm:
        text += drawn(dict.fromkeys(chosen, HE)) + "\n"
    acts = [module for module in modules if module is not None]
    return text + (
        f"layers = {names(chosen)}\n"
        f"activations = {names(acts)}\n"
        "for name, act in zip(layers, activations):\n"
        "    layer = model.get_submodule(name)\n"
        f"    block = Residual(layer, {activation}, {round(scale, 3)}{norm})\n"
        "    for old, new in ((name, block), (act, nn.Identity())):\n"
        '        parent, _, child = old.rpartition(".")\n'
        "        setattr(model.get_submodule(parent), child, new)"
    )


def _comments(sites: Sequence[ActivationSite], variant: str, scale: float) -> str:
    parts = []
    for where in dict.fromkeys(site.where for site in sites) or [""]:
        kinds = [site.activation for site in sites if site.where == where]
        old = function_of(kinds[0]) if kinds else ""
        inner = "norm(x)" if variant == "pre-norm" else "x"
        new = "torch.relu" if variant == "pre-norm" else old
        factor = "self.a[i]" if variant == "learned" else f"{scale:.3g}"
        parts.append(
            f"# {where or 'in forward'}: x = {old}(layer(x)) -> "
            f"x = x + {factor} * {new}(layer({inner}))"
        )
    if variant == "learned":
        parts.append(f"# in __init__: self.a = nn.Parameter(torch.zeros({len(sites)}))")
    if variant == "pre-norm":
        parts.append("# a norm of its own for each layer; He weights")
    return "\n".join(parts)
