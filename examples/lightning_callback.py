"""Lightning: one callback. Needs `pip install lightning`.

A deep sigmoid net does not learn the digits; the callback says which layers, and stops
the fit once that is certain. Run: `python examples/lightning_callback.py`.
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch.integrations.lightning import GradWatchCallback


class Digits(pl.LightningModule):
    """Ten hidden layers of sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [m for _ in range(10) for m in (nn.Linear(64, 64), nn.Sigmoid())]
        self.net = nn.Sequential(*hidden, nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)
    )
    callback = GradWatchCallback(act="stop")
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(Digits(), DataLoader(data, batch_size=64, shuffle=True))
    assert callback.report is not None
    print(f"stopped at step {trainer.global_step}: {callback.report.health.value}")
    print(f"first advice: {callback.report.recommendations[0].title}")


if __name__ == "__main__":
    main()
