"""Draw recurrent weights that keep the length of a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from gradwatch.anatomy import Anatomy, RecurrentFacts
from gradwatch.layers import peek
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Option, Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
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
from gradwatch.remedies.snippets import each
from gradwatch.rules.wording import amount, some
from gradwatch.treatment import ModelEditor

#: Xavier gain of the input weights for inputs of standard deviation 1. Measured, tanh,
#: 8 inputs, 64 units: over 50 steps a gain of 1 loses 5.3 decades, 0.3 1.8, 0.1 0.5,
#: 0.03 0.1; over 100 steps twice that. Smaller ones hardly let the input in.
_INPUT_GAIN = 0.1
#: The same for stacked layers above the first, which read small states. Measured, 2 and
#: 3 layers: at 0.3 the gradient changes by 0.1 decades from layer to layer, at 1 it
#: grows by 0.5, at 0.1 it shrinks by 0.4.
_UPPER_GAIN = 0.3
#: Steps up to which it is a remedy of its own (facts C).
_REACH = 50
_SAXE = "Saxe et al. (2014), arXiv:1312.6120; Chen et al. (2018), Dynamical isometry "
_SAXE += "and a mean field theory of RNNs, arXiv:1806.05394"
_LE = "Le et al. (2015), A simple way to initialize recurrent networks of rectified "
_LE += "linear units, arXiv:1504.00941"


class OrthogonalRecurrence(Remedy):
    """Draw recurrent weights that keep the length of a gradient.

    When it applies:
        The gradient of a recurrent layer fades or grows through time, over up to about
        50 steps: an orthogonal matrix turns a gradient and changes its length not at
        all, so what is left is the derivative of the activation, which is 1 for small
        states.

    When it never does:
        A gradient that fades or grows along the depth.

    What apply does:
        Draws each recurrent weight orthogonal with gain 1 (tanh; for LSTM and GRU each
        gate's block by itself) or sets it to the identity (ReLU). In plain layers it
        draws the input weights small (Xavier with gain 0.1 over the inputs' deviation;
        0.3 in stacked layers above the first), because inputs that drive tanh out of
        its straight part make the gradient fade: 5.3 decades over 50 steps at gain 1
        and 0.5 at gain 0.1; and biases become 0. Where the gradient grows, the norm is
        clipped at 1 as well. Where SGD trains the network, a first variant changes that
        for Adam at 1e-3.

    Record:
        Repaired 4 of 6 recurrent networks whose gradient vanishes and, with clipping, 1
        of 3 that explode. On gated layers it was not counted. On three set-ups trained
        by SGD it learned within 160 steps only with SGD changed for Adam.

    Risk:
        Reinitialises: what the recurrent layers had learned is lost. Training may drive
        the weights off again.

    References:
        - Saxe et al. (2014). Exact solutions to the nonlinear dynamics of learning in
          deep linear neural networks. arXiv:1312.6120.
        - Le et al. (2015). A simple way to initialize recurrent networks of rectified
          linear units. arXiv:1504.00941.
        - Chen et al. (2018). Dynamical isometry and a mean field theory of RNNs.
          arXiv:1806.05394.
    """

    name: ClassVar[str] = "orthogonal-recurrence"
    summary: ClassVar[str] = "Orthogonal recurrent weights, small input weights."
    risk: ClassVar[Risk] = Risk.REINITIALISES

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return the weights that keep a gradient's length, or why not here."""
        layers = sick_layers(case)
        if case.code not in TIME_CODES or not layers:
            yield self.reject(case, f"{NOT_TIME.capitalize()}.")
            return
        if with_adam(case):
            yield self._offer(case, layers, adam=True)
        yield self._offer(case, layers)

    def _offer(
        self, case: Case, layers: Sequence[RecurrentFacts], *, adam: bool = False
    ) -> Recommendation:
        """Return the recommendation, with or without Adam instead of SGD."""
        grows = case.code == "GW202"
        gain = input_gain(case.anatomy)
        options: dict[str, Option] = {"input_gain": gain}
        if grows:
            options["max_norm"] = 1.0
        if adam:
            options |= {"optimizer": "Adam", "lr": ADAM_RATE}
        code = _code(layers, gain, clip=grows)
        return self.recommend(
            case,
            f"Draw the recurrent weights of {some([f.layer for f in layers])} "
            f"{_drawn(layers)}" + (", and train with Adam" if adam else ""),
            f"{_capital(what_happens(case, layers))}{_radius(layers)}. "
            f"{_merit(layers)}" + (ADAM_WHY if adam else ""),
            f"{adam_line(case)}\n{code}" if adam else code,
            layers=[facts.layer for facts in layers],
            options=options,
            caution=_caution(case, layers),
            source=_LE if layers[0].nonlinearity == "relu" else _SAXE,
            record=_record(layers, grows=grows),
        )

    def apply(self, editor: ModelEditor, recommendation: Recommendation) -> None:
        """Draw recurrent, input weights and biases of each layer."""
        gain = float(recommendation.options["input_gain"])
        for layer in recommendation.layers:
            module = editor.module(layer)
            relu = getattr(module, "nonlinearity", "") == "relu"
            how = "identity" if relu else "orthogonal, gain 1"
            size = int(module.hidden_size)  # type: ignore[arg-type]
            plain = isinstance(module, nn.RNN | nn.RNNCell)
            for suffix in suffixes(module):
                recur = partial(draw_recurrent, hidden_size=size, identity=relu)
                editor.fill(layer, f"weight_hh{suffix}", recur, how)
                if not plain:
                    continue  # what a gated layer lets in, its gates decide
                mine = gain if suffix in {"", "_l0", "_l0_reverse"} else _UPPER_GAIN
                feed = partial(nn.init.xavier_normal_, gain=mine)
                editor.fill(
                    layer, f"weight_ih{suffix}", feed, f"Xavier, gain {mine:.2g}"
                )
                for name in (f"bias_ih{suffix}", f"bias_hh{suffix}"):
                    if peek(module, name) is not None:
                        editor.fill(layer, name, nn.init.zeros_, "zeros")

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the clip value of a gradient that grew, and Adam in place of SGD."""
        options = recommendation.options
        return Recipe(
            max_grad_norm=float(options["max_norm"]) if "max_norm" in options else None,
            optimizer=str(options.get("optimizer", "")),
            lr=float(options["lr"]) if "lr" in options else None,
        )


def draw_recurrent(weight: Tensor, hidden_size: int, *, identity: bool) -> None:
    """Draw each gate's block of a recurrent weight, in place.

    Args:
        weight: `weight_hh`, `[gates * hidden_size, state]`, without gradient.
        hidden_size: Units.
        identity: Whether to set the identity instead of drawing an orthogonal matrix.
    """
    for block in weight.split(hidden_size):
        if identity:
            nn.init.eye_(block)
        else:
            # On the processor and in float32: the decomposition knows no half.
            fresh = torch.empty(block.shape)
            block.copy_(nn.init.orthogonal_(fresh))


def input_gain(anatomy: Anatomy) -> float:
    """Return the Xavier gain at which the inputs leave tanh in its straight part."""
    sizes = [max(x.std, abs(x.mean)) for x in anatomy.inputs]
    return _INPUT_GAIN / max(1.0, max(sizes, default=1.0))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _merit(layers: Sequence[RecurrentFacts]) -> str:
    if all(facts.nonlinearity == "relu" for facts in layers):
        return "The identity hands on the gradient of every unit that is active."
    text = "An orthogonal weight keeps a gradient's length"
    if any(facts.kind in PLAIN for facts in layers):
        text += ", as long as small inputs leave tanh in its straight part"
    return f"{text}."


def _drawn(layers: Sequence[RecurrentFacts]) -> str:
    relu = all(facts.nonlinearity == "relu" for facts in layers)
    return "as the identity" if relu else "orthogonal"


def _radius(layers: Sequence[RecurrentFacts]) -> str:
    radius = layers[0].spectral_radius
    if radius is None:
        return ""
    return f" (spectral radius of its weight: {amount(radius, 2)})"


def _caution(case: Case, layers: Sequence[RecurrentFacts]) -> str:
    steps = steps_of(case, layers)
    parts = []
    if steps is not None and steps > _REACH:
        parts.append(
            f"{steps} steps are many for it (up to about {_REACH}): prefer a gated "
            "cell."
        )
    parts.append("Training may drive the weights off orthogonality again.")
    if any(facts.kind not in PLAIN for facts in layers):
        parts.append("In a gated layer the gates decide first: see gated-cell.")
    return " ".join(parts)


def _record(layers: Sequence[RecurrentFacts], *, grows: bool) -> str:
    if any(facts.kind not in PLAIN for facts in layers):
        return "not counted on gated layers"
    if grows:
        return "with clipping repaired 1 of 3 networks that explode through time"
    return "orthogonal weights repaired 4 of 6 networks that vanish through time"


def _code(layers: Sequence[RecurrentFacts], gain: float, *, clip: bool) -> str:
    """Return the user's lines: a loop over the parameters of each layer."""
    blocks = []
    for relu in (False, True):
        mine = [f.layer for f in layers if (f.nonlinearity == "relu") is relu]
        if not mine:
            continue
        plain = all(f.kind in PLAIN for f in layers if f.layer in mine)
        draw = "nn.init.eye_(block)" if relu else "nn.init.orthogonal_(block)"
        lines = [
            "for name, parameter in layer.named_parameters():",
            "    for block in parameter.data.split(layer.hidden_size):",
            '        if name.startswith("weight_hh"):',
            f"            {draw}",
        ]
        if plain:
            stacked = any(f.num_layers > 1 for f in layers if f.layer in mine)
            value = f"{gain:.2g}"
            value += f' if "_l0" in name else {_UPPER_GAIN}' if stacked else ""
            lines += [
                '        elif name.startswith("weight_ih"):',
                f"            nn.init.xavier_normal_(block, gain={value})",
                "        else:",
                "            nn.init.zeros_(block)",
            ]
        blocks.append(each(mine, lines))
    if clip:
        blocks.append(
            "# between loss.backward() and optimizer.step()\n"
            "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)"
        )
    return "\n".join(blocks)
