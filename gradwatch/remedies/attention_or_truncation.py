"""Advice on time: back-propagate less far, shorten the way, or read all steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from gradwatch.anatomy import RecurrentFacts
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.recurrences import (
    CELLS,
    NOT_TIME,
    TIME_CODES,
    profile_of,
    reach_of,
    sick_layers,
    steps_of,
    what_happens,
)
from gradwatch.remedies.snippets import path
from gradwatch.rules.time_profiles import growing
from gradwatch.rules.wording import named, plural, share_left

#: Steps between cuts where none was measured (chosen: what people use).
_USUAL = 35
#: Decades of growth that truncation may leave (chosen: one).
_LEAVE = 1.0
_RECORD = "not counted in our bench"
_WILLIAMS = "Williams & Peng (1990), An efficient gradient-based algorithm for on-line "
_WILLIAMS += "training of recurrent network trajectories"
_BAHDANAU = "Bahdanau et al. (2015), arXiv:1409.0473; Vaswani et al. (2017), "
_BAHDANAU += "arXiv:1706.03762"


class AttentionOrTruncation(Remedy):
    """Advice on time: back-propagate less far, shorten the way, or read all steps.

    When it applies:
        The gradient of a recurrent layer fades or grows through time, and another cell
        or other weights are not wanted or not enough.

    When it never does:
        A gradient that fades or grows along the depth.

    What apply does:
        Nothing: truncation stands in your loop, attention and shorter sequences in your
        forward. The lines say how, with the measured horizon.

    Record:
        Not counted in our bench. Truncation makes training cheaper and bounds a
        gradient that grows; it does not let the network learn what lies further back.

    Risk:
        Advice. Attention reshapes the network; shorter sequences drop information.

    References:
        - Williams & Peng (1990). An efficient gradient-based algorithm for on-line
          training of recurrent network trajectories.
        - Bahdanau et al. (2015). Neural machine translation by jointly learning to
          align and translate. arXiv:1409.0473.
        - Vaswani et al. (2017). Attention is all you need. arXiv:1706.03762.
    """

    name: ClassVar[str] = "attention-or-truncation"
    summary: ClassVar[str] = "Advice: truncated BPTT, shorter sequences, attention."
    risk: ClassVar[Risk] = Risk.ADVICE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return what to do about the way through time, or why it is not at fault."""
        layers = sick_layers(case)
        if case.code not in TIME_CODES or not layers:
            yield self.reject(case, f"{NOT_TIME.capitalize()}.")
            return
        if case.code == "GW202":
            yield self._truncate(case, layers)
            yield self._shorten(case, layers)
            return
        yield self._attend(case, layers)
        yield self._shorten(case, layers)
        yield self._truncate(case, layers)

    def _truncate(self, case: Case, layers: Sequence[RecurrentFacts]) -> Recommendation:
        """Return truncated back-propagation every so many steps."""
        every = _cut_every(case, layers)
        facts = layers[0]
        return self.recommend(
            case,
            f"Cut the gradient of {named(facts.layer)} every "
            f"{'step' if every == 1 else f'{every} steps'}",
            f"{_sentence(case, layers)} {_beyond(case, layers, every)}",
            _truncation_code(facts, every),
            layers=[facts.layer for facts in layers],
            options={"every": every},
            caution=f"What lies more than {plural(every, 'step')} back cannot be "
            "learned then.",
            source=_WILLIAMS,
            record=_RECORD,
            can_apply=False,
        )

    def _shorten(self, case: Case, layers: Sequence[RecurrentFacts]) -> Recommendation:
        """Return sequences that are shorter by the factor that the horizon asks for."""
        steps, every = steps_of(case, layers), _cut_every(case, layers)
        by = max(2, math.ceil(steps / every)) if steps is not None else 4
        facts = layers[0]
        axis = 1 if facts.batch_first else 0
        long = "sequences" if steps is None else f"sequences of {steps} steps"
        return self.recommend(
            case,
            f"Shorten the sequences by {by}",
            f"{_sentence(case, layers)} {long.capitalize()} that are {by} times "
            f"shorter stay within {plural(every, 'step')}.",
            f"{_axes(facts)}\n"
            f"x = x.unfold({axis}, {by}, {by}).flatten(2)  # {by} steps read as one,\n"
            f"# with {by} times the input size: {path(facts.layer)} takes "
            f"{by * facts.input_size}",
            layers=[facts.layer for facts in layers],
            options={"by": by},
            caution="The last steps that do not fill a group of that many are dropped: "
            "pad the sequences to a multiple.",
            source=_WILLIAMS,
            record=_RECORD,
            can_apply=False,
        )

    def _attend(self, case: Case, layers: Sequence[RecurrentFacts]) -> Recommendation:
        """Return attention over the outputs of all steps."""
        facts = layers[0]
        size = facts.hidden_size * (2 if facts.bidirectional else 1)
        axis = 1 if facts.batch_first else 0
        return self.recommend(
            case,
            f"Read all steps of {named(facts.layer)} by attention",
            f"{_sentence(case, layers)} A weighted sum over all outputs gives each "
            "time step a way to the loss that is one step long.",
            f"{_axes(facts)}\n"
            f"self.score = nn.Linear({size}, 1)  # in __init__\n"
            f"weight = self.score(output).softmax(dim={axis})  # in forward\n"
            f"context = (weight * output).sum(dim={axis})  # not the last output",
            layers=[facts.layer for facts in layers],
            options={"read": "attention"},
            caution="The network computes something else; padding must be masked out.",
            source=_BAHDANAU,
            record=_RECORD,
            can_apply=False,
        )


