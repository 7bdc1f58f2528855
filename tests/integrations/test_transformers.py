"""The Hugging Face callback: three architectures, random weights, a real Trainer."""

import copy
import json

import pytest
import torch

pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
transformers = pytest.importorskip("transformers")

from gradwatch.integrations.scalars import NAMES  # noqa: E402
from gradwatch.integrations.transformers import GradWatchCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
WORDS, LENGTH = 64, 12


def gpt2():
    """A decoder."""
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=3, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def bert():
    """An encoder with a head for classes."""
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def llama():
    """A decoder with gated feed-forwards."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
    )
    return transformers.LlamaForCausalLM(config)


class Tokens(torch.utils.data.Dataset):
    """Random tokens; labels are the tokens, or a class."""

    def __init__(self, classes=None):
        generator = torch.Generator().manual_seed(3)
        self.tokens = torch.randint(WORDS, (48, LENGTH), generator=generator)
        self.classes = classes

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = self.tokens[index]
        label = tokens if self.classes is None else int(tokens[0]) % self.classes
        return {"input_ids": tokens, "labels": label}


def train(make, tmp_path, callbacks, classes=None, **options):
    """Train a model through the real Trainer and return it with the Trainer."""
    torch.manual_seed(0)
    model = make()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        **{
            "per_device_train_batch_size": 8,
            "max_steps": 6,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "learning_rate": 1e-3,
            **options,
        },
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=Tokens(classes), callbacks=callbacks
    )
    trainer.train()
    return model, trainer


@pytest.mark.parametrize(
    ("make", "classes"),
    [(gpt2, None), (bert, 3), (llama, None)],
    ids=["gpt2", "bert", "llama"],
)
def test_real_architectures_train_the_same_and_are_seen(tmp_path, make, classes):
    """Bit-identical weights; every weight layer observed; the loss known."""
    ours = GradWatchCallback(console=None, every=2)
    watched, _ = train(make, tmp_path, [ours], classes)
    plain, _ = train(make, tmp_path, [], classes)
    for (name, a), b in zip(
        watched.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    report = ours.report
    assert report.run.failure == ""
    assert report.run.steps == 6
    assert report.run.loss_known
    assert report.coverage.share > 0.9
    assert report.findings == () or not any(f.is_alarm for f in report.findings)
    assert not any(m._forward_hooks for m in watched.modules())


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2},
        {"max_grad_norm": 0.01},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"optim": "sgd"},
    ],
    ids=str,
)
def test_options_of_the_trainer_change_nothing(tmp_path, options):
    """Bit-identical under accumulation, clipping, bf16, checkpointing."""
    ours = GradWatchCallback(console=None, every=1)
    watched, _ = train(gpt2, tmp_path, [ours], **options)
    plain, _ = train(gpt2, tmp_path, [], **options)
    pairs = zip(watched.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert ours.report.run.steps == 6
    assert ours.report.run.failure == ""


def test_the_norm_before_and_after_the_trainers_clipping_is_told(tmp_path):
    """The Trainer clips at 1.0 by default; here at 0.01."""
    ours = GradWatchCallback(console=None)
    train(gpt2, tmp_path, [ours], max_grad_norm=0.01)
    pulses = [p for p in ours.watch.history.pulses if p.clip_factor is not None]
    assert pulses
    assert all(p.step_grad_norm == pytest.approx(0.01, rel=1e-2) for p in pulses)
    assert all(p.grad_norm > 0.02 for p in pulses)


def test_the_trainers_log_has_the_numbers(tmp_path):
    """`state.log_history` is what every integration of the Trainer reads."""
    _, trainer = train(gpt2, tmp_path, [GradWatchCallback(console=None)])
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        ours = {key for key in entry if key.startswith("gradwatch/")}
        assert {"gradwatch/grad_norm/total", "gradwatch/overhead"} <= ours <= set(NAMES)


def test_report_to_integrations_write_the_numbers(tmp_path):
    """TensorBoard's own files hold them, because we go before its callback."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(
        gpt2,
        tmp_path,
        [GradWatchCallback(console=None)],
        report_to=["tensorboard"],
    )
    (events,) = {file.parent for file in tmp_path.rglob("events.out.tfevents.*")}
    tags = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert any(tag.endswith("gradwatch/grad_norm/total") for tag in tags)


def test_stop_ends_the_training_of_a_sick_model(tmp_path):
    """A GPT-2 without residual branches of use: its attention output is cut off."""

    def sick():
        model = gpt2()
        for block in model.transformer.h:
            block.mlp.c_fc.weight.data.mul_(1e4)
            block.mlp.c_proj.weight.data.mul_(1e4)
        return model

    ours = GradWatchCallback(console=None, stop=True)
    _, trainer = train(sick, tmp_path, [ours], max_steps=30)
    alarmed = any(f.is_alarm for f in ours.report.findings)
    assert alarmed == (trainer.state.global_step < 30)
    assert alarmed


def test_the_log_stays_plain_json(tmp_path):
    """The Trainer saves its log as JSON: floats only."""
    _, trainer = train(gpt2, tmp_path, [GradWatchCallback(console=None)])
    assert json.loads(json.dumps(trainer.state.log_history)) is not None
    assert copy.deepcopy(trainer.state.log_history)
