"""Trunks, sources, roles and following activations of known architectures."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from gradwatch.structure import Role
from tests.harmless import probe_once as probe
from tests.harmless import watched


def labels(record):
    """Return the point labels of the chains, the main one first."""
    return [[point.label for point in chain.points] for chain in record.chains]


class Residual(nn.Module):
    """x + f(norm(x)), or norm(x + f(x))."""

    def __init__(self, width, pre=True):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.pre = pre

    def forward(self, x):
        if self.pre:
            return x + self.down(F.gelu(self.up(self.norm(x))))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class Stack(nn.Module):
    """A stem, residual blocks, and a head behind a final norm."""

    def __init__(self, pre=True, blocks=4, width=8):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList(Residual(width, pre) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def test_a_plain_chain_is_its_own_trunk():
    """Every hidden layer is a point; the head is none; D is top over source."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    record, structure = probe(model, torch.randn(5, 8))
    assert labels(record) == [["0", "1", "2", "3", "4"]]
    norms = {r.layer: r.grad_norm for r in record.layers}
    (chain,) = record.chains
    for point in chain.points:
        assert point.grad_norm == pytest.approx(norms[point.layer], rel=1e-6)
    assert chain.decades() == pytest.approx(math.log10(norms["4"] / norms["0"]))
    assert structure.heads == ("5",)
    assert structure.last_hidden == "4"
    assert structure.role("0") is Role.TRUNK
    assert structure.batch_size == 5


@pytest.mark.parametrize("pre", [True, False], ids=["pre-norm", "post-norm"])
def test_the_residual_stream_is_the_trunk(pre):
    """The sums are points, the layers on the branches are not."""
    record, structure = probe(Stack(pre), torch.randn(5, 6))
    ((first, *rest),) = labels(record)
    assert first == "stem"
    assert len(rest) == 4
    assert structure.role("blocks.1.up") is Role.BRANCH
    assert len(structure.spans) == 4
    assert {span.norm for span in structure.spans} == {"pre" if pre else "post"}
    assert {span.body[-1] for span in structure.spans} == {
        f"blocks.{n}.down" for n in range(4)
    }


def test_the_gradient_of_a_sum_is_measured_at_the_sum():
    """The point of a residual join equals `retain_grad` on the stream."""

    class Kept(Stack):
        def forward(self, x):
            self.kept = []
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
                x.retain_grad()
                self.kept.append(x)
            return self.head(self.norm(x))

    model = Kept()
    record, _ = probe(model, torch.randn(5, 6))
    found = [point.grad_norm for point in record.chains[0].points[1:]]
    expected = [float(x.grad.norm()) for x in model.kept]
    # Where a single norm reads the stream, the point lies behind that norm.
    assert found[:3] == pytest.approx(expected[:3], rel=1e-5)


class ResNet(nn.Module):
    """Basic blocks with in-place operations, one of them strided."""

    class Block(nn.Module):
        """Two convolutions and a skip, in place."""

        def __init__(self, inside, outside, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1)
            self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1)
            self.relu = nn.ReLU(inplace=True)
            self.skip = None
            if stride > 1:
                self.skip = nn.Conv2d(inside, outside, 1, stride)

        def forward(self, x):
            out = self.conv2(self.relu(self.conv1(x)))
            out += x if self.skip is None else self.skip(x)
            return self.relu(out)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.layer = nn.Sequential(
            self.Block(4, 4, 1), self.Block(4, 8, 2), self.Block(8, 8, 1)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(self.stem(x)).mean((2, 3)))


def test_a_resnet_has_stem_and_blocks_on_its_trunk():
    """Block sums are points under the block's name; the strided skip is a branch."""
    record, structure = probe(ResNet(), torch.randn(4, 3, 8, 8))
    assert labels(record) == [["stem", "layer.0", "layer.1", "layer.2"]]
    assert len(structure.spans) == 3
    assert structure.role("layer.1.skip") is Role.BRANCH
    assert structure.layers["layer.0.conv1"].activation == "relu"


class UNet(nn.Module):
    """Two levels with concatenated skips."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.c = nn.Conv2d(8, 8, 3, 1, 1)
        self.d, self.e = nn.Conv2d(12, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.a(x).relu()
        c = self.c(self.b(a).relu()).relu()
        d = self.d(torch.cat([a, F.interpolate(c, scale_factor=2.0)], 1)).relu()
        return self.head(self.e(d).relu())


def test_what_is_left_of_a_unet_is_its_trunk():
    """The bottom of the U is a branch beside the skip."""
    record, structure = probe(UNet(), torch.randn(4, 3, 8, 8))
    (chain,) = labels(record)
    assert chain[0] == "a"
    assert chain[-2:] == ["d", "e"]
    assert structure.role("c") is Role.BRANCH
    assert [span.kind for span in structure.spans] == ["cat"]
    assert structure.spans[0].body == ("b", "c")


def test_an_encoder_and_a_decoder_are_two_streams():
    """Each has a source of its own; cross-attention joins them."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(9, 8), nn.Embedding(9, 8)
            encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(encoder, 3, enable_nested_tensor=False)
            decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
            self.decoder = nn.TransformerDecoder(decoder, 3)
            self.head = nn.Linear(8, 9)

        def forward(self, x, y):
            return self.head(self.decoder(self.target(y), self.encoder(self.source(x))))

    x, y = torch.randint(9, (4, 5)), torch.randint(9, (4, 6))
    record, structure = probe(Model(), x, y)
    sources = {chain.source.partition(".")[0] for chain in record.chains}
    assert sources == {"source", "target"} or sources == {"encoder", "target"}
    assert record.chains[0].main
    assert structure.role("source") is Role.EMBEDDING
    assert structure.role("head") is Role.HEAD


