"""A recurrent network that must remember: which symbol stood first?

The report shows the gradient by time step and the horizon: how far back the network can
learn from. With `--gated` an LSTM whose forget gate starts open takes the RNN's place.
"""

import math
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradwatch

LENGTH, SYMBOLS, HIDDEN = 48, 4, 64


class Reader(nn.Module):
    """Embeds symbols, reads them in order and answers after the last one."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, 16)
        kind = nn.LSTM if gated else nn.RNN
        self.rnn = kind(16, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, SYMBOLS)
        if gated:  # chrono initialisation: the forget gate remembers about LENGTH steps
            for name, bias in self.rnn.named_parameters():
                if "bias" in name:
                    nn.init.constant_(bias[HIDDEN : 2 * HIDDEN], math.log(LENGTH) / 2)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return logits of the first symbol."""
        states, _ = self.rnn(self.embed(symbols))
        logits: Tensor = self.head(states[:, -1])
        return logits


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Reader(gated="--gated" in sys.argv)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    with gradwatch.watch(model):  # <- the one line
        for step in range(400):
            symbols = torch.randint(SYMBOLS, (64, LENGTH))
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(symbols), symbols[:, 0])
            loss.backward()
            optimizer.step()
            if step % 50 == 0:
                print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
