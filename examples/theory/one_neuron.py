"""One neuron that feeds itself: bifurcation, hysteresis, and what its gradient does.

Doya 1992 (Bifurcations in the learning of recurrent neural networks): the system

    x_{t+1} = phi(w x_t + b),    phi the logistic sigmoid, w > 4,

has two attractors and an unstable point between them for b between two saddle-node
bifurcations. There the slope w phi' is 1, that is x (1 - x) = 1 / w, so

    x = (1 +- sqrt(1 - 4 / w)) / 2,    b = ln(x / (1 - x)) - w x.

Pushed slowly by b, the state jumps at one bifurcation on the way up and at the other on
the way down. The gradient through time is multiplied by the slope at every step: it
vanishes near an attractor (slope < 1) and explodes near the unstable point (slope > 1).

    python examples/theory/one_neuron.py [--out FOLDER]
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Report

WEIGHT, LENGTH = 8.0, 16
#: Steps of the picture: over more of them the peak is too narrow to be drawn.
FEW = 6
#: Half way between the bifurcations: by symmetry the unstable point is 1/2.
MIDDLE = -WEIGHT / 2


def bifurcations(weight: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (x, b) of both saddle-nodes, the one at the larger b first."""
    if weight <= 4.0:
        raise ValueError(f"`weight` (={weight}) must exceed 4: one attractor below it.")
    root = math.sqrt(1.0 - 4.0 / weight)
    low, high = (
        (x, math.log(x / (1.0 - x)) - weight * x)
        for x in ((1.0 - root) / 2.0, (1.0 + root) / 2.0)
    )
    return low, high


class Neuron(nn.Module):
    """The system, unrolled; its state after `length` steps is the output."""

    def __init__(self, weight: float, bias: float, length: int) -> None:
        super().__init__()
        self.length = length
        self.step = nn.Linear(1, 1, dtype=torch.float64)
        with torch.no_grad():
            self.step.weight.fill_(weight)
            self.step.bias.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run from the states `x`, shape `[batch, 1]`."""
        for _ in range(self.length):
            x = torch.sigmoid(self.step(x))
        return x


def settle(bias: float, start: float, steps: int = 200) -> float:
    """Return where a state goes."""
    with torch.no_grad():
        state = torch.tensor([[start]], dtype=torch.float64)
        return float(Neuron(WEIGHT, bias, steps)(state))


def sweep(biases: list[float], start: float) -> list[float]:
    """Return the settled state at each bias, each run starting where the last ended."""
    states = []
    for bias in biases:
        start = settle(bias, start)
        states.append(start)
    return states


def look(start: float, length: int = LENGTH) -> Report:
    """Return what gradwatch says of a run that starts at one state."""
    state = torch.tensor([[start]], dtype=torch.float64)
    return gradwatch.check(Neuron(WEIGHT, MIDDLE, length), state)


def sensitivity(start: float, length: int = LENGTH) -> float:
    """Return |d x_length / d x_0|, the product of the slopes on the way."""
    state = torch.tensor([[start]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(Neuron(WEIGHT, MIDDLE, length)(state).sum(), state)
    return float(grad.abs())


@dataclass(frozen=True)
class Result:
    """What is drawn.

    Attributes:
        biases: Biases of the sweep, rising.
        up: Settled states on the way up.
        down: Settled states on the way down, in the order of `biases`.
        starts: Starting states at the middle bias.
        gradients: |d x_FEW / d x_0| of each start.
    """

    biases: list[float]
    up: list[float]
    down: list[float]
    starts: list[float]
    gradients: list[float]

    def jumps(self) -> tuple[float, float]:
        """Return the biases at which the state jumps, on the way up and down."""
        return tuple(  # type: ignore[return-value]
            max(
                zip(states[1:], states, self.biases[1:], strict=False),
                key=lambda s: s[0] - s[1],
            )[2]
            for states in (self.up, self.down)
        )


def measure(points: int = 121) -> Result:
    """Return sweeps and gradients."""
    biases = torch.linspace(-6.0, -2.0, points, dtype=torch.float64).tolist()
    down = sweep(biases[::-1], 1.0)[::-1]
    starts = torch.linspace(0.0, 1.0, 201, dtype=torch.float64).tolist()
    return Result(
        biases,
        sweep(biases, 0.0),
        down,
        starts,
        [sensitivity(start, FEW) for start in starts],
    )


def draw(result: Result, folder: Path) -> Path:
    """Save the picture: fixed points and hysteresis; gradient by starting state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = bifurcations(WEIGHT)
    states = torch.linspace(0.002, 0.998, 999, dtype=torch.float64)
    biases = torch.logit(states) - WEIGHT * states
    for part, style, label in (
        (states <= low[0], "-", "attractor"),
        ((states >= low[0]) & (states <= high[0]), "--", "unstable point"),
        (states >= high[0], "-", None),
    ):
        left.plot(biases[part], states[part], style, color="black", label=label)
    left.plot(result.biases, result.up, ".", color="#0072B2", label="b rising")
    left.plot(
        result.biases,
        result.down,
        "o",
        markersize=5,
        markerfacecolor="none",
        color="#E69F00",
        label="b falling",
    )
    left.plot(
        [low[1], high[1]],
        [low[0], high[0]],
        "D",
        color="#D55E00",
        label="bifurcation, by theory",
    )
    left.set(xlim=(-6, -0.6), xlabel="bias b", ylabel="state x")
    left.set_title(f"w = {WEIGHT:g}: fixed points and hysteresis", fontsize="medium")
    left.legend(fontsize="small", loc="center right")
    right.plot(result.starts, result.gradients, color="#0072B2")
    right.axhline(1.0, color="#8A8A8A", linestyle=":")
    unstable = 0.5
    right.axvline(unstable, color="black", linestyle="--", label="unstable point")
    for number, start in enumerate((0.0, 1.0)):
        right.axvline(
            settle(MIDDLE, start),
            color="black",
            label=None if number else "attractors",
        )
    right.set(yscale="log", xlabel=r"starting state $x_0$")
    right.set_ylabel(rf"$|\partial x_{{{FEW}}} / \partial x_0|$")
    right.set_title(f"b = {MIDDLE:g}: gradient over {FEW} steps", fontsize="medium")
    right.legend(fontsize="small")
    path = folder / "one_neuron.png"
    figure.savefig(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    result = measure()
    low, high = bifurcations(WEIGHT)
    up, down = result.jumps()
    print(
        f"w = {WEIGHT:g}: bifurcations by theory at b = {low[1]:.4f} and {high[1]:.4f}"
    )
    print(f"the state jumps up at b = {up:.4f} and down below b = {down:.4f}")
    for name, start in (
        ("at an attractor", settle(MIDDLE, 0.0)),
        ("at the unstable point", 0.5),
    ):
        report = look(start)
        slope = WEIGHT * start * (1 - start)
        print(f"\nstart {name}, x = {start:.4f}, slope w x (1 - x) = {slope:.3f}:")
        print(f"  {report.sentence}")
        for finding in report.findings:
            print(f"  {finding.code} {finding.name}: {finding.message}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"\npicture: {draw(result, folder)}")


if __name__ == "__main__":
    main()