def _beyond(case: Case, layers: Sequence[RecurrentFacts], every: int) -> str:
    """Say what becomes of the gradient where it is to be cut."""
    if case.code == "GW202":
        return (
            f"After {plural(every, 'step')} it is ten times what it was: cut it there."
        )
    reach = reach_of(case, layers)
    left, _ = share_left(case.settings.horizon_share, every if reach is None else reach)
    return (
        f"After {plural(every, 'step')} {left} of it is left: going on costs time and "
        "teaches nothing."
    )


def _cut_every(case: Case, layers: Sequence[RecurrentFacts]) -> int:
    """Return the steps over which the gradient stays of use."""
    if case.code == "GW202":
        profile = profile_of(case, layers[0].layer)
        change = None if profile is None else growing(profile.norms)
        if change is None or change.per_step <= 0.0:
            return _USUAL
        return max(1, int(_LEAVE / change.per_step))
    reach = reach_of(case, layers)
    return _USUAL if reach is None else max(1, round(reach))


def _sentence(case: Case, layers: Sequence[RecurrentFacts]) -> str:
    text = what_happens(case, layers)
    return f"{text[:1].upper()}{text[1:]}."


def _axes(facts: RecurrentFacts) -> str:
    if facts.kind in CELLS:
        return "# x and output are the stacked steps, [steps, batch, features]"
    axes = "batch, steps" if facts.batch_first else "steps, batch"
    return f"# x and output are [{axes}, features]"


def _truncation_code(facts: RecurrentFacts, every: int) -> str:
    module = path(facts.layer)
    if facts.kind in CELLS:
        carried = "h, c = h.detach(), c.detach()"
        cut = carried if facts.kind == "LSTMCell" else "h = h.detach()"
        return (
            f"# in the loop over t that calls {module}\nif t % {every} == 0:\n    {cut}"
        )
    axis = 1 if facts.batch_first else 0
    cut = "state = state.detach()"
    if facts.kind == "LSTM":
        cut = "state = tuple(part.detach() for part in state)"
    return "\n".join(
        [
            "state, outputs = None, []",
            f"for chunk in x.split({every}, dim={axis}):",
            f"    output, state = {module}(chunk, state)",
            f"    {cut}",
            "    outputs.append(output)",
            f"output = torch.cat(outputs, dim={axis})",
        ]
    )
