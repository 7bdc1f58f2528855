"""A network that does not learn: diagnose it, try remedies, train the treated one.

Eight sigmoid layers read scikit-learn's handwritten digits. The report names what is
wrong and what may help; a trial on copies says which remedy does; the treated network
is trained by the same loop. Accuracies are of digits that no training has seen.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import gradwatch


def build() -> nn.Sequential:
    """Return eight sigmoid layers of 64 units and a head."""
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(64, 64), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def loss_fn(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    images, digits = batch
    return functional.cross_entropy(model(images), digits)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DataLoader[tuple[Tensor, ...]],
) -> None:
    for _ in range(10):
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            optimizer.step()


def accuracy(model: nn.Module, images: Tensor, digits: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == digits).float().mean())


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data, target = load_digits(return_X_y=True)
    images = torch.tensor(data / 8 - 1, dtype=torch.float32)
    digits = torch.tensor(target)
    seen, held_out, seen_digits, held_out_digits = train_test_split(
        images, digits, test_size=0.25, random_state=0
    )
    batches = DataLoader(TensorDataset(seen, seen_digits), 64, shuffle=True)

    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradwatch.watch(model, console=None) as watch:
        train(model, optimizer, batches)
    print(f"as it is: {accuracy(model, held_out, held_out_digits):.0%} of new digits\n")

    # Each remedy trains a copy beside an untreated one: same batches, same steps.
    best, *_ = watch.trial(batches=batches, loss_fn=loss_fn)
    print(watch.report())

    if best.trial is None or best.trial.verdict is not gradwatch.Verdict.HELPED:
        print("\nNo remedy helped.")
        return
    treated = gradwatch.treat(model, best)  # a deep copy; `model` stays as it is
    changed = gradwatch.treat_optimizer(optimizer, best, model=model, treated=treated)
    print(f"\n{gradwatch.treatment_of(treated).diff()}\n")
    with gradwatch.watch(treated, console=None) as watch:
        train(treated, changed, batches)
    print(f"treated: {accuracy(treated, held_out, held_out_digits):.0%} of new digits")
    report = watch.report()
    print(f"{report.health.value}: {report.sentence}")


if __name__ == "__main__":
    main()
