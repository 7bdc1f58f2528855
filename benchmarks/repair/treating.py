"""A fresh run of a set-up, treated by public names only, and how its training ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

import gradwatch
from benchmarks.faults import labels
from benchmarks.faults.setups import Batch, Run, SetUp
from benchmarks.faults.training import train
from gradwatch.prescription import recipe_of
from gradwatch.recommendations import Recommendation


def treated(run: Run, recommendations: Sequence[Recommendation]) -> Run:
    """Return the run with treated copies of its model and optimizers.

    The loss the recipe multiplies is divided out of what is reported (`unit`).
    """
    model = gradwatch.treat(run.model, tuple(recommendations))
    optimizers = tuple(
        gradwatch.treat_optimizer(
            optimizer, tuple(recommendations), model=run.model, treated=model
        )
        for optimizer in run.optimizers
    )
    factor = 1.0
    for recommendation in recommendations:
        factor *= recipe_of(recommendation).loss_factor
    inner = run.loss_fn

    def loss_fn(module: nn.Module, batch: Batch) -> Tensor:
        return inner(module, batch) * factor

    return replace(
        run,
        model=model,
        optimizers=optimizers,
        loss_fn=loss_fn,
        unit=run.unit * factor,
        after_step=None,
    )


def _until_not_finite(run: Run) -> Run:
    """Return the run with a loss that ends it at NaN or Inf, which is its result."""
    inner = run.loss_fn

    def loss_fn(module: nn.Module, batch: Batch) -> Tensor:
        loss = inner(module, batch)
        if not bool(loss.isfinite()):
            raise FloatingPointError
        return loss

    return replace(run, loss_fn=loss_fn)


def end_of(
    setup: SetUp, seed: int, recommendations: Sequence[Recommendation]
) -> float | str | None:
    """Train a fresh, treated run and return its final loss.

    Returns:
        The final loss as in `labels.final_loss` (None if it was not finite), or the
        text of the error that kept it from running.
    """
    try:
        run = setup.build(seed)
        if recommendations:
            run = treated(run, recommendations)
        losses = train(_until_not_finite(run), setup.steps)
    except FloatingPointError:
        return None
    except Exception as error:  # a treatment that cannot run is a result
        return f"{type(error).__name__}: {str(error)[:200]}"
    return labels.final_loss(losses)
