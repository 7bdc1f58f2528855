"""What `gated-cell` says and gives to paste: merit, record, caution, code."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradwatch.anatomy import RecurrentFacts
from gradwatch.remedies.recurrences import PLAIN
from gradwatch.remedies.snippets import assigned, path

#: Bias at which a gate keeps 0.982 of the state a step: about 55 steps. The value that
#: facts C counted.
BIAS = 4.0
#: Repaired and tried, facts C, by kind, bias and finding.
_COUNTS: dict[tuple[str, str, str], tuple[int, int]] = {
    ("LSTM", "chrono", "GW102"): (5, 6),
    ("GRU", "4", "GW102"): (5, 6),
    ("LSTM", "4", "GW102"): (4, 6),
    ("LSTM", "4", "GW202"): (2, 3),
}


def merit_of(kind: str, bias: str, steps: int | None) -> str:
    """Return what the gate bias is good for, in a sentence."""
    gate = "forget gate" if kind == "LSTM" else "update gate"
    if bias == "chrono" and steps is not None:
        return (
            f"With its bias drawn from log U(1, {steps - 1}) the {gate} keeps each "
            f"unit's state for 1 to {steps} steps."
        )
    keeps = 1.0 / (1.0 + math.exp(-BIAS))
    return (
        f"With a bias of {bias} the {gate} keeps {keeps:.1%} of the state a step, for "
        f"about {1 + math.exp(BIAS):.0f} steps."
    )


def record_of(kind: str, bias: str, code: str, *, exchanged: bool) -> str:
    """Return how the treatment fared, in a clause."""
    counts = _COUNTS.get((kind, bias, code))
    if counts is None:
        return "not counted in our bench"
    sick = "vanish" if code == "GW102" else "explode"
    text = f"repaired {counts[0]} of {counts[1]} networks that {sick} through time"
    if not exchanged:
        text += ", in place of a plain RNN"
    return f"{text}, in our bench"


def caution_of(layers: Sequence[RecurrentFacts], kind: str) -> str:
    """Return what the exchange costs, in sentences."""
    parts = [
        f"{'Four' if kind == 'LSTM' else 'Three'} times the weights of the layer, and "
        "its checkpoints do not fit."
    ]
    if kind == "LSTM":
        parts.append(
            "Where you carry the state from batch to batch, carry the pair (h, c): "
            "what we put in starts c at zero at every call."
        )
    if any(facts.nonlinearity == "relu" for facts in layers):
        parts.append("Its states are within -1 and 1, those of a ReLU are not.")
    return " ".join(parts)


def code_of(
    layers: Sequence[RecurrentFacts], kind: str, bias: str, steps: int | None
) -> str:
    """Return the user's lines: a function that sets the bias, and a call a layer."""
    lstm = kind == "LSTM"
    chrono = bias == "chrono"
    clear = "2 * size" if lstm and chrono else "size : 2 * size"
    clear = f"bias[: {clear}]" if clear == "2 * size" else f"bias[{clear}]"
    lines = [
        "@torch.no_grad()",
        "def remember(rnn):  # gates: "
        + ("input, forget, cell, output" if lstm else "reset, update, new"),
        "    size = rnn.hidden_size",
        "    for name, bias in rnn.named_parameters():",
        '        if name.startswith("bias"):',
        f"            {clear} = 0.0",
        '        if name.startswith("bias_ih"):',
    ]
    if chrono and steps is not None:
        lines.append(
            f"            bias[size : 2 * size].uniform_(1, {max(steps, 3) - 1}).log_()"
        )
        if lstm:
            lines.append("            bias[:size] = -bias[size : 2 * size]")
    else:
        lines.append(f"            bias[size : 2 * size] = {float(bias)}")
    lines.append("")
    for facts in layers:
        place = path(facts.layer)
        if facts.kind in PLAIN:
            line = assigned(facts.layer, _constructor(facts, kind))
            lines.append(f"{line}  # and your dropout" if _is_stacked(facts) else line)
            if lstm:
                lines.append("# where the state is read: output, (h_n, c_n) = ...")
        lines.append(f"remember({place})")
    return "\n".join(lines)


def _constructor(facts: RecurrentFacts, kind: str) -> str:
    given = [str(facts.input_size), str(facts.hidden_size)]
    if facts.kind == "RNNCell":
        return f"nn.{kind}Cell({', '.join(given)})"
    if facts.num_layers > 1:
        given.append(f"num_layers={facts.num_layers}")
    if facts.batch_first:
        given.append("batch_first=True")
    if facts.bidirectional:
        given.append("bidirectional=True")
    return f"nn.{kind}({', '.join(given)})"


def _is_stacked(facts: RecurrentFacts) -> bool:
    return facts.kind != "RNNCell" and facts.num_layers > 1
