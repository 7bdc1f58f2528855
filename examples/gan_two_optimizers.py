"""A GAN: two networks, two optimizers, two watches, and a report for each.

Each watch follows the steps of the optimizer that owns its network's parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradwatch

NOISE = 8


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, outputs),
    )


def ring(samples: int) -> Tensor:
    """Return points near eight places on a circle: what the generator imitates."""
    angles = torch.randint(8, (samples,)) * (torch.pi / 4)
    return torch.stack([angles.cos(), angles.sin()], 1) + 0.05 * torch.randn(samples, 2)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator, critic = mlp(NOISE, 2), mlp(2, 1)
    g_opt = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
    c_opt = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99))
    real, fake = torch.ones(128, 1), torch.zeros(128, 1)
    judge = functional.binary_cross_entropy_with_logits

    with (  # <- the one line, once a network
        gradwatch.watch(generator, name="generator"),
        gradwatch.watch(critic, name="critic"),
    ):
        for step in range(600):
            points = generator(torch.randn(128, NOISE))
            c_opt.zero_grad()
            c_loss = judge(critic(ring(128)), real)
            c_loss = c_loss + judge(critic(points.detach()), fake)
            c_loss.backward()
            c_opt.step()

            g_opt.zero_grad()
            g_loss = judge(critic(points), real)
            g_loss.backward()
            g_opt.step()
            if step % 100 == 0:
                losses = f"critic {c_loss.item():.2f}, generator {g_loss.item():.2f}"
                print(f"step {step}: {losses}")


if __name__ == "__main__":
    main()
