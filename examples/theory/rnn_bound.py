"""How far back a sigmoid RNN can learn: the bound by the operator norm, and the radius.

Pascanu, Mikolov and Bengio 2013 (arXiv 1211.5063), section 2.1: one step back through
h_t = phi(W h_{t-1} + U x_t) multiplies the gradient by at most

    sigma_max(W) * max phi',    max phi' = 1/4 for the logistic sigmoid, 1 for tanh,

so sigma_max < 4 suffices for vanishing in a sigmoid RNN. The spectral radius rho(W)
only tells what happens where phi' is constant: at equal rho the horizon (steps until
1 % of the gradient is left) differs several times, as saturation and the shape of W
decide too.

    python examples/theory/rnn_bound.py [--out FOLDER]
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Report

HIDDEN, LENGTH = 32, 40
RADII = (0.5, 0.8, 0.95, 1.2, 2.0, 4.0, 8.0)
ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}
#: Largest slope of each activation.
SLOPES = {"sigmoid": 0.25, "tanh": 1.0}
SHAPES = ("orthogonal", "gaussian", "triangular")


class Recurrence(nn.Module):
    """h_t = phi(W h_{t-1} + U x_t), read out at the end."""

    def __init__(self, phi: Callable[[Tensor], Tensor], recurrent: Tensor) -> None:
        super().__init__()
        size = len(recurrent)
        self.phi = phi
        self.recur = nn.Linear(size, size, bias=False)
        self.read_in = nn.Linear(2, size)
        self.head = nn.Linear(size, 3)
        with torch.no_grad():
            self.recur.weight.copy_(recurrent)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `[batch, time, 2]`."""
        h = torch.zeros(len(x), self.recur.in_features, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = self.phi(self.recur(h) + self.read_in(x[:, t]))
        output: Tensor = self.head(h)
        return output


def make_recurrent(shape: str, radius: float, size: int, seed: int = 0) -> Tensor:
    """Return a `[size, size]` matrix of a given spectral radius.

    Args:
        shape: `orthogonal`, `gaussian` or `triangular` (far from normal: its largest
            singular value is several times its radius).
        radius: Largest absolute eigenvalue.
        size: Number of units.
        seed: Chooses the matrix.

    Returns:
        The matrix, float64.
    """
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, dtype=torch.float64, generator=generator)
    if shape == "orthogonal":
        orthogonal: Tensor = torch.linalg.qr(matrix)[0]
        return radius * orthogonal
    if shape == "triangular":
        matrix = torch.triu(matrix, 1) / 4 + torch.eye(size, dtype=torch.float64)
        return radius * matrix
    largest: Tensor = torch.linalg.eigvals(matrix).abs().max()
    return radius * matrix / largest


def look(name: str, recurrent: Tensor, length: int = LENGTH) -> Report:
    """Return what gradwatch says of the recurrence on random inputs."""
    torch.manual_seed(1)
    model = Recurrence(ACTIVATIONS[name], recurrent).double()
    with torch.no_grad():
        model.recur.weight.copy_(recurrent)
    return gradwatch.check(model, torch.randn(8, length, 2, dtype=torch.float64))


def growth_by_step(norms: Sequence[float]) -> list[float]:
    """Return what each step back does to the gradient; exact zeros are left out."""
    return [a / b for a, b in pairwise(norms) if a > 0 and b > 0]


@dataclass(frozen=True)
class Net:
    """One recurrent network.

    Attributes:
        activation: `sigmoid` or `tanh`.
        shape: How its recurrent matrix was made.
        radius: Spectral radius.
        bound: Largest singular value times the largest slope of the activation.
        factor: Measured growth of the gradient a step back: geometric mean.
        largest: Measured growth: the largest of all steps.
        horizon: Steps until 1 % is left; None if the gradient does not fade.
        findings: Codes.
    """

    activation: str
    shape: str
    radius: float
    bound: float
    factor: float
    largest: float
    horizon: float | None
    findings: tuple[str, ...]


