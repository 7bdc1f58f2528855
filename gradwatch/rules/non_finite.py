"""GW205: NaN or Inf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import NonFiniteOrigin, StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.wording import unique
from gradwatch.settings import Settings
from gradwatch.structure import Structure


@dataclass(frozen=True, slots=True)
class _Sighting:
    """Where NaN or Inf was seen, and since which step."""

    kinds: tuple[str, ...]
    first_step: int
    layers: tuple[str, ...]
    harmless: bool


class NonFinite(Rule):
    """Something is NaN or infinite.

    What it does:
        Looks at the loss, the gradient of every step, and the outputs, gradients and
        parameters of every probe. A step that the gradient scaler skipped because of
        an overflow is its ordinary work and does not count. An infinite output alone,
        with finite gradients and loss, is a mask and a note.

        It names the origin: the first module in forward order with finite inputs and
        a non-finite output, else the first in backward order. Where the step was
        neither a probe nor replayed, it says so.

    Why it matters:
        One NaN reaches every weight with the next update, and nothing brings them
        back: go back to a checkpoint from before.

    Evidence:
        - Steps with a NaN or Inf in the loss, an output, a gradient or a parameter,
          unit steps, limit 0. One is enough.
        - The origin, if `nan_origin` let it be observed.

    Remedies:
        At a division, logarithm or square root: clamp its input. After growth over
        depth or a large step: cure that. In float16: a dynamic loss scale or bfloat16.

    References:
        - Micikevicius et al. (2018). Mixed precision training. arXiv:1710.03740.
        - pytorch/pytorch#160016: what people ask of an anomaly detector.
    """

    code: ClassVar[str] = "GW205"
    name: ClassVar[str] = "non-finite"
    summary: ClassVar[str] = "Something is NaN or infinite."
    health: ClassVar[Health] = Health.NON_FINITE
    remedies: ClassVar[tuple[str, ...]] = (
        "normalise-data",
        "adjust-learning-rate",
        "clip-gradients",
        "loss-scaling",
        "initialise-weights",
    )
    settings_used: ClassVar[tuple[str, ...]] = ("nan_origin",)
    confirm: ClassVar[int | None] = 1

    def judge(
        self, history: History, structure: Structure, settings: Settings
    ) -> Finding | None:
        """Return what is wrong as of the newest probe, or None."""
        seen = _look(history)
        if seen is None:
            return None
        origin = _origin(history, seen, settings)
        layers = seen.layers if origin.layer is None else (origin.layer, *seen.layers)
        layers = unique(layers)
        record = history.latest
        assert record is not None
        window = (seen.first_step, max(seen.first_step, history.last_step))
        what = " and ".join(seen.kinds)
        return self.finding(
            severity=Severity.NOTE if seen.harmless else Severity.CRITICAL,
            message=(
                f"NaN or Inf in the {what}, first seen at step {seen.first_step}: "
                f"{_where(origin)}."
            ),
            help=(
                "An infinite output that nothing finite follows from is usually a mask."
                if seen.harmless
                else "Look at the inputs of the origin, then train again from a "
                "checkpoint from before that step."
            ),
            evidence=(
                Evidence(
                    "first step with NaN or Inf",
                    seen.first_step,
                    None,
                    "step",
                    window,
                    origin.layer,
                    origin.detail,
                ),
            ),
            layers=layers[:1],
            affected=layers[1:],
            origin=origin.layer,
        )


def _finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _look(history: History) -> _Sighting | None:
    """Return what is not finite at the newest probe and the pulses around it."""
    record = history.latest
    if record is None:
        return None
    probes = history.recent(2)
    since = probes[0].step + 1 if len(probes) == 2 else 0
    pulses = [p for p in history.pulses if p.step >= since and not p.skipped]
    skipped = {p.step for p in history.pulses if p.skipped}
    bad_pulses = [p for p in pulses if not p.finite]
    bad_losses = [p for p in pulses if not _finite(p.loss)]
    parameters = [p.layer for p in record.parameters if p.weight_finite is False]
    outputs = [r.layer for r in record.layers if r.output_finite is False]
    gradients = [r.layer for r in record.layers if r.grad_finite is False]
    gradients += [p.layer for p in record.parameters if not _finite(p.grad_norm)]
    loss_bad = not _finite(record.loss) or bool(bad_losses)
    scaled = record.loss_scale not in (None, 1.0)
    clean = not (bad_pulses or parameters or loss_bad)
    if record.step in skipped or (scaled and clean):
        # The scaler met an overflow and skips the step: its ordinary work.
        gradients = []
        outputs = outputs if not scaled else []
    kinds = {
        "loss": loss_bad,
        "gradients": bool(gradients or bad_pulses),
        "parameters": bool(parameters),
        "outputs": bool(outputs),
    }
    if not any(kinds.values()):
        return None
    steps = [p.step for p in (*bad_pulses, *bad_losses)]
    if gradients or parameters or outputs or not _finite(record.loss):
        steps.append(record.step)
    return _Sighting(
        kinds=tuple(name for name, bad in kinds.items() if bad),
        first_step=min(steps),
        layers=unique([*outputs, *gradients, *parameters]),
        harmless=not any(bad for name, bad in kinds.items() if name != "outputs"),
    )


def _origin(history: History, seen: _Sighting, settings: Settings) -> NonFiniteOrigin:
    """Return the origin that was observed, or why it was not."""
    for probe in history.probes:
        if probe.non_finite is not None:
            return probe.non_finite
    record = history.latest
    assert record is not None
    if seen.first_step < record.step or _was_bad_before(history, record):
        hint = (
            ""
            if settings.nan_origin == "sync"
            else "; `nan_origin='sync'` replays such a step"
        )
        detail = f"origin not observed: step {seen.first_step} was not a probe{hint}"
        return NonFiniteOrigin(seen.first_step, None, "unknown", detail)
    return _from_layers(record)


def _was_bad_before(history: History, record: StepRecord) -> bool:
    return any(
        not pulse.finite and not pulse.skipped and pulse.step < record.step
        for pulse in history.pulses
    )


def _from_layers(record: StepRecord) -> NonFiniteOrigin:
    """Read the origin from the flags of a probe."""
    forward = sorted(
        (r for r in record.layers if r.output_finite is False), key=lambda r: r.order
    )
    makers = [r for r in forward if r.input_finite is not False]
    broken = {p.layer for p in record.parameters if p.weight_finite is False}
    if makers:
        layer = makers[0].layer
        where = "parameter" if layer in broken else "forward"
        return NonFiniteOrigin(record.step, layer, where)
    if forward:
        return NonFiniteOrigin(record.step, forward[0].layer, "input")
    backward = [r for r in record.layers if r.grad_finite is False]
    if backward:
        last = max(backward, key=lambda r: r.order)
        return NonFiniteOrigin(record.step, last.layer, "backward")
    if broken:
        return NonFiniteOrigin(record.step, min(broken), "parameter")
    if not _finite(record.loss):
        return NonFiniteOrigin(record.step, None, "loss")
    return NonFiniteOrigin(
        record.step, None, "unknown", "origin not observed: no layer showed it"
    )


def _where(origin: NonFiniteOrigin) -> str:
    sentences = {
        "forward": f"{origin.layer} made it from finite inputs in the forward pass",
        "backward": f"it began in the backward pass, at the output of {origin.layer}",
        "input": f"what reached {origin.layer} held it already",
        "parameter": f"the weights of {origin.layer} held it already",
        "loss": "every layer was finite, only the loss was not",
    }
    sentence = sentences.get(origin.where, origin.detail or "origin not observed")
    if origin.detail and origin.where in sentences:
        return f"{sentence} ({origin.detail})"
    return sentence
