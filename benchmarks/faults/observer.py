"""A small naive observer: what other tools look at, at one step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.faults.setups import Run


@dataclass(frozen=True, slots=True)
class WeightSeen:
    """A weight matrix or kernel and its gradient, in the order of `parameters()`.

    `chosen_lr` is the rate before `training.rescale` adapted it to a scaled loss.
    """

    mean_abs: float
    norm: float
    zero_share: float
    weight_norm: float
    weight_variance: float
    lr: float
    chosen_lr: float


@dataclass(frozen=True, slots=True)
class LayerSeen:
    """One call of a leaf module; shares are over all entries of the batch."""

    kind: str
    grad_mean_abs: float | None
    output_tiny_share: float
    output_not_positive_share: float
    output_beyond_95_share: float
    input_beyond_5_share: float
    dead_unit_share: float
    unsaturated_input_share: float


@dataclass(slots=True)
class Seen:
    """All that is seen at one step."""

    loss: float = math.nan
    weights: list[WeightSeen] = field(default_factory=list)
    layers: list[LayerSeen] = field(default_factory=list)


def _share(flags: Tensor) -> float:
    return float(flags.float().mean())


class Observer:
    """Forward hooks on leaf modules, tensor hooks on their outputs.

    Args:
        run: The run that is watched; its weights are read after backward.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._grads: dict[int, float] = {}
        self._handles: list[RemovableHandle] = []

    def arm(self) -> None:
        self._calls.clear()
        self._grads.clear()
        for module in self.run.model.modules():
            if not list(module.children()):
                self._handles.append(module.register_forward_hook(self._look))

    def _look(
        self, module: nn.Module, args: tuple[object, ...], output: object
    ) -> None:
        if isinstance(output, tuple):
            output = output[0]
        first = args[0] if args else None
        if not (isinstance(output, Tensor) and isinstance(first, Tensor)):
            return
        if not output.is_floating_point():
            return
        number = len(self._calls)
        self._calls.append((module, first.detach().clone(), output.detach().clone()))
        if output.requires_grad:

            def remember(grad: Tensor) -> None:
                self._grads[number] = float(grad.abs().mean())

            output.register_hook(remember)

    def read(self, loss: float) -> Seen:
        """Return what was seen since `arm`, and disarm."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        seen = Seen(loss=loss)
        rates = {
            id(p): (float(group["lr"]), float(group.get("chosen_lr_ratio", 1.0)))
            for optimizer in self.run.optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }
        for parameter in self.run.model.parameters():
            if parameter.dim() < 2 or parameter.grad is None:
                continue
            grad = parameter.grad.detach()
            grad = grad.to_dense() if grad.is_sparse else grad
            lr, ratio = rates.get(id(parameter), (0.0, 1.0))
            seen.weights.append(
                WeightSeen(
                    mean_abs=float(grad.abs().mean()),
                    norm=float(grad.norm()),
                    zero_share=_share(grad == 0),
                    weight_norm=float(parameter.detach().norm()),
                    weight_variance=float(parameter.detach().var()),
                    lr=lr,
                    chosen_lr=lr * ratio,
                )
            )
        for number, (module, x, y) in enumerate(self._calls):
            units = y.flatten(0, -2) if y.dim() > 1 else y.unsqueeze(0)
            limit = (-23.0, 17.0) if isinstance(module, nn.Sigmoid) else (-9.5, 9.5)
            seen.layers.append(
                LayerSeen(
                    kind=type(module).__name__,
                    grad_mean_abs=self._grads.get(number),
                    output_tiny_share=_share(y.abs() < 1e-6),
                    output_not_positive_share=_share(y <= 0),
                    output_beyond_95_share=_share(y.abs() > 0.95),
                    input_beyond_5_share=_share(x.abs() > 5),
                    dead_unit_share=_share((units > 0).float().mean(0) < 0.01),
                    unsaturated_input_share=_share((x > limit[0]) & (x < limit[1])),
                )
            )
        return seen


def observe(run: Run, steps: tuple[int, ...]) -> dict[int, Seen]:
    """Train until the last of some steps and return what is seen at each of them."""
    observer = Observer(run)
    seen: dict[int, Seen] = {}
    for step in range(max(steps) + 1):
        batch = run.batches(step)
        for optimizer in run.optimizers:
            optimizer.zero_grad()
        if step in steps:
            observer.arm()
        loss = run.loss_fn(run.model, batch)
        loss.backward()
        if step in steps:
            seen[step] = observer.read(float(loss.detach()))
        if run.clip is not None:
            nn.utils.clip_grad_norm_(run.model.parameters(), run.clip)
        for optimizer in run.optimizers:
            optimizer.step()
        if run.after_step is not None:
            run.after_step(step)
    return seen
