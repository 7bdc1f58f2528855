"""What of the training around a model a treatment changes. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Recipe:
    """Changes to the optimizer and the loop; the defaults change nothing.

    Attributes:
        max_grad_norm: Largest global gradient norm, as in `clip_grad_norm_`.
        lr_factor: What every learning rate is multiplied with.
        warmup_steps: Steps over which the learning rate rises linearly from
            1/warmup_steps of itself.
        optimizer: Class name in `torch.optim` to change to; empty to keep it.
        lr: Learning rate of the new optimizer; None for its default.
        eps: Epsilon of the optimizer; None to keep it.
        weight_decay: Weight decay of every group; None to keep it.
        loss_factor: What the loss is multiplied with.
        gradient_factors: What a layer's parameter gradients are multiplied with.
        gradient_steps: Steps over which `gradient_factors` act; 0 for all.
        pretrain_steps: Steps of greedy layer-wise pre-training before training.
        autocast: Dtype to compute in, such as `bfloat16`; empty to keep it.
        loss_scaling: Whether to scale the loss dynamically.
    """

    max_grad_norm: float | None = None
    lr_factor: float = 1.0
    warmup_steps: int = 0
    optimizer: str = ""
    lr: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    loss_factor: float = 1.0
    gradient_factors: Mapping[str, float] = field(
        default_factory=partial(MappingProxyType, {})
    )
    gradient_steps: int = 0
    pretrain_steps: int = 0
    autocast: str = ""
    loss_scaling: bool = False
