"""`check()`: one probe of a copy before training; nothing of the model changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gradwatch.detector import Detector
from gradwatch.layers import count_entries
from gradwatch.report import Report
from gradwatch.run_facts import compose_report
from gradwatch.settings import Settings
from gradwatch.twin import LossFn, is_loss, loss_of, make_twin, no_trace, probe_twin
from gradwatch.watch_options import check_callable, check_model

_RANDOM = (
    "No loss was given: a random cotangent was back-propagated. Shapes of profiles are "
    "right, absolute sizes are not."
)


def check(
    model: nn.Module,
    batch: Any,
    *,
    loss_fn: LossFn | None = None,
    settings: Settings | Mapping[str, Any] | str | Path | None = None,
) -> Report:
    """Probe a deep copy of a model once, forward and backward, before training.

    Parameters, buffers, gradients, mode and random state of `model` stay as they are.
    One probe confirms nothing: findings come with low confidence, and a clean result
    reads "1 probe: no sign of ...".

    Args:
        model: The module to train.
        batch: What `loss_fn` takes as its second argument. Without a `loss_fn`: a
            tensor, a tuple of positional arguments (a last integer tensor is taken as
            the target and left out if the model does not accept it), or a mapping of
            keyword arguments.
        loss_fn: `loss_fn(model, batch) -> scalar Tensor`. Without it `output.loss` is
            used where the model computes one, else a random cotangent, labelled so.
        settings: `Settings`, a dict of them, or the path of a TOML or YAML file.

    Returns:
        The report.

    Raises:
        ModelError: If `model` is not an `nn.Module`, has no parameters, does not accept
            `batch`, or `loss_fn` does not return a scalar tensor with a gradient.
        SettingsError: If a setting is unknown or out of range.
    """  # noqa: DOC502 - raised by what it calls
    check_model(model)
    options = Settings.coerce(settings)
    check_callable("loss_fn", loss_fn)
    twin = make_twin(model, "`check`").train()
    with no_trace(batch):
        observer, how = probe_twin(
            twin, options, lambda model: loss_of(model, batch, loss_fn)
        )
    detector = Detector(options)
    detector.update(observer.history, observer.structure)
    return compose_report(
        observer=observer,
        detector=detector,
        settings=options,
        model_name=type(model).__name__,
        num_parameters=count_entries(model.parameters()),
        notes=() if is_loss(how) else (_RANDOM,),
    )
