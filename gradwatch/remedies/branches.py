"""The end of each residual branch: what scales what a branch adds to its sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gradwatch.anatomy import Anatomy, WeightFacts
from gradwatch.layers import peek
from gradwatch.recommendations import Option
from gradwatch.remedies.activations import title_of
from gradwatch.remedies.base import Case
from gradwatch.remedies.initialisers import XAVIER, for_activation
from gradwatch.remedies.scope import (
    against_target,
    hidden_weights,
    log10_too_small,
    sums,
)
from gradwatch.remedies.snippets import drawn, each
from gradwatch.rules.wording import plural, unique
from gradwatch.structure import Role, Structure
from gradwatch.treatment import ModelEditor

#: Residual sums from which a residual stream can explode by their number.
_MIN_SUMS = 3
#: Factor by which weights on a branch must be too large to be drawn with the trunk's:
#: above 1.41, which He's weights are for a linear layer. Chosen, not measured.
_FAR = 1.5
_SCALED_BY = (
    "Hanin & Rolnick (2018), arXiv:1803.01719; Zhang et al. (2019), Fixup, "
    "arXiv:1901.09321"
)
_FROM_ZERO = (
    "De & Smith (2020), SkipInit, arXiv:2002.10444; Goyal et al. (2017), "
    "arXiv:1706.02677, section 5.1"
)


@dataclass(frozen=True, slots=True)
class BranchVariant:
    """One way to begin with smaller branches; the fields are a recommendation's.

    Attributes:
        title: What to do.
        why: Why it should help.
        code: The lines to paste.
        layers: Layers that change.
        draws: Those of them that are drawn anew.
        options: What `apply` needs.
        source: Papers.
        record: How it fared: set-ups of the fault bench whose stream explodes.
    """

    title: str
    why: str
    code: str
    layers: tuple[str, ...]
    draws: frozenset[str]
    options: Mapping[str, Option]
    source: str
    record: str


def branch_variants(case: Case) -> Iterable[BranchVariant]:
    """Yield the ways to shrink the branches of a residual stream, best first.

    Where most hidden weights are far too large, they are drawn anew before: a scale at
    the end of a branch does not undo what explodes inside it.

    Args:
        case: The case.

    Yields:
        Scaled and zero branches; nothing for networks with fewer than 3 sums.
    """
    ends = branch_ends(case.structure, case.anatomy)
    count = len(sums(case.structure))
    if count < _MIN_SUMS or not ends:
        return
    hidden = hidden_weights(case.anatomy)
    large = [facts for facts in hidden if is_far_too_large(facts)]
    if 2 * len(large) < len(hidden):  # not how this network was initialised
        large = []
    draws = {
        facts.layer: for_activation(facts.activation) or XAVIER
        for facts in (hidden if large else ())
    }
    why = (
        f"{count} residual sums add branch after branch at full size: the stream, "
        "and with it the gradient, grows with each. "
    )
    if large:
        name = title_of(large[0].activation or "linear")
        target = against_target(large[:1], draws[large[0].layer], name)
        why += f"{plural(len(large), 'layer')} are too large as well: {target}. "
    scale = branch_scale(case.structure)
    for init, factor, title, reason, source, repaired in (
        (
            "scale-branches",
            scale,
            f"scale the {len(ends)} residual branches by 1/sqrt({count}) = {scale:.2g}",
            f"Scaled by 1/sqrt({count}), all of them together add as much as the "
            "stream began with.",
            _SCALED_BY,
            4,
        ),
        (
            "zero-branches",
            0.0,
            f"start the {len(ends)} residual branches at zero",
            "At zero, the network begins as the identity and each branch grows as far "
            "as it helps.",
            _FROM_ZERO,
            5,
        ),
    ):
        options: dict[str, Option] = {"init": init, "scale": factor}
        code = scaling_code(ends, factor)
        lead = f"draw {plural(len(draws), 'layer')} anew and " if draws else ""
        if draws:
            options |= {"draw": ",".join(draws), "ends": ",".join(ends)}
            code = f"{drawn(draws)}\n{code}"
        whole = lead + title
        yield BranchVariant(
            title=whole[0].upper() + whole[1:],
            why=why + reason,
            code=code,
            layers=(*draws, *(end for end in ends if end not in draws)),
            draws=frozenset(draws),
            options=options,
            source=source,
            record=f"repaired {repaired} of 5 exploding residual networks in our bench "
            "(1 seed)",
        )


def is_far_too_large(facts: WeightFacts) -> bool:
    """Whether a weight is far above what the initialiser of its activation draws."""
    initialiser = for_activation(facts.activation) or XAVIER
    return log10_too_small([(facts, initialiser)])[0] < -math.log10(_FAR)


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
