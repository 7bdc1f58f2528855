"""Code that puts shortcuts around layers and blocks, to paste."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.anatomy import ActivationSite, WeightFacts
from gradwatch.remedies.initialisers import HE
from gradwatch.remedies.norm_layers import norm_code
from gradwatch.remedies.snippets import drawn, function_of, names, place_of

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
_BLOCK = """\
class Residual(nn.Module):
    def __init__(self, block, scale, norm):
        super().__init__()
        self.block, self.norm, self.scale = block, norm, {scale}

    def forward(self, x):
        return x + self.scale * self.block(self.norm(x))

"""


def block_code(blocks: Sequence[str], norm: str, scale: float, *, learned: bool) -> str:
    """Return the class of a residual block and its use.

    Args:
        blocks: Names of the blocks.
        norm: Expression of the norm in front of a block.
        scale: Factor of the block's output.
        learned: Whether it is learned, and `scale` what it starts from.

    Returns:
        Lines of code.
    """
    number = "nn.Parameter(torch.tensor(scale))" if learned else "scale"
    return (
        _BLOCK.format(scale=number) + f"for name in {names(blocks)}:\n"
        '    parent, _, child = name.rpartition(".")\n'
        "    block = model.get_submodule(name)\n"
        f"    wrapped = Residual(block, {round(scale, 3)}, {norm})\n"
        "    setattr(model.get_submodule(parent), child, wrapped)"
    )


def wrapping_code(
    layers: Sequence[WeightFacts],
    sites: Sequence[ActivationSite],
    variant: str,
    scale: float,
) -> str:
    """Return the class of a residual layer and its use.

    Args:
        layers: The layers.
        sites: Their activations.
        variant: `scaled`, `learned` or `pre-norm`.
        scale: Factor of the branch.

    Returns:
        Lines of code; a comment where the activation is a function.
    """
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
            f"# {place_of(where)}: x = {old}(layer(x)) -> "
            f"x = x + {factor} * {new}(layer({inner}))"
        )
    if variant == "learned":
        parts.append(f"# in __init__: self.a = nn.Parameter(torch.zeros({len(sites)}))")
    if variant == "pre-norm":
        parts.append("# a norm of its own for each layer; He weights")
    return "\n".join(parts)
