"""The Hugging Face callback: three architectures, random weights, a real Trainer."""

import copy
import json

import pytest
import torch

pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
transformers = pytest.importorskip("transformers")

import gradwatch  # noqa: E402
from gradwatch.integrations.scalars import NAMES  # noqa: E402
from gradwatch.integrations.transformers import GradWatchCallback  # noqa: E402

WORDS, LENGTH = 64, 12
#: Its name in transformers 5.23 and later, and before.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if hasattr(transformers.TrainingArguments, name)
)


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
        {CHECKPOINTING: True},
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


def sick():
    """A GPT-2 whose feed-forwards are far too large."""
    model = gpt2()
    for block in model.transformer.h:
        block.mlp.c_fc.weight.data.mul_(1e4)
        block.mlp.c_proj.weight.data.mul_(1e4)
    return model


def test_stop_ends_the_training_of_a_sick_model(tmp_path):
    """Once an alarm is confirmed, and a warning says which."""
    ours = GradWatchCallback(console=None, act="stop")
    with pytest.warns(gradwatch.GradWatchWarning, match="GW.* Training stops"):
        _, trainer = train(sick, tmp_path, [ours], max_steps=30)
    assert trainer.state.global_step < 10
    assert any(f.is_alarm for f in ours.report.findings)


def test_stop_leaves_a_healthy_model_to_train(tmp_path):
    """`stop` stops nothing where nothing is wrong."""
    ours = GradWatchCallback(console=None, act="stop")
    _, trainer = train(llama, tmp_path, [ours], max_steps=12)
    assert trainer.state.global_step == 12


def test_an_unknown_act_is_named():
    """With its value and what was expected."""
    with pytest.raises(gradwatch.SettingsError, match="`act` \\(='explode'\\)"):
        GradWatchCallback(act="explode")


class Plain(torch.nn.Module):
    """A model of the user's own, whose forward takes no further arguments."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(WORDS, 16)
        self.head = torch.nn.Linear(16, WORDS)

    def forward(self, input_ids, labels=None):
        logits = self.head(torch.tanh(self.embed(input_ids)))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("make", [gpt2, Plain], ids=["divides itself", "is divided"])
def test_the_loss_of_a_step_is_that_of_all_its_micro_batches(tmp_path, make):
    """As the Trainer logs it, whoever divides by the number of micro-batches."""
    ours = GradWatchCallback(console=None, every=1)
    options = {"gradient_accumulation_steps": 3, "logging_steps": 1, "max_steps": 4}
    _, trainer = train(make, tmp_path, [ours], **options)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    known = [pulse.loss for pulse in ours.watch.history.pulses]
    assert known == pytest.approx(logged, abs=1e-3)


def test_a_loss_of_the_trainers_own_is_taken_from_its_logs(tmp_path):
    """Label smoothing: the model is not given the labels. Told one step late."""
    ours = GradWatchCallback(console=None, every=1)
    options = {"label_smoothing_factor": 0.1, "logging_steps": 1}
    _, trainer = train(gpt2, tmp_path, [ours], **options)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    known = [pulse.loss for pulse in ours.watch.history.pulses]
    assert known[1:] == pytest.approx(logged[:-1], abs=1e-3)


def test_a_training_that_fails_leaves_a_report(tmp_path):
    """`close()` gives it; a next training has a watch of its own."""

    def broken():
        model = gpt2()
        seen = []

        def fail(module, args):
            seen.append(1)
            if len(seen) == 4:
                raise RuntimeError("bad batch")

        model.lm_head.register_forward_pre_hook(fail)
        return model

    ours = GradWatchCallback(console=None)
    with pytest.raises(RuntimeError, match="bad batch"):
        train(broken, tmp_path, [ours])
    failed = ours.watch
    ours.close()
    assert ours.report.run.steps == 3
    train(gpt2, tmp_path, [ours])
    assert ours.watch is not failed
    assert ours.report.run.steps == 6


def test_evaluation_is_not_watched_and_its_log_is_left_alone(tmp_path):
    """Only what the Trainer logs of training gets our numbers."""
    ours = GradWatchCallback(console=None, every=1)
    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        logging_steps=2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        gpt2(),
        arguments,
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=[ours],
    )
    trainer.train()
    assert ours.report.run.steps == 4
    tested = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert tested
    assert not any(key.startswith("gradwatch/") for entry in tested for key in entry)


def test_the_log_stays_plain_json(tmp_path):
    """The Trainer saves its log as JSON: floats only."""
    _, trainer = train(gpt2, tmp_path, [GradWatchCallback(console=None)])
    assert json.loads(json.dumps(trainer.state.log_history)) is not None
    assert copy.deepcopy(trainer.state.log_history)
