"""Hugging Face: one callback. Needs `pip install transformers accelerate`.

A small GPT-2 with random weights learns to repeat a sequence; the learning rate is far
too high. Run: `python examples/transformers_trainer.py`.
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from gradwatch.integrations.transformers import GradWatchCallback


class Repeats(Dataset[dict[str, torch.Tensor]]):
    """Sequences whose second half repeats the first."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        half = torch.randint(32, (256, 8), generator=generator)
        self.tokens = torch.cat([half, half], dim=1)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def main() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=64, n_layer=3, n_head=2)
    callback = GradWatchCallback(console="end")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=60,
            per_device_train_batch_size=16,
            learning_rate=3.0,  # a typing error: 3e-4 was meant
            logging_steps=20,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(
            model=GPT2LMHeadModel(config),
            args=arguments,
            train_dataset=Repeats(),
            callbacks=[callback],
        ).train()
    assert callback.report is not None
    print(callback.report.health.value, [f.code for f in callback.report.findings])


if __name__ == "__main__":
    main()
