"""Treated models compute, forward and backward, exactly what hand-written ones do."""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch.anatomy import ActivationSite
from gradwatch.errors import TreatmentError, TreatmentWarning
from gradwatch.rewiring import unanswered
from gradwatch.treatment import ModelEditor
from tests.treated_models import WIDTH, Functions, SharedModule

ROWS = (5, WIDTH)


class Net(nn.Module):
    """Two layers with whatever stands between layer and activation."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 2)
        self.norm = nn.LayerNorm(WIDTH)
        self.act = nn.Sigmoid()
        self.between = between

    def forward(self, rows):
        """Return the logits."""
        hidden = self.between(self, self.first, rows)
        return self.head(self.between(self, self.second, hidden))


#: Ways to write `sigmoid(layer(x))`, and what comes before the sigmoid.
WAYS = {
    "torch.sigmoid": lambda net, layer, x: torch.sigmoid(layer(x)),
    "Tensor.sigmoid": lambda net, layer, x: layer(x).sigmoid(),
    "F.sigmoid": lambda net, layer, x: functional.sigmoid(layer(x)),
    "keyword": lambda net, layer, x: torch.sigmoid(input=layer(input=x)),
    "in place": lambda net, layer, x: layer(x).sigmoid_(),
    "torch in place": lambda net, layer, x: torch.sigmoid_(layer(x)),
    "module": lambda net, layer, x: net.act(layer(x)),
    "view": lambda net, layer, x: torch.sigmoid(layer(x).view(-1).unsqueeze(0)).view(
        x.shape
    ),
    "dropout": lambda net, layer, x: torch.sigmoid(
        functional.dropout(layer(x), 0.0, net.training)
    ),
    "parts": lambda net, layer, x: torch.cat(
        [torch.sigmoid(torch.cat(layer(x).chunk(2, -1), -1))], 0
    ),
    "aten": lambda net, layer, x: torch.ops.aten.sigmoid(layer(x)),
}


def with_norm(net, layer, x):
    """A norm of the user's own before the sigmoid."""
    return torch.sigmoid(net.norm(layer(x)))


def edited(model, edit, layers=("first", "second"), module=None):
    """Return the model after the same edit of several layers."""
    editor = ModelEditor(model)
    for layer in layers:
        shared = tuple(name for name in layers if name != layer) if module else ()
        edit(editor, ActivationSite(layer, "sigmoid", module, shared))
    return editor.finish(())


def same(model, reference, parameters=None):
    """Compare outputs and all gradients, bit by bit."""
    rows = torch.randn(ROWS, requires_grad=True)
    mine, theirs = model(rows), reference(rows)
    assert type(mine) is torch.Tensor
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    owned = [rows, *model.parameters()]
    cotangent = torch.randn_like(mine)
    grads = torch.autograd.grad(mine, owned, cotangent, allow_unused=True)
    wanted = torch.autograd.grad(theirs, owned, cotangent, allow_unused=True)
    for one, other in zip(grads, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def raw(layer, x):
    """Return the layer's own product, without what was hung on it."""
    return functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("way", WAYS)
def test_a_swapped_function_is_found_however_it_is_written(way):
    """The reference calls the new activation by hand."""
    module = "act" if way == "module" else None
    model = edited(
        Net(WAYS[way]), lambda e, site: e.swap_activation(site, nn.GELU), module=module
    )

    def reference(x):
        for layer in (model.first, model.second):
            x = functional.gelu(raw(layer, x))
        return model.head(x)

    same(model, reference)
    assert unanswered(model) == ()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "view"])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_a_shortcut_adds_the_untouched_input(way, learned):
    """The layer computes y = x + s * sigmoid(W norm(x))."""
    module = "act" if way == "module" else None

    def edit(editor, site):
        norm = nn.LayerNorm(WIDTH)
        editor.add_residual(site.layer, site, 0.3, learned=learned, pre_norm=norm)

    model = edited(Net(WAYS[way]), edit, module=module)

    def reference(x):
        for layer in (model.first, model.second):
            graft = layer.gradwatch
            scale = graft.scale if learned else 0.3
            x = x + scale * torch.sigmoid(raw(layer, graft.pre_norm(x)))
        return model.head(x)

    same(model, reference)


