"""The order-chaos phase diagram of tanh networks, predicted and measured.

Poole et al. 2016 (arXiv 1606.05340) and Schoenholz et al. 2017 (arXiv 1611.01232): in
a wide fully connected network with weights N(0, sigma_w^2 / width) and biases
N(0, sigma_b^2), the variance of the pre-activations settles at the fixed point

    q* = sigma_w^2 E[phi(sqrt(q*) z)^2] + sigma_b^2,    z ~ N(0, 1),

and the squared norm of the gradient grows, from each layer to the one below, by

    chi_1 = sigma_w^2 E[phi'(sqrt(q*) z)^2].

chi_1 < 1: order, gradients vanish. chi_1 > 1: chaos, gradients explode.

    python examples/theory/order_chaos.py [--out FOLDER]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Report

SIGMAS_W = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SIGMAS_B = (0.1, 0.5, 1.0, 1.5)
#: The networks whose report is printed: in order, near the edge, in chaos.
SHOWN = ((0.5, 0.1), (1.0, 0.1), (3.0, 0.1))


def gaussian_mean(function: Callable[[Tensor], Tensor], variance: float) -> float:
    """Return E[function(z)] for z from N(0, variance), by the trapezoidal rule."""
    z = torch.linspace(-9.0, 9.0, 2001, dtype=torch.float64)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return float(torch.trapezoid(function(math.sqrt(variance) * z) * density, z))


def fixed_point(sigma_w: float, sigma_b: float) -> float:
    """Return q*, the variance of the pre-activations deep in a tanh network."""
    q = 1.0
    for _ in range(2000):
        new = sigma_w**2 * gaussian_mean(lambda x: x.tanh() ** 2, q) + sigma_b**2
        if abs(new - q) < 1e-9:
            break
        q = new
    return q


def chi(sigma_w: float, sigma_b: float) -> float:
    """Return chi_1: growth of the squared gradient norm a layer, no unit."""
    q = fixed_point(sigma_w, sigma_b)
    return sigma_w**2 * gaussian_mean(lambda x: (1 - x.tanh() ** 2) ** 2, q)


def make_network(sigma_w: float, sigma_b: float, width: int, depth: int) -> nn.Module:
    """Return a tanh network of the ensemble, with a linear head."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.normal_(layer.weight, std=sigma_w / math.sqrt(width))
        nn.init.normal_(layer.bias, std=sigma_b)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def look(
    sigma_w: float, sigma_b: float, width: int = 256, depth: int = 20, seed: int = 0
) -> Report:
    """Return what gradwatch says of one network, fed so that it starts at q*."""
    torch.manual_seed(seed)
    model = make_network(sigma_w, sigma_b, width, depth)
    q = fixed_point(sigma_w, sigma_b)
    start = max(q - sigma_b**2, 1e-12) / sigma_w**2
    return gradwatch.check(model, math.sqrt(start) * torch.randn(16, width))


def growth(report: Report) -> float:
    """Return decades of gradient norm gained per layer towards the input."""
    (chain,) = report.chains
    assert chain.decades is not None
    return -chain.decades / (len(chain.points) - 1)


@dataclass(frozen=True)
class Cell:
    """One network: its scales, and decades a layer predicted and measured."""

    sigma_w: float
    sigma_b: float
    predicted: float
    measured: float
    findings: tuple[str, ...]


def measure(width: int = 256, depth: int = 20) -> list[Cell]:
    """Return the grid of networks."""
    cells = []
    for sigma_w in SIGMAS_W:
        for sigma_b in SIGMAS_B:
            report = look(sigma_w, sigma_b, width, depth)
            predicted = 0.5 * math.log10(chi(sigma_w, sigma_b))
            codes = tuple(finding.code for finding in report.findings)
            cells.append(Cell(sigma_w, sigma_b, predicted, growth(report), codes))
    return cells


def draw(cells: list[Cell], folder: Path) -> Path:
    """Save the picture: prediction as colour, measurement as the colour of the dots."""
    from matplotlib.figure import Figure

    wide = torch.linspace(0.3, 3.2, 30).tolist()
    high = torch.linspace(0.02, 1.65, 18).tolist()
    field = [[0.5 * math.log10(chi(w, b)) for w in wide] for b in high]
    figure = Figure(figsize=(8.6, 4.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    shades = {"cmap": "RdBu_r", "vmin": -0.3, "vmax": 0.3}
    image = left.pcolormesh(wide, high, field, shading="gouraud", **shades)
    edge = left.contour(wide, high, field, levels=[0.0], colors="black")
    left.clabel(edge, fmt={0.0: "$\\chi_1 = 1$"})
    left.scatter(
        [c.sigma_w for c in cells],
        [c.sigma_b for c in cells],
        c=[c.measured for c in cells],
        s=80,
        edgecolors="black",
        linewidths=0.8,
        **shades,
    )
    left.text(0.42, 1.24, "order: vanishing", color="white")
    left.text(3.1, 0.26, "chaos: exploding", ha="right")
    left.set_xlabel(r"weight scale $\sigma_w$")
    left.set_ylabel(r"bias scale $\sigma_b$")
    left.set_title("colour: theory; dots: gradwatch", fontsize="medium")
    figure.colorbar(image, ax=left, label="decades a layer, towards the input")
    ends = [min(c.predicted for c in cells), max(c.predicted for c in cells)]
    right.plot(ends, ends, color="#8A8A8A", label="measured = predicted")
    right.plot(
        [c.predicted for c in cells],
        [c.measured for c in cells],
        "o",
        color="#0072B2",
        label="one network each",
    )
    right.set_xlabel(r"predicted, $\frac{1}{2}\log_{10}\chi_1$ (decades a layer)")
    right.set_ylabel("measured (decades a layer)")
    right.legend()
    path = folder / "order_chaos.png"
    figure.savefig(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    cells = measure()
    print("sigma_w  sigma_b  decades a layer: predicted  measured  findings")
    for cell in cells:
        print(
            f"{cell.sigma_w:7.2f}  {cell.sigma_b:7.2f}  {cell.predicted:26.4f}"
            f"  {cell.measured:8.4f}  {' '.join(cell.findings) or '-'}"
        )
    for sigma_w, sigma_b in SHOWN:
        report = look(sigma_w, sigma_b)
        print(f"\nsigma_w = {sigma_w}, sigma_b = {sigma_b}: {report.sentence}")
        for finding in report.findings:
            print(f"  {finding.code} {finding.name}: {finding.message}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"\npicture: {draw(cells, folder)}")


if __name__ == "__main__":
    main()
