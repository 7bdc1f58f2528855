"""Exchange plain recurrent layers for gated ones whose gates keep the state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar

from torch import nn

from gradwatch.anatomy import RecurrentFacts
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.gated_modules import (
    clear_gate_bias,
    draw_gate_bias,
    gated_like,
    is_lstm,
    set_gate_bias,
)
from gradwatch.remedies.gated_words import (
    BIAS,
    caution_of,
    code_of,
    merit_of,
    record_of,
)
from gradwatch.remedies.recurrences import (
    ADAM_RATE,
    ADAM_WHY,
    NOT_TIME,
    PLAIN,
    TIME_CODES,
    adam_line,
    sick_layers,
    steps_of,
    suffixes,
    what_happens,
    with_adam,
)
from gradwatch.remedies.snippets import assigned
from gradwatch.rules.wording import amount, some
from gradwatch.treatment import ModelEditor

#: Mean chrono bias is log(T - 1) - 1 + log(T - 1) / (T - 2), about log T - 1. A gate
#: bias above that less this much is left alone (chosen).
_NEAR = 0.5
_CHRONO_SOURCE = "Tallec & Ollivier (2018), Can recurrent neural networks warp time?, "
_CHRONO_SOURCE += "arXiv:1804.11188, section 4"
_BIAS_SOURCE = "Jozefowicz et al. (2015), An empirical exploration of recurrent network"
_BIAS_SOURCE += " architectures; Gers et al. (2000), Learning to forget"


class GatedCell(Remedy):
    """Exchange plain recurrent layers for gated ones whose gates keep the state.

    When it applies:
        The gradient of an `nn.RNN` or `nn.RNNCell` fades or grows through time; that of
        an LSTM or GRU fades because its gates forget: with PyTorch's default bias 0.65
        of a gradient is left a step, and after 100 steps 19 decades are lost.

    When it never does:
        A gradient that fades along the depth. A gated layer whose gate bias is about
        log T already, or whose gradient grows. A default LSTM or GRU is never offered:
        none of 6 networks was repaired by one.

    What apply does:
        Puts an LSTM or GRU of the same sizes in the place of an `nn.RNN`, a GRUCell in
        that of an `nn.RNNCell`, and sets the bias of the gate that keeps the state:
        drawn from log U(1, T - 1), with the input gate at its negative (chrono), or 4
        for all units. The LSTM is called like the RNN: it takes and returns the hidden
        state alone. On an LSTM or GRU the gate bias alone changes. Where SGD
        trains the network, a first variant changes that for Adam at 1e-3.

    Record:
        Of 6 recurrent networks whose gradient vanishes, LSTM with chrono bias repaired
        5, GRU with update bias 4 5, LSTM with forget bias 4 4, with forget bias 1 2,
        default LSTM and GRU none. Of 3 that explode, LSTM with forget bias 4 repaired
        2. GRU with chrono bias was not counted. On three set-ups trained by SGD none
        learned within 160 steps; with SGD changed for Adam LSTM with forget bias 4 did.

    Risk:
        Reshapes: three (GRU) or four (LSTM) times the weights and the time, drawn anew;
        old checkpoints do not fit. On an LSTM or GRU: the gate biases are drawn anew.

    References:
        - Tallec & Ollivier (2018). Can recurrent neural networks warp time?
          arXiv:1804.11188.
        - Hochreiter & Schmidhuber (1997). Long short-term memory.
        - Gers et al. (2000). Learning to forget.
        - Jozefowicz et al. (2015). An empirical exploration of recurrent network
          architectures.
    """

    name: ClassVar[str] = "gated-cell"
    summary: ClassVar[str] = "LSTM or GRU with a gate bias of about log T."
    risk: ClassVar[Risk] = Risk.RESHAPES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return gated layers with a bias that fits the length, or why none helps."""
        layers = sick_layers(case)
        if case.code not in TIME_CODES or not layers:
            yield self.reject(case, f"{NOT_TIME.capitalize()}.")
            return
        plain = tuple(facts for facts in layers if facts.kind in PLAIN)
        if plain:
            yield from self._exchange(case, plain)
        for kind in ("LSTM", "GRU"):  # their gates stand in another order
            gated = tuple(f for f in layers if f.kind in {kind, f"{kind}Cell"})
            if gated:
                yield from self._bias_alone(case, gated)

    def _exchange(
        self, case: Case, layers: Sequence[RecurrentFacts]
    ) -> Iterable[Recommendation]:
        """Return the gated layers that can stand in for plain ones."""
        order = [("LSTM", "chrono"), ("GRU", "4"), ("GRU", "chrono"), ("LSTM", "4")]
        if case.code == "GW202":
            order = [("LSTM", "4"), ("LSTM", "chrono"), ("GRU", "4"), ("GRU", "chrono")]
        steps = steps_of(case, layers)
        cells = any(facts.kind == "RNNCell" for facts in layers)
        wanted = [
            (kind, bias)
            for kind, bias in order
            if not (bias == "chrono" and steps is None)
            and not (cells and kind == "LSTM")
        ]
        for kind, bias in wanted:
            title = f"Exchange {some([f.layer for f in layers])} for {kind}"
            why = (
                f"A plain recurrent layer overwrites its state at every step, and "
                f"{what_happens(case, layers)}. {merit_of(kind, bias, steps)}"
            )
            yield from self._variants(case, layers, kind, bias, steps, title, why)
        if cells:
            yield self._cell_by_hand(case, layers)

    def _bias_alone(
        self, case: Case, layers: Sequence[RecurrentFacts]
    ) -> Iterable[Recommendation | Rejection]:
        """Return the gate bias for layers that have gates."""
        steps = steps_of(case, layers)
        if case.code == "GW202":
            yield self.reject(
                case, "The layer is gated already, and its bias does not bound growth."
            )
            return
        biased = tuple(facts for facts in layers if facts.gate_bias is not None)
        if not biased:
            yield self.reject(
                case,
                f"{some([f.layer for f in layers])} was made with bias=False: there is "
                "no gate bias to set.",
            )
            return
        lowest = min(f.gate_bias for f in biased if f.gate_bias is not None)
        wanted = BIAS if steps is None else math.log(max(steps, 3)) - 1.0
        if lowest >= wanted - _NEAR:
            yield self.reject(
                case,
                f"The gate bias is {lowest:.1f} already, which keeps the state for "
                f"about {amount(round(1 + math.exp(lowest)))} steps.",
            )
            return
        kind = biased[0].kind.removesuffix("Cell")
        gate = "forget" if kind == "LSTM" else "update"
        kept = 1.0 / (1.0 + math.exp(-lowest))
        for bias in ("chrono", "4") if kind == "LSTM" else ("4", "chrono"):
            if bias == "chrono" and steps is None:
                continue
            title = f"Set the {gate} bias of {some([f.layer for f in biased])}"
            why = (
                f"The mean {gate} bias is {lowest:.1f}, so a step keeps about "
                f"{kept:.0%} of the state, and {what_happens(case, biased)}. "
                f"{merit_of(kind, bias, steps)}"
            )
            yield from self._variants(case, biased, kind, bias, steps, title, why)

    def _variants(
        self,
        case: Case,
        layers: Sequence[RecurrentFacts],
        kind: str,
        bias: str,
        steps: int | None,
        title: str,
        why: str,
    ) -> Iterable[Recommendation]:
        """Return the treatment; where SGD is in use, the same with Adam first."""
        if with_adam(case):
            yield self._variant(
                case, layers, kind, bias, steps, title, why + ADAM_WHY, adam=True
            )
        yield self._variant(case, layers, kind, bias, steps, title, why)

    def _variant(
        self,
        case: Case,
        layers: Sequence[RecurrentFacts],
        kind: str,
        bias: str,
        steps: int | None,
        title: str,
        why: str,
        *,
        adam: bool = False,
    ) -> Recommendation:
        exchanged = layers[0].kind in PLAIN
        options: dict[str, Option] = {"to": kind, "bias": bias}
        if bias == "chrono" and steps is not None:
            options["steps"] = steps
            title += f", gate bias log U(1, {steps - 1})"
        else:
            title += f", gate bias {bias}"
        if not exchanged:
            title = title.replace(", gate bias", " to", 1)
        code = code_of(layers, kind, bias, steps)
        if adam:
            options |= {"optimizer": "Adam", "lr": ADAM_RATE}
            title += ", and train with Adam"
            code += f"\n{adam_line(case)}"
        elif exchanged:
            code += "\n# then make the optimizer: it must own the new weights"
        return self.recommend(
            case,
            title,
            why,
            code,
            layers=[facts.layer for facts in layers],
            risk=Risk.RESHAPES if exchanged else Risk.REINITIALISES,
            options=options,
            caution=caution_of(layers, kind) if exchanged else "",
            source=_CHRONO_SOURCE if bias == "chrono" else _BIAS_SOURCE,
            record=record_of(kind, bias, case.code, exchanged=exchanged),
        )

    def _cell_by_hand(
        self, case: Case, layers: Sequence[RecurrentFacts]
    ) -> Recommendation:
        """Return the LSTMCell, whose pair of states the user's loop must carry."""
        cells = [facts for facts in layers if facts.kind == "RNNCell"]
        first = cells[0]
        lines = [
            assigned(f.layer, f"nn.LSTMCell({f.input_size}, {f.hidden_size})")
            for f in cells
        ]
        lines.append("# in the loop: h, c = self.cell(x, (h, c))")
        return self.recommend(
            case,
            f"Exchange {some([f.layer for f in cells])} for LSTMCell by hand",
            f"An LSTMCell carries a second state that {some([first.layer])} does not "
            "have: your loop must keep it.",
            "\n".join(lines),
            layers=[f.layer for f in cells],
            risk=Risk.ADVICE,
            options={"to": "LSTMCell"},
            source=_CHRONO_SOURCE,
            record="not counted in our bench",
            can_apply=False,
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the optimizer, where it changes too."""
        options = recommendation.options
        if "optimizer" not in options:
            return Recipe()
        return Recipe(optimizer=str(options["optimizer"]), lr=float(options["lr"]))

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Exchange the layers, or set the gate bias where there are gates."""
        options = recommendation.options
        steps = int(options.get("steps", 0))
        value = None if options["bias"] == "chrono" else float(options["bias"])
        for layer in recommendation.layers:
            module = editor.module(layer)
            if not _has_gates(module):
                new = gated_like(module, str(options["to"]))
                set_gate_bias(new, value, steps)
                editor.replace(layer, new)
                continue
            size, lstm = int(module.hidden_size), is_lstm(module)  # type: ignore[arg-type]
            how = "log U(1, T - 1)" if value is None else f"{value:g}"
            draw = partial(
                draw_gate_bias, hidden_size=size, lstm=lstm, value=value, steps=steps
            )
            clear = partial(clear_gate_bias, hidden_size=size, lstm=lstm, value=value)
            for suffix in suffixes(module):
                editor.fill(layer, f"bias_ih{suffix}", draw, f"gate bias {how}")
                editor.fill(layer, f"bias_hh{suffix}", clear, "gate bias 0")


def _has_gates(module: object) -> bool:
    return isinstance(module, nn.LSTM | nn.GRU | nn.LSTMCell | nn.GRUCell)