def test_all_edits_of_one_layer_work_together():
    """The layer computes y = x + s * relu(norm(bn(W norm(x))))."""

    def edit(editor, site):
        editor.swap_activation(site, nn.ReLU)
        editor.add_norm(site.layer, nn.BatchNorm1d(WIDTH), site)
        editor.add_residual(site.layer, site, 0.5, pre_norm=nn.LayerNorm(WIDTH))
        editor.insert_before(site.layer, nn.Softsign())

    model = edited(Net(with_norm), edit)

    def reference(x):
        for layer in (model.first, model.second):
            graft = layer.gradwatch
            x = functional.softsign(x)
            inner = graft.after[0](raw(layer, graft.pre_norm(x)))
            x = x + 0.5 * torch.relu(model.norm(inner))
        return model.head(x)

    model.eval()  # batch statistics would move between the two
    same(model, reference)


@pytest.mark.parametrize("order", [0, 1], ids=["norm first", "swap first"])
def test_the_order_of_edits_does_not_matter(order):
    """Both ways the same function."""
    torch.manual_seed(0)
    base = Net(WAYS["torch.sigmoid"])
    edits = [
        lambda e, s: e.add_norm(s.layer, nn.LayerNorm(WIDTH), s),
        lambda e, s: e.swap_activation(s, nn.Tanh),
        lambda e, s: e.add_residual(s.layer, s, 0.5),
    ]

    def edit(editor, site):
        for one in edits if order else edits[::-1]:
            one(editor, site)

    model = edited(base, edit)

    def reference(x):
        for layer in (model.first, model.second):
            x = x + 0.5 * torch.tanh(layer.gradwatch.after[0](raw(layer, x)))
        return model.head(x)

    same(model, reference)


def test_gradients_are_right_by_finite_differences():
    """`gradcheck` in float64, in the input and through every kind of edit."""

    def edit(editor, site):
        editor.swap_activation(site, nn.Tanh)
        norm = nn.LayerNorm(WIDTH)
        editor.add_residual(site.layer, site, 0.5, learned=True, pre_norm=norm)
        editor.add_norm(site.layer, nn.LayerNorm(WIDTH), site)

    model = edited(Net(WAYS["in place"]).double(), edit)
    rows = torch.randn(ROWS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, rows)


def test_the_activation_of_another_layer_is_not_taken():
    """A gate runs between the layer and its sigmoid, on other data."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, rows):
            value = self.value(rows)
            gate = torch.sigmoid(self.gate(rows))
            return gate * torch.sigmoid(value)

    editor = ModelEditor(Gated())
    editor.swap_activation(ActivationSite("value", "sigmoid"), nn.ReLU)
    model = editor.finish(())

    def reference(x):
        gate = torch.sigmoid(model.gate(x))
        return gate * torch.relu(raw(model.value, x))

    same(model, reference)


def test_two_calls_before_their_activations_keep_their_own_inputs():
    """A siamese layer whose outputs are activated in the other order."""

    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, rows):
            left, right = self.layer(rows), self.layer(-rows)
            right, left = torch.sigmoid(right), torch.sigmoid(left)
            return torch.cat([left, right], -1)

    editor = ModelEditor(Siamese())
    editor.add_residual("layer", ActivationSite("layer", "sigmoid"), 0.5)
    model = editor.finish(())

    def reference(x):
        left, right = (s + 0.5 * torch.sigmoid(raw(model.layer, s)) for s in (x, -x))
        return torch.cat([left, right], -1)

    same(model, reference)


def test_a_mark_ends_at_the_next_weights():
    """A linear layer without an activation does not take the next layer's."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, rows):
            return torch.sigmoid(self.second(self.first(rows)))

    editor = ModelEditor(Plain())
    editor.swap_activation(ActivationSite("first", "sigmoid"), nn.ReLU)
    model, rows = editor.finish(()), torch.randn(ROWS)
    with pytest.warns(
        TreatmentWarning, match="did not find the activation after first"
    ):
        output = model(rows)
    assert torch.equal(output, torch.sigmoid(model.second(raw(model.first, rows))))
    assert unanswered(model) == ("first",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(rows)  # it is said once


def test_no_mark_leaves_the_model():
    """A hidden output that is also returned is a plain tensor outside."""

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, rows):
            logits = self.layer(rows)
            return {"logits": logits, "p": [torch.sigmoid(logits), (logits, 3)]}

    editor = ModelEditor(Logits())
    editor.swap_activation(ActivationSite("layer", "sigmoid"), nn.ReLU)
    output = editor.finish(())(torch.randn(ROWS))
    found = [output["logits"], output["p"][0], output["p"][1][0]]
    assert {type(tensor) for tensor in found} == {torch.Tensor}


