"""Which percentile of its own gradient norms should a run that jumps be clipped at?

    python -m benchmarks.clipping

An `nn.RNN` (tanh, orthogonal recurrent weight) recalls one of 4 symbols after 40 steps,
trained by SGD at rates at which its gradient jumps. Each run is watched once without
clipping; then it is trained again from the start, clipped at a percentile of the norms
that were seen. It has learned when its last 30 losses are below 0.25 (chance: 1.39).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

import gradwatch
from gradwatch.remedies.training_facts import gradient_norms, percentile

RATES = (0.05, 0.1, 0.2)
SEEDS = range(4)
PERCENTILES = (0.1, 0.25, 0.5, 0.9)
STEPS = 400
LEARNED = 0.25
_LENGTH = 40


class Recall(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, 64, batch_first=True)
        self.head = nn.Linear(64, 4)
        nn.init.orthogonal_(self.rnn.weight_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def batch(generator: Generator) -> tuple[Tensor, Tensor]:
    symbols = torch.randint(0, 4, (32,), generator=generator)
    x = 0.1 * torch.randn(32, _LENGTH, 8, generator=generator)
    x[:, 0] = 0.0
    x[torch.arange(32), 0, symbols] = 1.0
    return x, symbols


def train(seed: int, rate: float, clip: float | None) -> tuple[float, list[float]]:
    """Return the mean of the last 30 losses and the norms before clipping."""
    torch.manual_seed(seed)
    model = Recall()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    generator = Generator().manual_seed(seed)
    losses = []
    with gradwatch.watch(model, console=None) as watch:
        for _ in range(STEPS):
            x, symbols = batch(generator)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), symbols)
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(float(loss.detach()))
        norms = gradient_norms(watch.history)
    return sum(losses[-30:]) / 30, norms


def main() -> None:
    learned: dict[str, int] = {}
    for rate in RATES:
        for seed in SEEDS:
            end, norms = train(seed, rate, None)
            ends = {"none": end, "1.0": train(seed, rate, 1.0)[0]}
            for share in PERCENTILES:
                value = percentile(norms, share)
                ends[f"p{100 * share:.0f}"] = train(seed, rate, value)[0]
            for name, loss in ends.items():
                learned[name] = learned.get(name, 0) + (loss < LEARNED)
            shown = "  ".join(f"{name} {loss:.3f}" for name, loss in ends.items())
            print(f"rate {rate} seed {seed}: {shown}", flush=True)
    runs = len(RATES) * len(SEEDS)
    print("\nlearned: " + ", ".join(f"{k} {n}/{runs}" for k, n in learned.items()))


if __name__ == "__main__":
    main()
