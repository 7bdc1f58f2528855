"""Residual networks as ensembles of short paths: the gradient by path length.

Veit, Wilber and Belongie 2016 (arXiv 1605.06431): n blocks x + f(x) unfold into 2^n
paths, binomially many of each length, and almost all of the gradient comes through
short ones.

Here the branch is V relu(W x) with W ~ N(0, sigma_w^2 / width) and V ~ N(0, sigma_v^2 /
width), so its Jacobian multiplies the squared norm of a gradient by

    c = sigma_v^2 sigma_w^2 / 2,

and different paths add up without correlation. The gradient through all paths of length
k then has the squared norm C(n, k) c^k: the share of length k is binomial again, with
probability c / (1 + c) where the number of paths has 1 / 2. The squared norm of the
whole gradient grows by (1 + c)^n, that of the longest path alone by c^n.

    python examples/theory/resnet_paths.py [--out FOLDER]
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Report

BLOCKS, WIDTH, BATCH, SIGMA_V, SIGMA_W = 24, 256, 16, 0.5, math.sqrt(2.0)


class Block(nn.Module):
    """x + V relu(W x), or V relu(W x) alone where `skip` is off."""

    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.down = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.down.weight, std=SIGMA_W / math.sqrt(width))
        nn.init.normal_(self.up.weight, std=SIGMA_V / math.sqrt(width))

    def branch(self, x: Tensor) -> Tensor:
        """Return f(x)."""
        output: Tensor = self.up(torch.relu(self.down(x)))
        return output

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.branch(x) if self.skip else self.branch(x)


def make_network(
    blocks: int, width: int, skip: bool = True, seed: int = 0
) -> nn.Module:
    """Return a chain of blocks between two linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(width, width),
        *(Block(width, skip) for _ in range(blocks)),
        nn.Linear(width, 4),
    )


def gradients_by_length(blocks: list[Block], x: Tensor, top: Tensor) -> Tensor:
    """Return the gradient through the paths of each length, all paths summed.

    Going back through a block, what came through k branches stays at k by the shortcut
    and moves to k + 1 by the branch.

    Args:
        blocks: Residual blocks.
        x: Input of the first block, shape `[batch, width]`.
        top: Gradient at the output of the last block, shape `[batch, width]`.

    Returns:
        Shape `[len(blocks) + 1, batch, width]`; their sum is the gradient at `x`.
    """
    inputs = [x]
    with torch.no_grad():
        for block in blocks:
            inputs.append(block(inputs[-1]))
    found = torch.zeros(len(blocks) + 1, *top.shape)
    found[0] = top
    for number, block in enumerate(reversed(blocks), start=1):
        at = inputs[-1 - number].detach().requires_grad_()
        (through,) = torch.autograd.grad(
            block.branch(at), at, found[:number], is_grads_batched=True
        )
        found[1 : number + 1] += through
    return found


def branch_factor() -> float:
    """Return c: what one branch makes of the squared norm of a gradient, no unit."""
    return SIGMA_V**2 * SIGMA_W**2 / 2.0


def binomial(blocks: int, probability: float) -> list[float]:
    """Return the binomial distribution over 0 .. blocks."""
    return [
        math.comb(blocks, k) * probability**k * (1.0 - probability) ** (blocks - k)
        for k in range(blocks + 1)
    ]


@dataclass(frozen=True)
class Result:
    """Shares by path length, from 0 to the number of blocks.

    Attributes:
        paths: Share of the paths.
        predicted: Share of the squared gradient norm, by theory.
        measured: The same, measured.
        error: Largest relative difference of the sum over lengths from autograd.
    """

    paths: list[float]
    predicted: list[float]
    measured: list[float]
    error: float


def measure(blocks: int = BLOCKS, width: int = WIDTH, seeds: int = 3) -> Result:
    """Return the distribution over path lengths, a mean over networks."""
    energy = torch.zeros(blocks + 1)
    error = 0.0
    for seed in range(seeds):
        model = make_network(blocks, width, seed=seed)
        chain = [block for block in model.modules() if isinstance(block, Block)]
        x = torch.randn(BATCH, width, requires_grad=True)
        top = torch.randn(BATCH, width)
        found = gradients_by_length(chain, x.detach(), top)
        (whole,) = torch.autograd.grad(nn.Sequential(*chain)(x), x, top)
        difference = (found.sum(0) - whole).norm() / whole.norm()
        error = max(error, float(difference))
        energy += found.square().sum(dim=(1, 2)) / found.square().sum()
    c = branch_factor()
    return Result(
        binomial(blocks, 0.5),
        binomial(blocks, c / (1.0 + c)),
        (energy / seeds).tolist(),
        error,
    )


def look(skip: bool, blocks: int = BLOCKS, width: int = WIDTH) -> Report:
    """Return what gradwatch says of the network with or without its shortcuts."""
    model = make_network(blocks, width, skip)
    return gradwatch.check(model, torch.randn(BATCH, width))


def decades(report: Report) -> float:
    """Return D, the decades lost towards the input, of the main trunk."""
    value = report.chains[0].decades
    assert value is not None
    return value


def draw(result: Result, folder: Path) -> Path:
    """Save the picture: shares by path length, and the gradient of a single path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    lengths = range(len(result.paths))
    left.bar(lengths, result.paths, color="#B8B8B8", label="paths")
    left.plot(lengths, result.predicted, color="black", label="gradient, theory")
    left.plot(
        lengths, result.measured, "o", color="#0072B2", label="gradient, measured"
    )
    left.set_xlabel("path length (branches passed)")
    left.set_ylabel("share of paths, of squared norm")
    left.set_title("most of the gradient takes short paths", fontsize="medium")
    left.legend(fontsize="small")
    count = len(result.paths) - 1
    single = [
        share / math.comb(count, k) / result.measured[0]
        for k, share in enumerate(result.measured)
    ]
    c = branch_factor()
    right.plot(lengths, [c ** (k / 2) for k in lengths], color="black", label="theory")
    right.plot(
        lengths, [math.sqrt(s) for s in single], "o", color="#0072B2", label="measured"
    )
    right.set(yscale="log", xlabel="path length (branches passed)")
    right.set_ylabel("gradient norm of one path / shortest")
    right.set_title("a single path vanishes with its length", fontsize="medium")
    right.legend(fontsize="small")
    path = folder / "resnet_paths.png"
    figure.savefig(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the picture")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    result = measure()
    c = branch_factor()
    mean = sum(k * share for k, share in enumerate(result.measured))
    print(f"{BLOCKS} blocks, c = {c:g}: paths have {BLOCKS / 2:g} branches on average;")
    print(
        f"  the gradient's mean path length is {mean:.2f}, by theory n c / (1 + c) = "
        f"{BLOCKS * c / (1 + c):.2f}"
    )
    print(f"  the parts add up to autograd's gradient within {result.error:.1e}")
    for skip, predicted in ((True, 1.0 + c), (False, c)):
        report = look(skip)
        name = "with shortcuts" if skip else "without (the longest path alone)"
        # From block to block: the trunk's points lie above each block and below it.
        theory = -BLOCKS / 2 * math.log10(predicted)
        print(f"\n{name}: D = {decades(report):.2f} decades lost, theory {theory:.2f}")
        print(f"  {report.sentence}")
        for finding in report.findings:
            print(f"  {finding.code} {finding.name}: {finding.message}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"\npicture: {draw(result, folder)}")


if __name__ == "__main__":
    main()