def test_a_method_that_is_not_forward_is_treated_too():
    """`encode()` of the root, and a submodule called by itself."""

    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Functions(depth=1)

        def encode(self, rows):
            return torch.sigmoid(self.inner.layers[0](rows))

    editor = ModelEditor(Coder())
    editor.swap_activation(ActivationSite("inner.layers.0", "sigmoid"), nn.ReLU)
    model, rows = editor.finish(()), torch.randn(ROWS)
    wanted = torch.relu(raw(model.inner.layers[0], rows))
    assert torch.equal(model.encode(rows), wanted)
    assert torch.equal(model.inner(rows), model.inner.head(wanted))


def test_an_error_in_forward_leaves_nothing_behind():
    """The next call knows nothing of the one that failed."""

    class Fails(Functions):
        def forward(self, signal):
            hidden = self.layers[0](signal)
            if signal.shape[0] == 1:
                raise KeyError("user's")
            return self.head(torch.sigmoid(hidden))

    editor = ModelEditor(Fails())
    editor.add_residual("layers.0", ActivationSite("layers.0", "sigmoid"), 0.5)
    model = editor.finish(())
    with pytest.raises(KeyError):
        model(torch.randn(1, WIDTH))

    def reference(x):
        return model.head(x + 0.5 * torch.sigmoid(raw(model.layers[0], x)))

    same(model, reference)


def test_shapes_that_do_not_add_up_are_named():
    """The first forward says which layer, and both shapes."""
    editor = ModelEditor(nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    editor.add_residual("0", ActivationSite("0", "tanh", "1"), 0.5)
    with pytest.raises(TreatmentError, match=r"around `0` .*\[2, 4\].*\[2, 3\]"):
        editor.finish(())(torch.randn(2, 4))


def test_an_input_that_was_overwritten_is_not_added_silently():
    """Only without gradients would torch itself not complain."""

    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, rows):
            rows = rows + 0
            hidden = self.layer(rows)
            rows.zero_()
            return torch.sigmoid(hidden)

    editor = ModelEditor(Overwrites())
    editor.add_residual("layer", ActivationSite("layer", "sigmoid"), 0.5)
    model = editor.finish(())
    with torch.no_grad(), pytest.raises(TreatmentError, match="changed in place"):
        model(torch.randn(ROWS))


def residual_functions():
    """Return a treated model with functional activations, and its reference."""
    editor = ModelEditor(Functions())
    for i in range(3):
        site = ActivationSite(f"layers.{i}", "sigmoid")
        editor.swap_activation(site, nn.Tanh)
        editor.add_residual(site.layer, site, 0.5, pre_norm=nn.LayerNorm(WIDTH))
    model = editor.finish(())

    def reference(x):
        for layer in model.layers:
            x = x + 0.5 * torch.tanh(raw(layer, layer.gradwatch.pre_norm(x)))
        return model.head(x)

    return model, reference


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients(mode):
    """Inference tensors have no version to compare."""
    model, reference = residual_functions()
    rows = torch.randn(ROWS)
    with mode():
        assert torch.equal(model(rows), reference(rows))


def test_it_works_under_autocast():
    """The sum promotes as the user's own code would."""
    model, reference = residual_functions()
    rows = torch.randn(ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = model(rows), reference(rows)
    assert mine.dtype == theirs.dtype
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_works_under_checkpointing(reentrant):
    """Also where the recomputed part is a function and no module."""
    model, _ = residual_functions()
    rows = torch.randn(ROWS, requires_grad=True)
    layer = model.layers[0]
    out = checkpoint(lambda x: torch.sigmoid(layer(x)), rows, use_reentrant=reentrant)
    out.sum().backward()
    wanted = rows + 0.5 * torch.tanh(raw(layer, layer.gradwatch.pre_norm(rows)))
    assert torch.equal(out, wanted)
    assert torch.equal(rows.grad, torch.autograd.grad(wanted.sum(), rows)[0])


def test_it_works_in_threads():
    """Each thread's calls are its own."""
    model, reference = residual_functions()
    batches = [torch.randn(ROWS) for _ in range(8)]
    outputs = [None] * 8

    def run(place):
        with torch.no_grad():
            for _ in range(20):
                outputs[place] = model(batches[place])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        torch.equal(out, reference(rows))
        for out, rows in zip(outputs, batches, strict=True)
    )


