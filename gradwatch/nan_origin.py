"""Which module made the first NaN: the last forward, run again on a copy."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.layers import clean_name
from gradwatch.module_hooks import hooks_on_copy
from gradwatch.ranks import world
from gradwatch.records import NonFiniteOrigin
from gradwatch.statistics import plain, tensors_in


class LastForward:
    """References (no copies) to the root's last inputs, and the RNG state before it."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] | None = None
        self.kwargs: dict[str, Any] = {}
        self.rng: Tensor | None = None

    def remember(self, args: tuple[Any, ...], kwargs: Any, *, random: bool) -> None:
        """Keep the inputs of a training forward.

        Args:
            args: Positional inputs.
            kwargs: Keyword inputs.
            random: Whether to keep the random state, for models with dropout.
        """
        self.args = args
        self.kwargs = dict(kwargs or {})
        self.rng = torch.get_rng_state() if random else None


def replay_forward(model: nn.Module, last: LastForward, step: int) -> NonFiniteOrigin:
    """Run the last forward on a deep copy and name the first bad module.

    The user's model, gradients and random state are left as they are.

    Args:
        model: The watched module, its parameters as they were in that forward.
        last: Its inputs.
        step: Optimizer step, for the record.

    Returns:
        The first module in forward order with finite inputs and a non-finite output;
        else the last layer in forward order whose own gradient is not finite, which is
        the first one in backward order. Unknown if the model does not run as a copy,
        and with several processes, where a copy may wait for the others.
    """
    rank, ranks = world()
    if ranks > 1:
        return NonFiniteOrigin(
            step,
            None,
            "unknown",
            f"with {ranks} ranks the step is not replayed, because a copy on rank "
            f"{rank} may wait for the others; a probe at that step would tell",
        )
    if last.args is not None:
        try:
            found = _first_bad_module(model, last)
        except Exception as error:  # the user's model, which need not run as a copy
            reason = f"{type(error).__name__}: {str(error).partition('. ')[0]}"
            return NonFiniteOrigin(
                step, None, "unknown", f"a copy of the model could not run ({reason})"
            )
        if found is not None:
            layer, where, detail = found
            return NonFiniteOrigin(step, layer, where, detail)
    bad = [
        name
        for name, parameter in model.named_parameters()
        if (entries := plain(parameter)) is not None
        and not torch.isfinite(entries).all()
    ]
    if bad:
        layer = clean_name(bad[0]).rpartition(".")[0]
        return NonFiniteOrigin(step, layer, "parameter", f"{bad[0]} is not finite")
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
        and (grad := plain(parameter.grad)) is not None
        and not torch.isfinite(grad).all()
    ]
    nearest = clean_name(bad[-1]).rpartition(".")[0] if bad else None
    return NonFiniteOrigin(
        step,
        nearest,
        "backward",
        "the forward pass was finite; this is the layer nearest the loss whose "
        "gradient is not",
    )


def _first_bad_module(
    model: nn.Module, last: LastForward
) -> tuple[str, str, str] | None:
    found: list[tuple[str, str, str]] = []
    twin = copy.deepcopy(model)
    names = {id(module): clean_name(name) for name, module in twin.named_modules()}

    def inspect(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if found or module._modules or _all_finite(output):
            return
        if _all_finite((args, kwargs)):
            detail = f"its inputs lay in {_range((args, kwargs))}"
            found.append((names[id(module)], "forward", detail))
        else:
            detail = "its input was already not finite"
            found.append((names[id(module)], "input", detail))

    with (
        torch.random.fork_rng(devices=()),
        torch.no_grad(),
        hooks_on_copy(twin, inspect),
    ):
        if last.rng is not None:
            torch.set_rng_state(last.rng)
        twin(*(last.args or ()), **last.kwargs)
    return found[0] if found else None


def _all_finite(value: Any) -> bool:
    return all(
        bool(torch.isfinite(entries).all())
        for entries in map(plain, tensors_in(value))
        if entries is not None
    )


def _range(value: Any) -> str:
    low, high = math.inf, -math.inf
    for entries in map(plain, tensors_in(value)):
        if entries is not None:
            smallest, largest = torch.aminmax(entries)
            low, high = min(low, float(smallest)), max(high, float(largest))
    return f"[{low:.3g}, {high:.3g}]" if low <= high else "no floating input"
