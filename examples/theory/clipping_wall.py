"""The wall in the loss of a one-neuron recurrent system, and what clipping does there.

Pascanu, Mikolov and Bengio 2013 (arXiv 1211.5063), section 2.3, figures 6 and 7: with
phi the logistic sigmoid, the loss

    (x_50 - 0.7)^2,    x_{t+1} = w phi(x_t) + b,    x_0 = 0.5

as a function of w and b has a wall: across a line in the plane the state falls to the
other attractor. On the wall the gradient is huge, and one step of gradient descent
throws the parameters far away. A clipped step keeps the direction and is no longer than
the learning rate times the limit.

    python examples/theory/clipping_wall.py [--out FOLDER]
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Report

LENGTH, TARGET, START_STATE = 50, 0.7, 0.5
#: Parameters, learning rate, limit and steps: chosen so that descents meet the wall.
START, LR, LIMIT, STEPS = (4.8, -2.25), 0.002, 1.0, 120


class Neuron(nn.Module):
    """The system, unrolled over `LENGTH` steps."""

    def __init__(self, weight: float, bias: float) -> None:
        super().__init__()
        self.step = nn.Linear(1, 1, dtype=torch.float64)
        with torch.no_grad():
            self.step.weight.fill_(weight)
            self.step.bias.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run from the states `x`, shape `[batch, 1]`."""
        for _ in range(LENGTH):
            x = self.step(torch.sigmoid(x))
        return x


def loss_surface(weights: Tensor, biases: Tensor) -> Tensor:
    """Return the loss at every pair, shape `[biases, weights]`."""
    b, w = torch.meshgrid(biases, weights, indexing="ij")
    x = torch.full_like(w, START_STATE)
    for _ in range(LENGTH):
        x = w * torch.sigmoid(x) + b
    return (x - TARGET) ** 2


@dataclass(frozen=True)
class Descent:
    """Gradient descent on the loss.

    Attributes:
        points: (w, b) before each step, and after the last.
        losses: Loss before each step.
        norms: Gradient norm before clipping.
        report: What gradwatch says.
    """

    points: list[tuple[float, float]]
    losses: list[float]
    norms: list[float]
    report: Report

    def step_lengths(self) -> list[float]:
        """Return how far each step went in the plane of w and b."""
        return [
            math.dist(a, b) for a, b in zip(self.points, self.points[1:], strict=False)
        ]


def descend(
    limit: float | None, steps: int = STEPS, start: tuple[float, float] = START
) -> Descent:
    """Train under gradwatch.

    Args:
        limit: Gradients are clipped to this norm; None: not at all.
        steps: Number of steps.
        start: Weight and bias at the start.

    Returns:
        What happened.
    """
    model = Neuron(*start)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    state = torch.tensor([[START_STATE]], dtype=torch.float64)
    points, losses, norms = [start], [], []
    with gradwatch.watch(model, console=None, every=10) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = ((model(state) - TARGET) ** 2).mean()
            loss.backward()
            watch.log(loss=loss)
            norm = nn.utils.clip_grad_norm_(
                model.parameters(), math.inf if limit is None else limit
            )
            optimizer.step()
            losses.append(loss.item())
            norms.append(float(norm))
            points.append((model.step.weight.item(), model.step.bias.item()))
    return Descent(points, losses, norms, watch.report())


def draw(free: Descent, clipped: Descent, folder: Path) -> Path:
    """Save the picture: the surface with both paths, and the loss of both."""
    from matplotlib.figure import Figure

    weights = torch.linspace(4.55, 5.0, 300, dtype=torch.float64)
    biases = torch.linspace(-2.55, -2.2, 240, dtype=torch.float64)
    surface = loss_surface(weights, biases)
    figure = Figure(figsize=(8.6, 4.0), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    image = left.pcolormesh(weights, biases, surface.sqrt(), cmap="cividis")
    figure.colorbar(image, ax=left, label=r"$|x_{50} - 0.7|$, root of the loss")
    for descent, colour, mark, label in (
        (free, "#D55E00", "s-", "not clipped"),
        (clipped, "white", "o-", f"clipped to {LIMIT:g}"),
    ):
        left.plot(
            [w for w, _ in descent.points],
            [b for _, b in descent.points],
            mark,
            color=colour,
            markersize=3,
            linewidth=1,
            label=label,
        )
        shade = "#0072B2" if colour == "white" else colour
        right.plot(descent.losses, mark[1:], color=shade, label=label)
    left.plot(*START, "*", color="#56B4E9", markersize=12, label="start")
    left.set(xlim=(4.55, 5.0), ylim=(-2.55, -2.2), xlabel="weight w", ylabel="bias b")
    left.set_title(
        f"not clipped, one step is {max(free.step_lengths()):.1f} long",
        fontsize="medium",
    )
    left.legend(fontsize="small", facecolor="#BBBBBB", loc="lower left")
    right.set(yscale="log", xlabel="step", ylabel="loss")
    right.set_title("the loss on the way", fontsize="medium")
    right.legend(fontsize="small")
    path = folder / "clipping_wall.png"
    figure.savefig(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    free, clipped = descend(None), descend(LIMIT)
    for name, descent in (("not clipped", free), (f"clipped to {LIMIT:g}", clipped)):
        print(
            f"{name}: largest gradient {max(descent.norms):.4g}, longest step "
            f"{max(descent.step_lengths()):.4g}, loss {descent.losses[0]:.3g} -> "
            f"{descent.losses[-1]:.3g}"
        )
        print(f"  {descent.report.sentence}")
        for finding in descent.report.findings:
            print(f"  {finding.code} {finding.name}: {finding.message}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"\npicture: {draw(free, clipped, folder)}")


if __name__ == "__main__":
    main()