def measure_one(activation: str, shape: str, radius: float) -> Net:
    """Return one network's numbers; gradwatch measures the gradient at every step."""
    recurrent = make_recurrent(shape, radius, HIDDEN)
    report = look(activation, recurrent)
    (profile,) = report.time_profiles
    ratios = growth_by_step(profile.norms)
    return Net(
        activation,
        shape,
        radius,
        SLOPES[activation] * float(torch.linalg.matrix_norm(recurrent, ord=2)),
        math.prod(ratios) ** (1 / len(ratios)),
        max(ratios),
        profile.horizon,
        tuple(finding.code for finding in report.findings),
    )


def measure() -> list[Net]:
    """Return all networks."""
    return [
        measure_one(activation, shape, radius)
        for activation in ACTIVATIONS
        for shape in SHAPES
        for radius in RADII
    ]


def draw(nets: list[Net], folder: Path) -> Path:
    """Save the picture: measured growth under the bound; horizon against the radius."""
    from matplotlib.figure import Figure

    colours = {"sigmoid": "#0072B2", "tanh": "#D55E00"}
    marks = dict(zip(SHAPES, "os^", strict=True))
    figure = Figure(figsize=(8.6, 4.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for activation, colour in colours.items():
        for shape, mark in marks.items():
            some = [n for n in nets if n.activation == activation and n.shape == shape]
            style = {"marker": mark, "color": colour, "linestyle": "none"}
            label = f"{activation}, {shape}"
            left.plot(
                [n.bound for n in some], [n.largest for n in some], label=label, **style
            )
            fading = [n for n in some if n.horizon is not None]
            right.plot(
                [n.radius for n in fading], [n.horizon or 0.0 for n in fading], **style
            )
    ends = [min(n.bound for n in nets), max(n.bound for n in nets)]
    left.plot(ends, ends, color="black", label="the bound")
    left.axvline(1.0, color="#8A8A8A", linestyle=":")
    left.set(xscale="log", yscale="log")
    left.set_xlabel(r"bound: $\sigma_{max}(W)\ \max \varphi'$ (a step back)")
    left.set_ylabel("largest measured growth (a step back)")
    left.legend(fontsize="small", loc="upper left")
    radii = torch.linspace(0.4, 0.985, 60).tolist()
    right.plot(
        radii,
        [math.log(0.01) / math.log(r) for r in radii],
        color="black",
        label=r"$\rho$ alone: $\ln 0.01 / \ln \rho$",
    )
    right.axvline(1.0, color="#8A8A8A", linestyle=":")
    right.set(xscale="log", yscale="log", ylim=(1, 300))
    ticks = (0.5, 1.0, 2.0, 4.0, 8.0)
    right.set_xticks(ticks, [f"{radius:g}" for radius in ticks])
    right.set_xticks([], minor=True)
    right.set_xlabel(r"spectral radius $\rho(W)$")
    right.set_ylabel("horizon (steps until 1 % is left)")
    right.legend(fontsize="small", loc="upper right")
    path = folder / "rnn_bound.png"
    figure.savefig(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    nets = measure()
    print("activation  shape       radius   bound  largest    mean  horizon  findings")
    for n in nets:
        horizon = "-" if n.horizon is None else f"{n.horizon:.0f}"
        print(
            f"{n.activation:10}  {n.shape:10}  {n.radius:6.2f}  {n.bound:6.2f}"
            f"  {n.largest:7.3f}  {n.factor:6.3f}  {horizon:>7}"
            f"  {' '.join(n.findings) or '-'}"
        )
    for activation in ACTIVATIONS:
        report = look(activation, make_recurrent("orthogonal", 0.95, HIDDEN))
        print(f"\n{activation}, orthogonal, radius 0.95: {report.sentence}")
        for finding in report.findings:
            print(f"  {finding.code} {finding.name}: {finding.message}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"\npicture: {draw(nets, folder)}")


if __name__ == "__main__":
    main()
