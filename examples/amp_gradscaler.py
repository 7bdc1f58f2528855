"""Mixed precision with a GradScaler: gradients are shown without the loss scale.

A step that the scaler skips, because a scaled gradient overflowed, counts as a skipped
step and not as NaN. On the CPU the numbers are bfloat16; the scaler works the same.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import gradwatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.float16 if DEVICE == "cuda" else torch.bfloat16


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, digits = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32, device=DEVICE) / 16
    targets = torch.tensor(digits, device=DEVICE)

    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.GELU(),
        nn.LayerNorm(128),
        nn.Linear(128, 128),
        nn.GELU(),
        nn.Linear(128, 10),
    ).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(DEVICE)

    with gradwatch.watch(model):  # <- the one line; it finds the scaler by itself
        for epoch in range(6):
            for batch in torch.randperm(len(targets), device=DEVICE).split(64):
                optimizer.zero_grad()
                with torch.autocast(DEVICE, dtype=DTYPE):
                    loss = functional.cross_entropy(
                        model(inputs[batch]), targets[batch]
                    )
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            print(f"epoch {epoch}: loss {loss.item():.3f}, {scaler.get_scale():g}x")


if __name__ == "__main__":
    main()