def test_it_works_under_functorch():
    """`vmap`, and `grad` of `functional_call`."""
    model, reference = residual_functions()
    rows = torch.randn(ROWS)
    each = torch.func.vmap(lambda row: model(row[None])[0])(rows)
    torch.testing.assert_close(each, reference(rows))
    parameters = dict(model.named_parameters())

    def loss(values):
        return torch.func.functional_call(model, values, (rows,)).sum()

    grads = torch.func.grad(loss)(parameters)
    wanted = torch.autograd.grad(reference(rows).sum(), list(parameters.values()))
    for mine, theirs in zip(grads.values(), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", ["functions", "modules"])
def test_it_compiles_without_a_graph_break(kind):
    """`fullgraph=True` raises at the first break."""
    if kind == "functions":
        model, _ = residual_functions()
    else:
        model = edited(
            SharedModule(),
            lambda e, s: e.add_residual(s.layer, s, 0.5, learned=True),
            module="act",
        )
    rows = torch.randn(ROWS)
    wanted = model(rows)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(rows), wanted)
    compiled(rows).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_torchs_fused_inference_path_does_not_bypass_a_treatment():
    """An encoder in evaluation, without gradients and with padding."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    editor = ModelEditor(model)
    site = ActivationSite("layers.0.linear1", "relu")
    editor.swap_activation(site, nn.Tanh)
    editor.add_norm("layers.1.linear1", nn.LayerNorm(8), None)
    treated = editor.finish(()).eval()
    batch = torch.randn(3, 4, WIDTH)
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[:, 3] = True
    for given in ({}, {"src_key_padding_mask": padding}):
        with torch.no_grad():
            fused = treated(batch, **given)
        slow = treated(batch.requires_grad_(), **given).detach()
        batch = batch.detach()
        real = slice(0, 3)  # what torch returns for padding is not defined
        torch.testing.assert_close(fused[:, real], slow[:, real])


def test_gradwatch_measures_a_treated_model_as_the_same_one_written_by_hand():
    """D of both, with norms and with shortcuts, agrees."""

    class Native(nn.Module):
        def __init__(self, base, norms, scale):
            super().__init__()
            self.base, self.norms, self.scale = base, norms, scale

        def forward(self, x):
            for layer, norm in zip(self.base.layers, self.norms, strict=True):
                inner = torch.sigmoid(norm(layer(x)))
                x = x + self.scale * inner if self.scale else inner
            return self.base.head(x)

    def decades(model):
        torch.manual_seed(1)
        rows, labels = torch.randn(32, WIDTH), torch.randint(0, 2, (32,))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
        with gradwatch.watch(model, console=None) as watch:
            for _ in range(2):
                optimizer.zero_grad()
                functional.cross_entropy(model(rows), labels).backward()
                optimizer.step()
        return [chain.decades() for chain in watch.history.latest.chains]

    for scale in (0.0, 0.5):
        torch.manual_seed(0)
        base = Functions(depth=6)
        editor = ModelEditor(base)
        for i in range(6):
            site = ActivationSite(f"layers.{i}", "sigmoid")
            editor.add_norm(site.layer, nn.LayerNorm(WIDTH), site)
            if scale:
                editor.add_residual(site.layer, site, scale)
        norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(6))
        mine, theirs = decades(editor.finish(())), decades(Native(base, norms, scale))
        assert len(mine) == len(theirs) == 1
        assert mine[0] == pytest.approx(theirs[0], abs=1e-3)


def test_a_treated_model_says_what_it_computes():
    """`print(model)` shows the formula on each layer."""
    model, _ = residual_functions()
    text = repr(model)
    assert "y = x + 0.5 * activation(layer(norm(x)))" in text
    assert "(activation): Tanh()" in text


def test_nothing_of_a_mark_is_kept():
    """Neither the layers nor the model hold a tensor of the forward."""
    import gc
    import weakref

    model, _ = residual_functions()
    rows = torch.randn(ROWS)
    hidden = []
    model.layers[1].register_forward_hook(
        lambda module, args, output: hidden.append(weakref.ref(output))
    )
    seen = weakref.ref(rows)
    output = model(rows)
    del rows, output
    gc.collect()
    assert seen() is None
    assert hidden[0]() is None
