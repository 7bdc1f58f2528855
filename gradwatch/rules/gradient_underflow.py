"""GW107: float16 gradients that round to zero."""

from __future__ import annotations

from statistics import median
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.weight_updates import weights
from gradwatch.rules.wording import unique
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Share of the zeros that must go when the loss scale rises (chosen, not measured).
_LEAST_FALL = 0.2


class GradientUnderflow(Rule):
    """Gradient entries are exactly zero because float16 cannot hold them.

    What it does:
        Takes the median over weights of the share of exactly zero gradient entries in
        float16 training. Dead units and empty inputs make zeros too, so the loss scale
        decides: zeros that go when the scale rises were underflow. Without a scale in
        use, that many zeros are a warning as well; with a constant one, a note.

    Why it matters:
        Below 6e-8 float16 knows only zero. The weights behind such entries are not
        updated, and nothing says so.

    Evidence:
        - Median over weights of the share of exactly zero gradient entries, unit share,
          limit `underflow_share`.
        - The same share at a probe with a larger loss scale; at least a fifth lower.

    Remedies:
        A dynamic loss scale (`torch.amp.GradScaler`), or bfloat16, which has the range
        of float32. Not clipping.

    References:
        - Micikevicius et al. (2018). Mixed precision training. arXiv:1710.03740.
    """

    code: ClassVar[str] = "GW107"
    name: ClassVar[str] = "gradient-underflow"
    summary: ClassVar[str] = "Float16 gradients round to zero."
    health: ClassVar[Health] = Health.UNDERFLOW
    remedies: ClassVar[tuple[str, ...]] = ("loss-scaling",)
    settings_used: ClassVar[tuple[str, ...]] = ("underflow_share",)
    scale_free: ClassVar[bool] = False

    def unmet(
        self, history: History, structure: Structure, settings: Settings
    ) -> str | None:
        """Say why the rule cannot be judged here; None if it can."""
        if history.latest is None:
            return "no probe yet"
        if not _is_float16(history.latest):
            return "float16 training not seen"
        if _zero_share(history.latest, structure) is None:
            return "the zeros of the gradients were not counted"
        return None

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        record = history.latest
        if record is None or not _is_float16(record) or record.zero_init_downstream:
            return None
        share = _zero_share(record, structure)
        if share is None or share < settings.underflow_share:
            return None
        steps = (record.step, record.step)
        limit = settings.underflow_share
        evidence = [Evidence("share of zero gradients", share, limit, "share", steps)]
        severity, why = Severity.NOTE, "whether a larger loss scale would revive them"
        why = f"{why} was not seen"
        best = _best_scaled(history, record, structure, share)
        if best is not None:
            severity = Severity.WARNING
            lower = _zero_share(best, structure) or 0.0
            why = (
                f"at step {best.step}, with a loss scale of {best.loss_scale:.0f} "
                f"instead of {record.loss_scale:.0f}, they were {lower:.0%}"
            )
            evidence.append(
                Evidence(
                    "the same at a larger loss scale",
                    lower,
                    share * (1.0 - _LEAST_FALL),
                    "share",
                    (best.step, best.step),
                )
            )
        elif record.loss_scale == 1.0:
            severity, why = Severity.WARNING, "no loss scale is in use"
        layers = unique(
            [
                p.layer
                for p in weights(record, structure)
                if p.zero_share is not None and p.zero_share >= limit
            ]
        )
        return self.finding(
            severity=severity,
            message=(
                f"{share:.0%} of the gradient entries of the median weight are exactly "
                f"zero in float16; {why}."
            ),
            help="Look at the loss scale: is a GradScaler in use, and how large is it?",
            evidence=tuple(evidence),
            layers=layers,
        )


def _is_float16(record: StepRecord) -> bool:
    if record.float16 is not None:
        return record.float16
    return record.loss_scale not in (None, 1.0)


def _zero_share(record: StepRecord, structure: Structure) -> float | None:
    shares = [
        p.zero_share for p in weights(record, structure) if p.zero_share is not None
    ]
    return median(shares) if shares else None


def _best_scaled(
    history: History, record: StepRecord, structure: Structure, share: float
) -> StepRecord | None:
    """Return the probe with a larger scale and clearly fewer zeros, the best one."""
    found: list[tuple[float, StepRecord]] = []
    for other in history.probes:
        scale, now = other.loss_scale, record.loss_scale
        if scale is None or now is None or scale <= now:
            continue
        lower = _zero_share(other, structure)
        if lower is not None and lower <= share * (1.0 - _LEAST_FALL):
            found.append((lower, other))
    return min(found, key=lambda pair: pair[0])[1] if found else None
