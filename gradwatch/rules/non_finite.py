"""GW205: NaN or Inf."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from gradwatch.findings import Evidence, Finding, Health, Severity
from gradwatch.history import History
from gradwatch.records import NonFiniteOrigin, StepRecord
from gradwatch.rules.base import Rule
from gradwatch.rules.wording import joined, named, unique
from gradwatch.settings import Settings
from gradwatch.structure import Structure


@dataclass(frozen=True, slots=True)
class _Sighting:
    """Where NaN or Inf was seen, and since which step."""

    kinds: tuple[str, ...]
    first_step: int
    layers: tuple[str, ...]
    harmless: bool
    forgotten: bool = False
    """Whether it may have begun before the oldest probe kept."""


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
        what = joined(seen.kinds)
        when = f"{seen.first_step}{' or before' * seen.forgotten}"
        return self.finding(
            severity=Severity.NOTE if seen.harmless else Severity.CRITICAL,
            message=(
                f"NaN or Inf in the {what}, first seen at step {when}: "
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
                    "NaN or Inf first seen at",
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
    """Return what is not finite at the newest probe and the pulses around it.

    The first step is that of the whole run of such probes, as far as they are kept.
    """
    probes = history.probes
    newest = _at_probe(history, len(probes) - 1) if probes else None
    if newest is None:
        return None
    first, clean = newest.first_step, -1
    for index in range(len(probes) - 2, -1, -1):
        older = _at_probe(history, index)
        if older is None or older.harmless != newest.harmless:
            clean = probes[index].step
            break
        first = min(first, older.first_step)
    if not newest.harmless:
        found = [p.non_finite.step for p in probes if p.non_finite is not None]
        first = min([first, *(step for step in found if step > clean)])
    forgotten = clean < 0 and history.num_probes > len(probes)
    return replace(newest, first_step=first, forgotten=forgotten)


def _at_probe(history: History, index: int) -> _Sighting | None:
    """Return what is not finite at a probe and since the one before it."""
    probes = history.probes
    record = probes[index]
    since = probes[index - 1].step + 1 if index else 0
    until = history.last_step if index == len(probes) - 1 else record.step
    near = [p for p in history.pulses if since <= p.step <= until]
    pulses = [p for p in near if not p.skipped]
    skipped = any(p.skipped and p.step == record.step for p in near)
    bad_pulses = [p for p in pulses if not p.finite]
    bad_losses = [p for p in pulses if not _finite(p.loss)]
    parameters = [p.layer for p in record.parameters if p.weight_finite is False]
    outputs = [r.layer for r in record.layers if r.output_finite is False]
    gradients = [r.layer for r in record.layers if r.grad_finite is False]
    gradients += [p.layer for p in record.parameters if not _finite(p.grad_norm)]
    loss_bad = not _finite(record.loss) or bool(bad_losses)
    scaled = record.loss_scale not in (None, 1.0)
    clean = not (bad_pulses or parameters or loss_bad)
    if skipped or (scaled and clean):
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
        if probe.non_finite is not None and probe.non_finite.step >= seen.first_step:
            return probe.non_finite
    record = next((p for p in history.probes if p.step == seen.first_step), None)
    if record is not None:
        return _from_layers(record)
    hint = (
        ""
        if settings.nan_origin == "sync"
        else "; `nan_origin='sync'` replays such a step"
    )
    detail = f"origin not observed: step {seen.first_step} was not a probe{hint}"
    return NonFiniteOrigin(seen.first_step, None, "unknown", detail)


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
    layer = named(origin.layer or "")
    sentences = {
        "forward": f"{layer} made it from finite inputs in the forward pass",
        "backward": f"it began in the backward pass, at the output of {layer}",
        "input": f"what reached {layer} held it already",
        "parameter": f"the weights of {layer} held it already",
        "loss": "every layer was finite, only the loss was not",
    }
    sentence = sentences.get(origin.where, origin.detail or "origin not observed")
    if origin.detail and origin.where in sentences:
        return f"{sentence} ({origin.detail})"
    return sentence
