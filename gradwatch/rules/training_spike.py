"""GW204: sudden jumps of the gradient, the loss or the weights."""

from __future__ import annotations

from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.rules.base import Rule
from gradwatch.rules.pulse_spikes import spikes
from gradwatch.rules.wording import amount, listed, plural
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Newest loss over the lowest before the first jump that counts as fallen (chosen: more
#: than the noise of one batch).
_FALLEN = 0.9


class TrainingSpike(Rule):
    """The gradient norm, the loss or the applied update jumps suddenly.

    What it does:
        Compares the global gradient norm of every step (before clipping), the loss
        where it is known, and the applied update of every probe for its learning rate
        with their running medians. An excursion counts once, however long it lasts.

        One is a note. It is a warning when the loss stays higher afterwards, or when
        there are `spike_warning_events` within `spike_warning_steps`, unless the loss
        is known to have gone on falling all the while. What stays below
        `spike_floor` of the early loss and gradient norm is the noise of a converged
        network and does not count; nor do steps that the gradient scaler skipped.

    Why it matters:
        A jump throws the weights far away, and adaptive optimizers remember it for
        hundreds of steps. Repeated jumps end in divergence.

    Evidence:
        - Value over its running median, no unit, limit `spike_ratio`; the median of
          the last `spike_window` pulses.
        - Number of excursions within `spike_warning_steps`, limit
          `spike_warning_events`.
        - Median loss after over before, limit `spike_loss_rise`.

    Remedies:
        Clip the global norm between its running median and its 90th percentile; half
        the learning rate or a warm-up; a larger epsilon for Adam in half precision.

    References:
        - Pascanu et al. (2012). On the difficulty of training recurrent neural
          networks. arXiv:1211.5063.
        - Seetharaman et al. (2020). AutoClip. arXiv:2007.14469.
        - Brock et al. (2021). High-performance large-scale image recognition without
          normalization. arXiv:2102.06171.
    """

    code: ClassVar[str] = "GW204"
    name: ClassVar[str] = "training-spike"
    summary: ClassVar[str] = "The gradient, the loss or the update jumps suddenly."
    health: ClassVar[Health] = Health.UNSTABLE
    remedies: ClassVar[tuple[str, ...]] = (
        "clip-gradients",
        "adjust-learning-rate",
        "change-optimizer",
    )
    settings_used: ClassVar[tuple[str, ...]] = (
        "spike_ratio",
        "spike_window",
        "spike_warning_events",
        "spike_warning_steps",
        "spike_floor",
        "spike_loss_rise",
    )
    confirm: ClassVar[int | None] = 1

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        known = sum(
            p.grad_norm is not None or p.loss is not None for p in history.pulses
        )
        return "fewer than 10 pulses" if known < 10 else None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        found = spikes(history, structure, settings)
        if not found:
            return None
        largest = max(found, key=lambda spike: spike.ratio)
        rose = next((spike for spike in found if spike.loss_rose), None)
        many = len(found) >= settings.spike_warning_events
        harmless = rose is None and _kept_falling(history, found[0].step)
        window = (found[0].step, history.last_step)
        at = listed([str(spike.step) for spike in found])
        after = (
            "" if rose is None else f"; after step {rose.step} the loss stays higher"
        )
        return self.finding(
            severity=(
                Severity.WARNING
                if (many and not harmless) or rose is not None
                else Severity.NOTE
            ),
            message=(
                f"{plural(len(found), 'sudden jump')} in the last "
                f"{settings.spike_warning_steps} steps (at step {at}), the largest of "
                f"the {largest.quantity}, to {amount(largest.ratio)} times its "
                f"running median{after}."
            ),
            help=(
                f"Look at the batch of step {largest.step}, and at the learning rate "
                "there."
            ),
            evidence=(
                Evidence(
                    f"{largest.quantity} over its running median",
                    largest.ratio,
                    settings.spike_ratio,
                    "",
                    window,
                    note="pre-clip" if largest.quantity == "gradient norm" else "",
                ),
                Evidence(
                    "excursions",
                    len(found),
                    settings.spike_warning_events,
                    "",
                    window,
                ),
            ),
        )


def _kept_falling(history: History, first: int) -> bool:
    """Whether the loss is known before and after the first jump, and lower since."""
    # Recurrent nets that learn well jump while they find out what to remember; jumps
    # that the loss does not follow throw nothing away.
    before = [loss for step, loss in history.losses() if step <= first]
    after = [loss for step, loss in history.losses() if step > first]
    return bool(before and after) and after[-1] < _FALLEN * min(before)