def test_siamese_towers_share_their_layers():
    """Two forwards feed one loss: one chain, its gradients merged."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(5)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with watched(model, every=1) as watch:
        (model(torch.randn(4, 6)) - model(torch.randn(4, 6))).square().sum().backward()
        optimizer.step()
    record = watch.history.first_probe
    assert {tuple(chain) for chain in labels(record)} == {("0", "1", "2", "3")}
    assert all(r.grad_norm > 0 for r in record.layers)


class Composite(nn.Module):
    """Three layers, each followed by a function."""

    def __init__(self, function):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 2)
        self.function = function

    def forward(self, x):
        for layer in self.layers:
            x = self.function(layer(x))
        return self.head(x)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        pytest.param(F.softsign, "elementwise", id="softsign"),
        pytest.param(lambda x: x * torch.sigmoid(x), "elementwise", id="silu"),
        pytest.param(
            lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))),
            "elementwise",
            id="gelu",
        ),
        pytest.param(lambda x: x / x.norm(dim=-1, keepdim=True), "sum", id="norm"),
        pytest.param(lambda x: x - x.mean(0), "sum", id="centred"),
        pytest.param(lambda x: torch.cat([x, -x], -1)[:, 4:12], "sum", id="cat"),
    ],
)
def test_a_join_of_one_tensor_with_itself_is_no_sum(function, kind):
    """Entry by entry it is an activation; whatever mixes entries keeps its name."""
    record, _ = probe(Composite(function), torch.randn(5, 8))
    (main,) = labels(record)
    expected = [f"layers.{i}{tail}" for i in range(3) for tail in ("", f" ({kind})")]
    assert main == expected


def test_an_activation_above_a_residual_sum_is_told_from_it():
    """The sum has a layer on one branch and keeps its name; softsign has none."""
    model = nn.ModuleDict({"stem": nn.Linear(6, 8), "a": nn.Linear(8, 8)})
    model["b"], model["head"] = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(x):
        x = model["stem"](x)
        for block in (model["a"], model["b"]):
            x = F.softsign(x + block(x))
        return model["head"](x)

    model.forward = forward
    record, _ = probe(model, torch.randn(5, 6))
    (main,) = labels(record)
    sums = [f"{name} ({kind})" for name in "ab" for kind in ("sum", "elementwise")]
    assert main == ["stem", *sums]


def test_a_side_input_does_not_cut_the_trunk():
    """A condition that enters half-way is a branch of its own."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
            self.side = nn.Linear(3, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x, condition):
            for number, layer in enumerate(self.layers):
                x = layer(x).tanh()
                if number == 2:
                    x = x + self.side(condition)
            return self.head(x)

    record, _ = probe(Model(), torch.randn(5, 8), torch.randn(5, 3))
    main = labels(record)[0]
    assert main[:3] == ["layers.0", "layers.1", "layers.2"]
    assert main[-2:] == ["layers.3", "layers.4"]


def test_a_stem_of_several_branches_is_not_lost():
    """An inception stem and separate query, key, value on the raw input."""

    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.stems = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))
            self.body = nn.Sequential(*(nn.Linear(12, 12) for _ in range(3)))
            self.head = nn.Linear(12, 2)

        def forward(self, x):
            return self.head(self.body(torch.cat([s(x).relu() for s in self.stems], 1)))

    record, _ = probe(Inception(), torch.randn(5, 6))
    assert [p for p in labels(record)[0] if p.startswith("body")] == [
        "body.0",
        "body.1",
        "body.2",
    ]

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
            self.body = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            q, k, v = self.q(x), self.k(x), self.v(x)
            mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
            return self.head(self.body(mixed))

    record, structure = probe(Attention(), torch.randn(4, 5, 6))
    assert labels(record)[0][-3:] == ["body.0", "body.1", "body.2"]
    assert structure.role("q") is Role.BRANCH


@pytest.mark.parametrize("reentrant", [True, False])
def test_an_opaque_graph_is_said_to_be_one(reentrant):
    """Reentrant checkpointing hides blocks; the other kind hides nothing."""
    from torch.utils.checkpoint import checkpoint

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(6, 6)
            self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return self.head(x)

    record, structure = probe(Model(), torch.randn(5, 6))
    assert structure.known is not reentrant
    assert ("CheckpointFunction" in structure.reason) is reentrant
    assert all(chain.structure_known is not reentrant for chain in record.chains)
    assert {r.layer for r in record.layers if r.grad_norm} >= {"stem", "blocks.3"}


def test_frozen_and_unused_layers_have_a_role():
    """A frozen prefix has no gradient; a layer never called is unused."""
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6)))
    used = nn.Sequential(*model)
    model.unused = nn.Linear(6, 6)
    model.forward = used.forward
    model[0].requires_grad_(False)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad])
    with gradwatch.watch(model, console=None, every=1) as watch:
        model(torch.randn(5, 6)).square().mean().backward()
        optimizer.step()
    record = watch.history.first_probe
    coverage = {name: state.value for name, state in record.coverage}
    assert coverage["0"] == "no-gradient"
    assert coverage["unused"] == "not-seen"
    assert coverage["1"] == "observed"
    assert watch.structure.role("unused") is Role.UNUSED
