"""Small training loops, one for each mechanism of docs/compatibility.md."""

import contextlib
import tempfile
import warnings

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import gradwatch
from gradwatch.autowatch import AutoWatch

STEPS = 5
LENGTHS = [4, 4, 3, 3, 2, 2, 1, 1]


class Block(nn.Module):
    """One tanh layer."""

    def __init__(self, width=8):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Net(nn.Module):
    """A recurrent layer, four blocks and a head: it has depth and time."""

    def __init__(self, reentrant=None, packed=False):
        super().__init__()
        self.inlet = nn.Linear(8, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 3)
        self.reentrant = reentrant
        self.packed = packed

    def forward(self, x):
        x = self.inlet(x)
        if self.packed:
            x = pack_padded_sequence(x, LENGTHS, batch_first=True)
        x = self.rnn(x)[1][0]
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class Tied(nn.Module):
    """An embedding whose weight is the head's, or a sparse one."""

    def __init__(self, sparse):
        super().__init__()
        self.table = nn.Embedding(12, 8, sparse=sparse)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(8, 12 if not sparse else 3, bias=False)
        if not sparse:
            self.head.weight = self.table.weight
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x):
        tokens = x[..., 0].nan_to_num().abs().mul(3).long().clamp(max=11)
        gain = self.gain * (x.sum() * 0 + 1)  # a NaN of the batch gets through
        return self.head(self.blocks(self.rnn(self.table(tokens) * gain)[1][0]))


class Complex(nn.Module):
    """Complex layers, and the magnitude at the end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(8, 8, dtype=torch.complex64) for _ in range(5))
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layers(x.mean(1).to(torch.complex64)).abs())


class Lora(nn.Module):
    """A frozen layer and a trainable detour of low rank beside it."""

    def __init__(self, layer):
        super().__init__()
        self.base = layer.requires_grad_(False)
        self.down = nn.Linear(8, 2, bias=False)
        self.up = nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def lora():
    """Return a net whose blocks have a detour."""
    net = Net()
    for block in net.blocks:
        block.linear = Lora(block.linear)
    return net


def scripted():
    """Return a net of scripted blocks."""
    net = Net()
    for index, block in enumerate(net.blocks):
        net.blocks[index] = torch.jit.script(block)
    return net


def batches(poison):
    """Return fixed batches; the last but one has a NaN if wanted."""
    generator = torch.Generator().manual_seed(1)
    for number in range(STEPS):
        x = torch.randn(8, 4, 8, generator=generator)
        if poison and number == STEPS - 2:
            x[0, 0, 0] = float("nan")
        yield x, torch.randint(3, (8,), generator=generator)


def train(
    poison,
    model,
    *,
    wrap=None,
    step=None,
    make_optimizer=None,
    autocast=None,
    scaler=None,
):
    """Train a watched model; return its watch and itself."""
    if make_optimizer is None:
        options = {"fused": True} if step is fused else {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, **options)
    else:
        optimizer = make_optimizer(model)
    with gradwatch.watch(model, console=None, every=1) as watch:
        call = wrap(model) if wrap else model
        run = step or plain
        if isinstance(optimizer, CompiledStep):
            optimizer.watch = watch
        for batch in batches(poison):
            with autocast or contextlib.nullcontext():
                run(call, optimizer, batch, model, scaler)
    assert watch._observer.hooks.failure is None, watch._observer.hooks.failure
    return watch, model


def loss_of(call, batch):
    """Return the loss of a batch."""
    x, y = batch
    return F.cross_entropy(call(x), y)


def plain(call, optimizer, batch, model, scaler):
    """A step of the plainest loop."""
    optimizer.zero_grad()
    loss_of(call, batch).backward()
    optimizer.step()


def closure(call, optimizer, batch, model, scaler):
    """A step by closure."""

    def run():
        optimizer.zero_grad()
        loss = loss_of(call, batch)
        loss.backward()
        return loss

    optimizer.step(run)


def scaled(call, optimizer, batch, model, scaler):
    """A step by a scaler."""
    optimizer.zero_grad()
    scaler.scale(loss_of(call, batch)).backward()
    scaler.step(optimizer)
    scaler.update()


def fused(call, optimizer, batch, model, scaler):
    """The same with an optimizer that unscales in its step."""
    scaled(call, optimizer, batch, model, scaler)


def unscaled(call, optimizer, batch, model, scaler):
    """A step that unscales and clips by itself."""
    optimizer.zero_grad()
    scaler.scale(loss_of(call, batch)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    scaler.step(optimizer)
    scaler.update()


def accumulated(call, optimizer, batch, model, scaler):
    """A step of two micro-batches."""
    x, y = batch
    optimizer.zero_grad()
    for part in (slice(0, 4), slice(4, 8)):
        (loss_of(call, (x[part], y[part])) / 2).backward()
    optimizer.step()


def clipped(call, optimizer, batch, model, scaler):
    """A step with clipping."""
    optimizer.zero_grad()
    loss_of(call, batch).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()


def two(call, optimizers, batch, model, scaler):
    """A step of two optimizers."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss_of(call, batch).backward()
    for optimizer in optimizers:
        optimizer.step()


