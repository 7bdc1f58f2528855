"""Ends a probe: books what belongs to its step and starts the transfer."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.ledger import Pending
from gradwatch.optimizer_roles import (
    OptimizerRoles,
    found_inf,
    largest_lr,
    unscales_inside,
)
from gradwatch.probe import Probe
from gradwatch.probe_record import ProbeContext
from gradwatch.pulse_taking import PulseTaker
from gradwatch.watched_model import WatchedModel


def seal(
    probe: Probe,
    *,
    step: int,
    watched: WatchedModel,
    roles: OptimizerRoles,
    pulses: PulseTaker,
    optimizer: Optimizer | None,
    loss: float | Tensor | None,
    scale: Tensor | None,
) -> tuple[Pending, ProbeContext]:
    """Return a probe's numbers on their way to the host, and what else is known.

    Args:
        probe: The probe; its references are dropped.
        step: Optimizer step of the probe.
        watched: The model.
        roles: Who owns its parameters.
        pulses: Counts the steps that a gradient has been zero.
        optimizer: The optimizer that stepped; None without one of torch's.
        loss: The loss, where it is known.
        scale: The scaler's loss scale.

    Returns:
        The numbers and the context.
    """
    book = probe.ledger.add
    probe.scale_ticket = book(scale)
    zero_run = book(pulses.zero_run)
    overflow = book(found_inf(optimizer))
    if isinstance(loss, Tensor) and probe.loss_ticket is None:
        probe.loss_ticket = book(loss.double())
        probe.loss_is_users = True
    context = ProbeContext(
        step=step,
        facts={facts.name: facts for facts in watched.facts.values()},
        modules=watched.modules,
        in_optimizer=frozenset(roles.in_optimizer) if roles.seen else None,
        zero_at_attach=watched.zero_at_attach,
        zero_run=zero_run,
        found_inf=overflow,
        zero_names=pulses.names,
        scaled_parameters=unscales_inside(optimizer),
        loss=loss if isinstance(loss, float) else None,
        lr=largest_lr(optimizer) if optimizer is not None else None,
    )
    pending = probe.ledger.transfer()
    probe.drop_references()
    return pending, context
