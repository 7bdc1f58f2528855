"""GW303: clipping decides the size of most steps."""

from __future__ import annotations

from statistics import median
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import PulseRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.loss_curve import is_flat
from gradwatch.rules.wording import amount
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Fewest steps whose clipping is known (chosen, not measured).
_LEAST_PULSES = 20


class ClippingDominates(Rule):
    """Most steps are clipped, and by much: the clip value sets the learning rate.

    What it does:
        Compares the global gradient norm before and after clipping over the last
        `spike_warning_steps` steps. It is a note, because adaptive optimizers do not
        mind the size of the gradient; a warning if the loss stays flat.

    Why it matters:
        Every step then has the same length, whatever the gradient. Clipping at that
        strength hides an explosion; it does not cure it.

    Evidence:
        - Share of steps clipped by more than `clip_ratio`, unit share, limit
          `clip_share`; over at least 20 steps.
        - Median norm before clipping over norm after, no unit, limit `clip_ratio`.
        - Newest loss over first loss, no unit, limit `flat_loss_ratio`, where the loss
          is known over `flat_loss_steps`.

    Remedies:
        A clip value between the running median and the 90th percentile of the norm;
        if the norm itself is the trouble, see exploding-gradient.

    References:
        - Seetharaman et al. (2020). AutoClip. arXiv:2007.14469.
        - Brock et al. (2021). High-performance large-scale image recognition without
          normalization. arXiv:2102.06171.
    """

    code: ClassVar[str] = "GW303"
    name: ClassVar[str] = "clipping-dominates"
    summary: ClassVar[str] = "Clipping decides the size of most steps."
    health: ClassVar[Health] = Health.UNSTABLE
    remedies: ClassVar[tuple[str, ...]] = ("clip-gradients", "initialise-weights")
    settings_used: ClassVar[tuple[str, ...]] = (
        "clip_share",
        "clip_ratio",
        "spike_warning_steps",
        "flat_loss_ratio",
        "flat_loss_steps",
    )
    confirm: ClassVar[int | None] = 1
    scale_free: ClassVar[bool] = False

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if len(_known(history, settings)) < _LEAST_PULSES:
            return f"clipping is known for fewer than {_LEAST_PULSES} steps"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        known = _known(history, settings)
        if history.latest is None or len(known) < _LEAST_PULSES:
            return None
        factors = [p.clip_factor or 0.0 for p in known]
        hard = [f for f in factors if f < 1.0 / settings.clip_ratio]
        share = len(hard) / len(factors)
        if share <= settings.clip_share:
            return None
        typical = median(hard)
        shrink = 1.0 / typical if typical > 0 else float("inf")
        flat = is_flat(history, settings, settings.flat_loss_steps)
        window = (known[0].step, known[-1].step)
        state = ", and the loss stays flat" if flat else ""
        return self.finding(
            severity=Severity.WARNING if flat else Severity.NOTE,
            message=(
                f"{share:.0%} of the last {len(known)} steps were clipped by more than "
                f"{settings.clip_ratio:.0f} times, typically by {amount(shrink)}"
                f"{state}."
            ),
            help="Compare the clip value with the median of the norm before clipping.",
            evidence=(
                Evidence(
                    "share of clipped steps",
                    share,
                    settings.clip_share,
                    "share",
                    window,
                ),
                Evidence(
                    "norm before clipping over norm after",
                    shrink,
                    settings.clip_ratio,
                    "",
                    window,
                ),
            ),
        )


def _known(history: History, settings: Settings) -> list[PulseRecord]:
    since = history.last_step - settings.spike_warning_steps
    return [
        pulse
        for pulse in history.pulses
        if pulse.clip_factor is not None and pulse.step > since and not pulse.skipped
    ]
