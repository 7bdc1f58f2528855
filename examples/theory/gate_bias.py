"""How far an LSTM or a GRU can remember: the horizon against the bias of its gate.

The state is carried from step to step by a gate: c_t = f c_{t-1} + ... in an LSTM
(forget gate f), h_t = z h_{t-1} + ... in PyTorch's GRU (update gate z). While the
weights are small the gate is phi(b), phi the logistic sigmoid, so a gradient is
multiplied by phi(b) a step back and 1 % of it is left after

    horizon = ln 0.01 / ln phi(b)    steps.

An LSTM's loss sees the state through the output gate, about 1/2 here: it loses that
once more, on its last step, and its horizon is ln 0.02 / ln phi(b).

Gers et al. 2000 (Learning to forget) start the forget bias at a positive value; Tallec
and Ollivier 2018 (arXiv 1804.11188) derive b = ln T for dependencies of T steps.

    python examples/theory/gate_bias.py [--out FOLDER]
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Report

HIDDEN, LENGTH = 32, 120
BIASES = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
#: Which chunk of the stacked biases is the gate that carries the state.
GATES = {"LSTM": (nn.LSTM, 4, 1), "GRU": (nn.GRU, 3, 1)}
#: Factor on PyTorch's own initial weights; theory holds for small ones.
SCALES = {"small weights": 0.1, "PyTorch's weights": 1.0}


class Reader(nn.Module):
    """A recurrent layer, read out at the end."""

    def __init__(self, kind: str, bias: float | None, scale: float) -> None:
        super().__init__()
        layer, chunks, gate = GATES[kind]
        self.rnn = layer(2, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 3)
        with torch.no_grad():
            for name, parameter in self.rnn.named_parameters():
                if "weight" in name:
                    parameter.mul_(scale)
                elif bias is not None:
                    # Both bias vectors are added up.
                    chosen = parameter.chunk(chunks)[gate]
                    chosen.fill_(bias if name.startswith("bias_hh") else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `[batch, time, 2]`."""
        states, _ = self.rnn(x)
        output: Tensor = self.head(states[:, -1])
        return output


def predicted_horizon(bias: float, share: float = 0.01) -> float:
    """Return the steps until a share of the gradient is left."""
    return -math.log(share) / math.log1p(math.exp(-bias))


def look(kind: str, bias: float | None, scale: float, length: int = LENGTH) -> Report:
    """Return what gradwatch says; `bias` None leaves PyTorch's own."""
    torch.manual_seed(0)
    model = Reader(kind, bias, scale)
    return gradwatch.check(model, torch.randn(8, length, 2))


def factor(norms: Sequence[float]) -> float:
    """Return the median of what is left of the gradient after a step back."""
    pairs = pairwise(norms)
    return statistics.median(a / b for a, b in pairs if b > 0)


@dataclass(frozen=True)
class Cell:
    """One network.

    Attributes:
        kind: `LSTM` or `GRU`.
        bias: Bias of the gate.
        weights: A key of `SCALES`.
        factor: What a step back leaves of the gradient: median over the steps.
        horizon: Measured horizon in steps; None if more than 1 % of the gradient is
            left even at the first step.
        findings: Codes.
    """

    kind: str
    bias: float
    weights: str
    factor: float
    horizon: float | None
    findings: tuple[str, ...]


def measure(length: int = LENGTH) -> list[Cell]:
    """Return all networks."""
    cells = []
    for kind in GATES:
        for weights, scale in SCALES.items():
            for bias in BIASES:
                report = look(kind, bias, scale, length)
                (profile,) = report.time_profiles
                codes = tuple(finding.code for finding in report.findings)
                # Beyond the sequence gradwatch carries the mean slope on: not drawn.
                reached = (profile.decades_lost or 0.0) >= 2.0
                cells.append(
                    Cell(
                        kind,
                        bias,
                        weights,
                        factor(profile.norms),
                        profile.horizon if reached else None,
                        codes,
                    )
                )
    return cells


def draw(cells: list[Cell], folder: Path) -> Path:
    """Save the picture: horizon against bias, with the chrono initialisation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    biases = torch.linspace(-1.2, 4.4, 60).tolist()
    gate = [1 / (1 + math.exp(-b)) for b in biases]
    left.plot(biases, gate, color="black", label=r"theory, $\varphi(b)$")
    right.plot(
        biases,
        [predicted_horizon(b) for b in biases],
        color="black",
        label=r"theory, $\ln 0.01 / \ln \varphi(b)$",
    )
    right.plot(
        biases,
        [math.exp(b) for b in biases],
        color="#8A8A8A",
        linestyle="--",
        label="T of the chrono bias ln T",
    )
    styles = {"small weights": "full", "PyTorch's weights": "none"}
    for kind, colour, mark in (("LSTM", "#0072B2", "o"), ("GRU", "#D55E00", "s")):
        for weights, fill in styles.items():
            some = [c for c in cells if (c.kind, c.weights) == (kind, weights)]
            at = [c.bias for c in some]
            horizons = [c.horizon or math.nan for c in some]
            label = f"{kind}, {weights}"
            for axes, values in ((left, [c.factor for c in some]), (right, horizons)):
                axes.plot(at, values, mark, fillstyle=fill, color=colour, label=label)
    left.set_ylabel("left of the gradient after a step back")
    left.legend(fontsize="small")
    right.axhline(LENGTH, color="#8A8A8A", linestyle=":", label="sequence length")
    right.set(yscale="log", ylim=(0.9, 300))
    right.set_ylabel("horizon (steps until 1 % is left)")
    right.legend(
        handles=right.get_lines()[:2] + right.get_lines()[-1:], fontsize="small"
    )
    for axes in (left, right):
        axes.set_xlabel("bias of the gate that carries the state")
        axes.grid(color="#DDDDDD", linewidth=0.6)
    path = folder / "gate_bias.png"
    figure.savefig(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    cells = measure()
    print("cell  weights            bias  phi(b)  a step back  horizon  findings")
    for c in cells:
        horizon = f">{LENGTH}" if c.horizon is None else f"{c.horizon:.1f}"
        gate = 1 / (1 + math.exp(-c.bias))
        print(
            f"{c.kind:4}  {c.weights:17}  {c.bias:4.0f}  {gate:6.3f}  {c.factor:11.3f}"
            f"  {horizon:>7}  {' '.join(c.findings) or '-'}"
        )
    chrono = math.log(LENGTH)
    for kind in GATES:
        for name, bias in (("PyTorch's bias", None), (f"bias {chrono:.2f}", chrono)):
            report = look(kind, bias, 1.0)
            print(f"\n{kind}, {LENGTH} steps, {name}: {report.sentence}")
            for finding in report.findings:
                print(f"  {finding.code} {finding.name}: {finding.message}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"\npicture: {draw(cells, folder)}")


if __name__ == "__main__":
    main()
