"""One entry of the zoo: how to build a model and what to feed it.

Every model comes from a config object with random weights: nothing is downloaded, and
`from_pretrained` is never called. Class names are strings, so that importing the zoo
imports neither transformers nor any of its models.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

Batch = dict[str, Any]
BuildFn = Callable[[int], nn.Module]
BatchFn = Callable[[int, int], Batch]
LossFn = Callable[[nn.Module, Batch], Tensor]


def output_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss that the model itself computes from the labels in `batch`."""
    return cast("Tensor", model(**batch).loss)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A published architecture, shrunk, with learnable synthetic data.

    Attributes:
        name: Unique name, lower case.
        modality: `text-encoder`, `decoder`, `moe`, `seq2seq`, `vision`, `audio`,
            `multimodal` or `time-series`.
        build: Seed to a freshly initialised model in training mode.
        batch: Seed and step to the keyword arguments of the model, labels included.
            Reads no global random state.
        loss: Model and batch to a scalar loss.
        chance: Loss of the best constant prediction; None: entropy of the labels if
            they are integers, else not known.
        not_scored: Why it is listed but never scored; empty if it is scored.
        adamw_lr: Learning rate for AdamW (`rates.py`).
        sgd_lr: Learning rate for SGD with momentum .9 (`rates.py`).
    """

    name: str
    modality: str
    build: BuildFn
    batch: BatchFn
    loss: LossFn = output_loss
    chance: float | None = None
    not_scored: str = ""
    adamw_lr: float = 1e-3
    sgd_lr: float = 0.05


def config_of(class_name: str, **options: Any) -> Any:
    """Return a transformers config object by class name."""
    return getattr(importlib.import_module("transformers"), class_name)(**options)


@dataclass(frozen=True, slots=True)
class FromConfig:
    """Builds `model_class(config_class(**options))` from a seed.

    Attributes:
        model_class: Name of the model class in transformers.
        config_class: Name of its config class.
        options: Arguments of the config. Values of type `SubConfig` are built first.
    """

    model_class: str
    config_class: str
    options: Mapping[str, Any]

    def __call__(self, seed: int) -> nn.Module:
        """Seed torch, then return the model in training mode."""
        transformers = importlib.import_module("transformers")
        config = config_of(
            self.config_class,
            **{
                key: value.build() if isinstance(value, SubConfig) else value
                for key, value in self.options.items()
            },
        )
        torch.manual_seed(seed)
        model: nn.Module = getattr(transformers, self.model_class)(config)
        return model.train()


@dataclass(frozen=True, slots=True)
class SubConfig:
    """A nested config, given to the outer config as an object or as a dict.

    Attributes:
        config_class: Name of the config class.
        options: Its arguments.
        as_dict: Whether the outer config expects a dict.
    """

    config_class: str
    options: Mapping[str, Any]
    as_dict: bool = False

    def build(self) -> Any:
        """Return the config, or its dict."""
        config = config_of(self.config_class, **self.options)
        return config.to_dict() if self.as_dict else config


def from_config(model_class: str, config_class: str, **options: Any) -> FromConfig:
    """Return a builder for `model_class` with a shrunk config."""
    return FromConfig(model_class, config_class, options)
