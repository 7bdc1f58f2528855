"""The end of each residual branch: what scales what a branch adds to its sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gradwatch.anatomy import Anatomy
from gradwatch.layers import peek
from gradwatch.remedies.scope import sums
from gradwatch.remedies.snippets import each
from gradwatch.rules.wording import unique
from gradwatch.structure import Role, Structure
from gradwatch.treatment import ModelEditor


def branch_ends(structure: Structure, anatomy: Anatomy) -> tuple[str, ...]:
    """Return, for each residual sum, the module whose weight scales its branch.

    That is the last weight layer on the branch, or the norm after it, which would
    undo any scale of the weight.

    Args:
        structure: How the gradient flows.
        anatomy: What code can change.

    Returns:
        Names in execution order; sums without a weight on the branch are left out.
    """
    ends = []
    for span in sums(structure):
        for name in reversed(span.body):
            facts = anatomy.weight(name)
            if facts is not None and facts.kind == "MultiheadAttention":
                ends.append(f"{name}.out_proj")
                break
            if facts is not None or structure.role(name) is Role.NORM:
                ends.append(name)
                break
    return unique(ends)


def branch_scale(structure: Structure) -> float:
    """Return 1 / sqrt(number of residual sums): the sum of all branches keeps its size.

    Zhang et al. (2019), Fixup, arXiv:1901.09321; Hanin & Rolnick (2018),
    arXiv:1803.01719: a residual network is stable if the squares of its scales sum up
    to a constant.
    """
    return 1.0 / math.sqrt(max(1, len(sums(structure))))


def scaling_code(layers: Sequence[str], scale: float) -> str:
    """Return code that multiplies what each branch adds."""
    verb = f"mul_({scale:.3g})" if scale else "zero_()"
    loop = each(
        layers,
        [
            f"layer.weight.{verb}",
            "if layer.bias is not None:",
            f"    layer.bias.{verb}",
        ],
    )
    return "with torch.no_grad():\n" + "\n".join(
        f"    {line}" for line in loop.splitlines()
    )


def scale_branches(editor: ModelEditor, layers: Sequence[str], scale: float) -> None:
    """Multiply weight and bias of some modules.

    Args:
        editor: The editor of the copy.
        layers: Names of the modules that end the branches.
        scale: Factor; 0 makes the branches silent at first.
    """

    def shrink(tensor: Tensor) -> Tensor:
        return tensor.mul_(scale)

    how = f"times {scale:.3g}" if scale else "zero"
    for layer in layers:
        for parameter in ("weight", "bias"):
            if peek(editor.module(layer), parameter) is not None:
                editor.fill(layer, parameter, shrink, how)
