"""What the remedies on time share: which layers, how many steps, how far back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gradwatch.anatomy import RecurrentFacts
from gradwatch.records import TimeProfile
from gradwatch.remedies.base import Case
from gradwatch.rules.time_profiles import fading, growing, horizon, trimmed
from gradwatch.rules.wording import named, share_left

#: Codes of sicknesses of the gradient on its way through time.
TIME_CODES = frozenset({"GW102", "GW202"})
SEQUENCES = frozenset({"RNN", "LSTM", "GRU"})
CELLS = frozenset({"RNNCell", "LSTMCell", "GRUCell"})
PLAIN = frozenset({"RNN", "RNNCell"})
#: Rate of Adam where SGD is changed for it: the default, as in facts C.
ADAM_RATE = 1e-3
ADAM_WHY = (
    " Under SGD it learns slowly: in our bench none of five such treatments learned "
    "within 160 steps, with Adam at 1e-3 two did."
)
NOT_TIME = "no recurrent layer was found to lose or gain its gradient through time"


def sick_layers(case: Case) -> tuple[RecurrentFacts, ...]:
    """Return the recurrent layers that the finding names, or all if it names none."""
    layers = case.anatomy.recurrent
    named_ones = tuple(facts for facts in layers if facts.layer in case.finding.layers)
    return named_ones or layers


def profile_of(case: Case, layer: str) -> TimeProfile | None:
    """Return the newest time profile of a layer that lost or gained most."""
    for probe in reversed(case.history.probes):
        found = [p for p in probe.time_profiles if p.layer == layer]
        if found:
            grows = case.code == "GW202"
            return max(found, key=lambda p: _decades(p, grows=grows))
    return None


def _decades(profile: TimeProfile, *, grows: bool) -> float:
    change = growing(profile.norms) if grows else fading(profile.norms)
    return 0.0 if change is None else change.decades


def steps_of(case: Case, layers: Sequence[RecurrentFacts]) -> int | None:
    """Return the time steps that the layers run over; None if not known."""
    known = [facts.steps for facts in layers if facts.steps is not None]
    for facts in layers:
        profile = profile_of(case, facts.layer)
        if profile is not None:
            known.append(len(trimmed(profile.norms)))
    return max(known, default=None)


def reach_of(case: Case, layers: Sequence[RecurrentFacts]) -> float | None:
    """Return the shortest horizon of the layers, in time steps; None if not known."""
    share = case.settings.horizon_share
    found = []
    for facts in layers:
        profile = profile_of(case, facts.layer)
        reach = None if profile is None else horizon(profile.norms, share)
        if reach is not None:
            found.append(reach)
    return min(found, default=None)


def what_happens(case: Case, layers: Sequence[RecurrentFacts]) -> str:
    """Say what the gradient does in time, in a clause with the measured numbers."""
    first = named(layers[0].layer)
    steps = steps_of(case, layers)
    over = "" if steps is None else f" over {steps} time steps"
    profile = profile_of(case, layers[0].layer)
    if case.code == "GW202":
        grown = "" if profile is None else _by(_decades(profile, grows=True))
        return f"the gradient of {first} grows{grown}{over}"
    lost = "" if profile is None else _by(_decades(profile, grows=False))
    text = f"the gradient of {first} fades{lost}{over}"
    reach = reach_of(case, layers)
    if reach is not None:
        left, after = share_left(case.settings.horizon_share, reach)
        text += f"; {left} is left after {after}"
    return text


def with_adam(case: Case) -> bool:
    """Return whether SGD trains the network, so that Adam should go with the remedy.

    Measured on three recall set-ups of the fault bench that are trained with SGD (one
    seed): no gated or orthogonal layer learned within 160 steps under SGD; with Adam at
    1e-3 orthogonal layers and LSTMs with forget bias 4 did in all three, other gated
    ones did not.
    """
    optimizer = case.anatomy.optimizer
    return optimizer is not None and optimizer.kind == "SGD"


def adam_line(case: Case) -> str:
    """Return the line that makes the optimizer of `with_adam`."""
    decay = (
        ""
        if case.anatomy.optimizer is None
        else (
            f", weight_decay={case.anatomy.optimizer.weight_decay:.3g}"
            if case.anatomy.optimizer.weight_decay
            else ""
        )
    )
    return (
        f"optimizer = torch.optim.Adam(model.parameters(), lr={ADAM_RATE:g}{decay})"
        "  # was SGD"
    )


def _by(decades: float) -> str:
    return f" by {decades:.1f} decades" if decades > 0.0 else ""


def suffixes(module: nn.Module) -> tuple[str, ...]:
    """Return what follows `weight_hh` in the names of a recurrent module's weights.

    Args:
        module: A recurrent layer or cell.

    Returns:
        One for each stacked layer and direction, such as `_l0` and `_l0_reverse`; an
        empty one for a cell.
    """
    if not isinstance(module, nn.RNNBase):
        return ("",)
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return tuple(f"_l{k}{way}" for k in range(module.num_layers) for way in ways)
