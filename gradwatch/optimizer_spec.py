"""An optimizer as plain options: what it takes to build one like it for a copy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn, optim
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradwatch.errors import SettingsError
from gradwatch.layers import clean_name
from gradwatch.recipe import Recipe


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """What an optimizer was made of; it keeps neither parameters nor state.

    Attributes:
        kind: Its class.
        defaults: Options of the whole.
        groups: Names of the model's parameters, and options, of each group.
        others: Names of the model's parameters that it does not own.
    """

    kind: type[Optimizer]
    defaults: Mapping[str, Any]
    groups: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...]
    others: frozenset[str]


#: The user's optimizer, its spec, or what makes one from parameters.
OptimizerSource = Optimizer | OptimizerSpec | Callable[[Iterable[Tensor]], Optimizer]


def read_spec(optimizer: Optimizer, names: Mapping[int, str]) -> OptimizerSpec:
    """Return what an optimizer is made of.

    Args:
        optimizer: The optimizer.
        names: Clean names of the model's parameters by `id(parameter)`.

    Returns:
        The spec, with copies of options that are tensors.
    """
    groups = []
    for group in optimizer.param_groups:
        mine = tuple(names[id(p)] for p in group["params"] if id(p) in names)
        options = {k: _own(v) for k, v in group.items() if k != "params"}
        groups.append((mine, options))
    owned = {name for mine, _ in groups for name in mine}
    defaults = {key: _own(value) for key, value in optimizer.defaults.items()}
    others = frozenset(names.values()) - owned
    return OptimizerSpec(type(optimizer), defaults, tuple(groups), others)


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def rebuild(
    source: OptimizerSource, model: nn.Module, copy: nn.Module, recipe: Recipe
) -> Optimizer:
    """Return an optimizer for a copy: the user's class, groups and options.

    Its state starts empty. Where a schedule has moved a learning rate, the one it
    began with counts. A parameter that the treatment added joins the group of its
    layer: that of the bias if it is a vector (a norm's, say) and the bias has a group
    of its own, so that it decays as the user's norms and biases do.

    Args:
        source: The user's optimizer of `model`, its spec, or what makes one.
        model: The model whose parameters `source` owns.
        copy: The copy to train.
        recipe: What of the optimizer changes.

    Returns:
        The optimizer.

    Raises:
        SettingsError: If it owns no parameter of the model, or cannot be rebuilt.
    """
    names = {id(p): clean_name(name) for name, p in model.named_parameters()}
    if isinstance(source, Optimizer):
        source = read_spec(source, names)
    if isinstance(source, OptimizerSpec):
        groups = _groups(source, copy)
        if recipe.optimizer:
            return _exchanged(groups, recipe)
        optimizer = _same(source, groups)
    else:
        optimizer = _made(source, copy)
        if recipe.optimizer:
            return _exchanged(optimizer.param_groups, recipe)
    for group in optimizer.param_groups:
        if group.get("lr") is not None:
            rate = group["lr"] if recipe.lr is None else recipe.lr
            group["lr"] = rate * recipe.lr_factor
        for key in ("eps", "weight_decay"):
            if getattr(recipe, key) is None:
                continue
            if key not in group:
                raise SettingsError(
                    f"`optimizer` (={type(optimizer).__name__}) has no `{key}` that "
                    "could be changed."
                )
            group[key] = getattr(recipe, key)
    return optimizer


def _made(
    source: Callable[[Iterable[Tensor]], Optimizer], copy: nn.Module
) -> Optimizer:
    made: object = source([p for p in copy.parameters() if p.requires_grad])
    if not isinstance(made, Optimizer):
        raise SettingsError(
            "`optimizer` must be a torch optimizer or return one from parameters; it "
            f"returned {type(made).__name__}."
        )
    return made


def _groups(spec: OptimizerSpec, copy: nn.Module) -> list[dict[str, Any]]:
    """Return the groups with the copy's parameters in them."""
    twins = {clean_name(name): p for name, p in copy.named_parameters()}
    groups: list[dict[str, Any]] = []
    for mine, given in spec.groups:
        options = {key: _own(value) for key, value in given.items()}
        # Left in, a new scheduler would begin with it and not with a changed rate.
        began = options.pop("initial_lr", None)
        if began is not None:
            options["lr"] = began
        options.pop("param_names", None)
        params = [twins[name] for name in mine if name in twins]
        groups.append({"params": params, **options})
    if not any(group["params"] for group in groups):
        raise SettingsError(
            f"`optimizer` (={spec.kind.__name__}) owns no parameter of the model; "
            "pass the one that trains it, or a function from parameters to one."
        )
    known = spec.others.union(*(mine for mine, _ in spec.groups))
    for name, parameter in twins.items():
        if name not in known and parameter.requires_grad and not is_lazy(parameter):
            place = _home(name, parameter.dim(), spec, known, twins)
            if place is not None:
                groups[place]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _home(
    name: str,
    dims: int,
    spec: OptimizerSpec,
    known: frozenset[str],
    twins: Mapping[str, Tensor],
) -> int | None:
    """Return the group that a new parameter joins; None if another optimizer has it.

    That of the nearest parameters: of the same layer, else of the module around it.
    """
    owner = name
    while owner:
        owner = owner.rpartition(".")[0]
        near = {other for other in known if not owner or other.startswith(f"{owner}.")}
        if not near:
            continue
        votes: list[tuple[bool, int, int]] = []
        for place, (mine, _) in enumerate(spec.groups):
            inside = [other for other in mine if other in near]
            alike = any(_flat(twins[n]) == (dims < 2) for n in inside if n in twins)
            if inside:
                votes.append((alike, len(inside), -place))
        return -max(votes)[2] if votes else None
    return None


def _flat(parameter: Tensor) -> bool:
    """Whether a parameter is a bias, a scale or one of a norm."""
    return not is_lazy(parameter) and parameter.dim() < 2


def _same(spec: OptimizerSpec, groups: list[dict[str, Any]]) -> Optimizer:
    kind: Any = spec.kind
    accepted = inspect.signature(kind.__init__).parameters
    options = {k: _own(v) for k, v in spec.defaults.items() if k in accepted}
    knows_groups = kind is not optim.LBFGS
    try:
        optimizer: Optimizer = kind(
            groups if knows_groups else groups[0]["params"], **options
        )
    except Exception as error:
        raise SettingsError(
            f"`optimizer` (={kind.__name__}) cannot be built again ({error}); pass "
            "`optimizer=lambda params: ...` instead."
        ) from error
    return optimizer


def _exchanged(groups: list[dict[str, Any]], recipe: Recipe) -> Optimizer:
    kind: Any = getattr(optim, recipe.optimizer, None)
    if kind is None:
        raise SettingsError(
            f"`optimizer` (={recipe.optimizer!r}) is no class of torch.optim."
        )
    accepted = inspect.signature(kind.__init__).parameters
    rates = [float(group["lr"]) for group in groups if group.get("lr") is not None]
    highest = max(rates, default=0.0)
    rate = accepted["lr"].default if recipe.lr is None else recipe.lr
    base = rate * recipe.lr_factor
    options: dict[str, Any] = {"lr": base}
    if recipe.eps is not None and "eps" in accepted:
        options["eps"] = recipe.eps
    fresh = []
    for group in groups:
        own: dict[str, Any] = {"params": group["params"]}
        if highest and group.get("lr") is not None:
            # Groups that learn slower than others go on doing so.
            own["lr"] = base * float(group["lr"]) / highest
        decay = group.get("weight_decay")
        decay = decay if recipe.weight_decay is None else recipe.weight_decay
        if decay is not None and "weight_decay" in accepted:
            own["weight_decay"] = decay
        fresh.append(own)
    optimizer: Optimizer = kind(fresh, **options)
    return optimizer
