"""Gradient accumulation and clipping: four small batches make one step.

gradwatch counts optimizer steps, not backward passes, and knows the gradient's norm
before and after clipping.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import gradwatch

MICRO_BATCHES = 4


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, digits = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    data = TensorDataset(pixels, torch.tensor(digits))
    loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)

    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    with gradwatch.watch(model):  # <- the one line
        for epoch in range(8):
            for index, (inputs, targets) in enumerate(loader, start=1):
                loss = functional.cross_entropy(model(inputs), targets)
                (loss / MICRO_BATCHES).backward()
                if index % MICRO_BATCHES == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            print(f"epoch {epoch}: loss of the last batch {loss.item():.3f}")


if __name__ == "__main__":
    main()