def halves(model):
    """Return two optimizers of one model."""
    return [
        torch.optim.SGD(model.blocks.parameters(), lr=0.01),
        torch.optim.Adam([*model.inlet.parameters(), *model.rnn.parameters()], lr=0.01),
        torch.optim.SGD(model.head.parameters(), lr=0.01),
    ]


def whole(model):
    """Compile the whole model."""
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager")


def per_block(model):
    """Compile each block."""
    torch._dynamo.reset()
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, backend="aot_eager")
    return model


def in_place(model):
    """Compile by the method."""
    torch._dynamo.reset()
    model.compile(backend="aot_eager")
    return model


class CompiledStep:
    """An optimizer whose step is compiled: no hook sees it."""

    def __init__(self, model):
        torch._dynamo.reset()
        self.inner = torch.optim.SGD(model.parameters(), lr=0.01)
        self.zero_grad = self.inner.zero_grad
        self.compiled = torch.compile(self.inner.step, backend="eager")
        self.watch = None

    def step(self):
        """Step without a word."""
        self.compiled()


class ToldStep(CompiledStep):
    """The same in a loop that tells of it."""

    def step(self):
        """Step, and say so."""
        self.compiled()
        self.watch.step()


def by_command(poison):
    """What `gradwatch run` does in its process."""
    auto = AutoWatch(console=None, every=1)
    auto.install()
    try:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in batches(poison):
            plain(model, optimizer, batch, model, None)
    finally:
        auto.close()
    return auto.watches[0], model


def lightning(poison, *, manual):
    """A Lightning Trainer with our callback."""
    import lightning.pytorch as pl

    from gradwatch.integrations.lightning import GradWatchCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()
            self.automatic_optimization = not manual

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            loss = loss_of(self, batch)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    callback = GradWatchCallback(console=None, every=1)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    module = Module()
    trainer.fit(module, DataLoader(list(batches(poison)), batch_size=None))
    return callback.watch, module


def hugging_face(poison):
    """A Hugging Face Trainer with our callback."""
    from transformers import Trainer, TrainingArguments

    from gradwatch.integrations.transformers import GradWatchCallback

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    data = [
        {"x": one, "labels": label}
        for x, y in batches(poison)
        for one, label in zip(x, y, strict=True)
    ]
    callback = GradWatchCallback(console=None, every=1)
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model,
            TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=8,
                train_sampling_strategy="sequential",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
            ),
            train_dataset=data,
            callbacks=[callback],
        ).train()
    return callback.watch, model


def scaler():
    """Return a scaler of the CPU."""
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


def _row(make=Net, **options):
    def run(poison):
        made = {
            key: value() if key in ("scaler", "autocast") else value
            for key, value in options.items()
        }
        return train(poison, make(), **made)

    return run


ROWS = {
    "plain loop": _row(),
    "accumulation": _row(step=accumulated),
    "clipping": _row(step=clipped),
    "closure": _row(step=closure),
    "LBFGS": _row(
        step=closure,
        make_optimizer=lambda m: torch.optim.LBFGS(m.parameters(), max_iter=3),
    ),
    "several optimizers": _row(step=two, make_optimizer=halves),
    "`GradScaler`": _row(step=scaled, scaler=scaler),
    "`GradScaler`, fused optimizer": _row(step=fused, scaler=scaler),
    "`GradScaler.unscale_` and clipping": _row(step=unscaled, scaler=scaler),
    "autocast in bfloat16": _row(
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    ),
    "checkpointing, non-reentrant": _row(lambda: Net(reentrant=False)),
    "checkpointing, reentrant": _row(lambda: Net(reentrant=True)),
    "`torch.compile(model)`": _row(wrap=whole),
    "`torch.compile(block)`": _row(wrap=per_block),
    "`model.compile()`": _row(wrap=in_place),
    "compiled `optimizer.step`": _row(make_optimizer=CompiledStep),
    "compiled `optimizer.step`, with `watch.step()`": _row(make_optimizer=ToldStep),
    "scripted blocks": _row(scripted),
    "LoRA-style detours": _row(lora),
    "tied weights": _row(lambda: Tied(sparse=False)),
    "sparse embedding": _row(lambda: Tied(sparse=True)),
    "`PackedSequence`": _row(lambda: Net(packed=True)),
    "complex numbers": _row(Complex),
    "`DataParallel`": _row(wrap=nn.DataParallel),
    "`gradwatch run`": by_command,
}
FRAMEWORKS = {
    "Lightning, automatic": lambda poison: lightning(poison, manual=False),
    "Lightning, manual": lambda poison: lightning(poison, manual=True),
    "Hugging Face Trainer": hugging_face,
}


def sharded():
    """Return a net whose blocks are sharded; needs several ranks."""
    from torch.distributed.fsdp import fully_shard

    net = Net()
    for block in net.blocks:
        fully_shard(block)
    return fully_shard(net)


#: Run by `tests/processes_rows.py`, on two ranks.
PROCESSES = {
    "DistributedDataParallel": _row(wrap=nn.parallel.DistributedDataParallel),
    "FSDP2 (`fully_shard`)": _row(sharded),
}


def run(name, poison, kept):
    """Run a row; return its watch, and put the model into `kept`."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watch, model = {**ROWS, **FRAMEWORKS, **PROCESSES}[name](poison)
    kept.append(model)
    return watch
