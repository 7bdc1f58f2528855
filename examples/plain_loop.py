"""A plain training loop, watched: a deep sigmoid network on handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradwatch


def deep_mlp(depth: int = 10, width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = []
    features = 64
    for _ in range(depth):
        layers += [nn.Linear(features, width), nn.Sigmoid()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 10))


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, digits = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32) / 16
    data = TensorDataset(pixels, torch.tensor(digits))
    loader = DataLoader(data, batch_size=64, shuffle=True)

    model = deep_mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_fn = nn.CrossEntropyLoss()

    with gradwatch.watch(model):  # <- the one line; the report comes at the end
        for epoch in range(5):
            total = 0.0
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = loss_fn(model(inputs), targets)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(targets)
            print(f"epoch {epoch}: loss {total / len(data):.3f}")


if __name__ == "__main__":
    main()
