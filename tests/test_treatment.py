"""Every primitive edit on every kind of model: the original stays as it is."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from gradwatch.anatomy import ActivationSite
from gradwatch.errors import ModelError, TreatmentError
from gradwatch.treatment import BOOK, ModelEditor
from tests.treated_models import NAMES, WIDTH, Functions, SharedModule, zoo

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"
)


def swap(editor, site, norm):
    """Exchange the activation."""
    editor.swap_activation(site, nn.LeakyReLU)


def add_norm(editor, site, norm):
    """Put a norm before it."""
    editor.add_norm(site.layer, norm(_width(editor, site)), site)


def add_residual(editor, site, norm):
    """Add a shortcut, where the shape allows."""
    editor.add_residual(site.layer, site, 0.5)


def add_learned(editor, site, norm):
    """Add a shortcut whose scale is learned, with a norm on the branch."""
    pre_norm = norm(_width(editor, site))
    editor.add_residual(site.layer, site, 0.5, learned=True, pre_norm=pre_norm)


def fill(editor, site, norm):
    """Draw the weight anew."""
    editor.fill(site.layer, "weight", nn.init.kaiming_normal_, "He")


def insert(editor, site, norm):
    """Pass input and output through modules."""
    editor.insert_before(site.layer, nn.Tanh())
    editor.insert_after(site.layer, norm(_width(editor, site)))


def _width(editor, site):
    module = editor.module(site.layer)
    return module.out_channels if isinstance(module, nn.Conv2d) else WIDTH


EDITS = {
    edit.__name__: edit
    for edit in (swap, add_norm, add_residual, add_learned, fill, insert)
}


def treated(item, edit):
    """Return the edited copy of a zoo's item."""
    editor = ModelEditor(item.model)
    with torch.random.fork_rng():
        for site in item.sites:
            edit(editor, site, item.norm)
    return editor.finish((edit.__name__,))


def state_of(model):
    """Return all that a treatment must leave as it was."""
    tensors = {
        name: tensor.detach().clone()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    grads = {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }
    hooks = [
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]
    flags = [module.training for module in model.modules()]
    return {**tensors, **{f"{n}.grad": g for n, g in grads.items()}}, hooks, flags


def skips(name, edit):
    """Whether an edit makes no sense there: linear1 of an encoder changes the width."""
    return edit.__name__.startswith(("add_residual", "add_learned")) and "enc" in name


CASES = [
    pytest.param(name, edit, id=f"{name}-{key}")
    for name in NAMES
    for key, edit in EDITS.items()
    if not skips(name, edit)
]


@pytest.fixture
def item(request):
    """A fresh item of the zoo, with gradients and some history."""
    item = zoo(request.getfixturevalue("name"))
    item.model(item.batch).float().pow(2).sum().backward()
    return item


@pytest.mark.parametrize(("name", "edit"), CASES)
def test_the_original_stays_and_the_copy_is_trained_saved_and_copied(name, edit, item):
    """One life of a treated model: all that a user does with it."""
    before, hooks, flags = state_of(item.model)
    rng = torch.get_rng_state()
    changed = treated(item, edit)
    book = getattr(changed, BOOK)

    # The original.
    after, hooks_after, flags_after = state_of(item.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (hooks, flags) == (hooks_after, flags_after)
    assert torch.equal(rng, torch.get_rng_state())

    # The copy has its device, dtype, mode and names, and says what was changed.
    assert all(p.grad is None for p in changed.parameters())
    assert {p.dtype for p in changed.parameters()} == {
        p.dtype for p in item.model.parameters()
    }
    assert {m.training for m in changed.modules()} == {item.model.training}
    assert set(item.model.state_dict()) <= set(changed.state_dict())
    assert {change.layer for change in book.changes} == {s.layer for s in item.sites}
    assert "->" in book.diff()

    # It computes something else.
    changed.eval(), item.model.eval()
    with torch.no_grad():
        output = changed(item.batch)
        assert not torch.equal(output, item.model(item.batch))
    assert type(output) is torch.Tensor

    # Its state fits a copy treated alike.
    twin = treated(item, edit).eval()
    twin.load_state_dict(changed.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(item.batch), output)

    # It is saved whole (torch cannot save parametrized modules), and copied.
    if name != "weight norm":
        file = io.BytesIO()
        torch.save(changed, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        with torch.no_grad():
            assert torch.equal(loaded(item.batch), output)
    if name != "old weight norm":  # torch itself cannot copy it after a forward
        other = copy.deepcopy(changed)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
            assert torch.equal(changed(item.batch), output)

    # It is trained.
    changed.train()
    trainable = [p for p in changed.parameters() if p.requires_grad]
    frozen = {n for n, p in changed.named_parameters() if not p.requires_grad}
    assert len(frozen) == 0 or name == "frozen"
    optimizer = torch.optim.SGD(trainable, lr=1e-2)
    start = [p.detach().clone() for p in trainable]
    for _ in range(5):
        optimizer.zero_grad()
        changed(item.batch).float().pow(2).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainable)
    moved = [not torch.equal(p, q) for p, q in zip(trainable, start, strict=True)]
    assert sum(moved) > len(moved) / 2  # biases before a batch norm stand still


@pytest.mark.parametrize("name", ["sequential", "functions", "images"])
def test_a_treated_model_is_treated_again(name):
    """The second treatment knows of the first, and both are in the book."""
    item = zoo(name)
    once = treated(item, add_norm)
    item.model = once
    twice = treated(item, swap)
    book = getattr(twice, BOOK)
    assert book.remedies == ("add_norm", "swap")
    assert {change.what for change in book.changes} == {"norm", "activation"}
    assert getattr(once, BOOK).remedies == ("add_norm",)
    assert not torch.equal(twice(item.batch), once(item.batch))


def test_an_exchanged_module_keeps_its_name_and_works_in_place():
    """No trace but the class."""
    editor = ModelEditor(zoo("images").model)
    site = ActivationSite("blocks.a.0", "relu", "blocks.a.2")
    editor.swap_activation(site, nn.LeakyReLU)
    new = editor.model.blocks["a"][2]
    assert isinstance(new, nn.LeakyReLU)
    assert new.inplace
    assert editor.changes[0].line() == (
        "blocks.a.0: activation ReLU(inplace=True) -> "
        "LeakyReLU(negative_slope=0.01, inplace=True)"
    )


def test_a_module_at_several_places_is_replaced_at_each():
    """An attribute, a list, a dict and a Sequential hold the same object."""

    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Sigmoid()
            self.items = nn.ModuleList([nn.Linear(2, 2), self.act])
            self.named = nn.ModuleDict({"act": self.act})
            self.chain = nn.Sequential(nn.Linear(2, 2), self.act)

    editor = ModelEditor(Places())
    editor.replace("named.act", nn.ReLU())
    model = editor.model
    assert isinstance(model.act, nn.ReLU)
    assert model.act is model.items[1] is model.named["act"] is model.chain[1]


def test_the_root_itself_is_replaced_and_grafted():
    """A model of one layer."""
    editor = ModelEditor(nn.Linear(3, 3))
    editor.add_residual("", None, 0.5)
    layer, rows = editor.model, torch.randn(2, 3)
    plain = nn.functional.linear(rows, layer.weight, layer.bias)
    assert torch.equal(layer(rows), rows + 0.5 * plain)
    editor.replace("", nn.Identity())
    assert editor.finish(()) is editor.model
    assert isinstance(editor.model, nn.Identity)


def test_a_shared_module_is_exchanged_for_the_named_layers_only():
    """The head keeps its sigmoid."""
    item = zoo("shared module")
    editor = ModelEditor(item.model)
    for site in item.sites:
        editor.swap_activation(site, nn.ReLU)
    model, rows = editor.model, item.batch
    hidden = torch.relu(model.second(torch.relu(model.first(rows))))
    with torch.no_grad():
        first = nn.functional.linear(rows, model.first.weight, model.first.bias)
        hidden = nn.functional.linear(
            torch.relu(first), model.second.weight, model.second.bias
        )
        wanted = torch.sigmoid(model.head(torch.relu(hidden)))
    assert torch.equal(model(rows), wanted)


def test_a_shared_module_is_exchanged_natively_once_all_its_layers_were():
    """No graft is left, and the place holds the new module."""
    editor = ModelEditor(SharedModule())
    names = ("first", "second", "head")
    for name in names:
        others = tuple(n for n in names if n != name)
        site = ActivationSite(name, "sigmoid", "act", others)
        editor.swap_activation(site, nn.ReLU)
    model = editor.finish(())
    assert not any("gradwatch" in name for name, _ in model.named_modules())
    rows = torch.randn(4, WIDTH)
    relu = torch.relu
    wanted = relu(model.head(relu(model.second(relu(model.first(rows))))))
    assert torch.equal(model(rows), wanted)


@pytest.mark.parametrize(
    "make",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight norm", "old weight norm", "pruned"],
)
def test_a_computed_weight_is_filled_through_what_computes_it(make):
    """The layer's next forward uses the values asked for."""
    layer = make(nn.Linear(4, 4, bias=False))
    layer(torch.randn(1, 4))
    editor = ModelEditor(nn.Sequential(layer))
    editor.fill(
        "0", "weight", lambda w: w.copy_(torch.arange(16.0).view(4, 4)), "range"
    )
    output = editor.model(torch.eye(4)).T
    wanted = torch.arange(16.0).view(4, 4)
    mask = getattr(layer, "weight_mask", torch.ones(4, 4))
    torch.testing.assert_close(output, wanted * mask)


@pytest.mark.parametrize(
    "make",
    [
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
    ids=["spectral norm", "old spectral norm", "orthogonal"],
)
def test_a_weight_that_cannot_be_set_is_refused_with_the_reason(make):
    """Spectral norm undoes every scale."""
    editor = ModelEditor(nn.Sequential(make(nn.Linear(4, 4))))
    with pytest.raises(
        TreatmentError, match=r"`0.weight` cannot be drawn anew: .* undoes the new"
    ):
        editor.fill("0", "weight", lambda w: w.fill_(3.0), "threes")


def test_tied_weights_stay_tied_and_change_together():
    """One tensor, two names."""
    item = zoo("tied")
    editor = ModelEditor(item.model)
    editor.fill("first", "weight", nn.init.zeros_, "zeros")
    assert editor.model.second.weight is editor.model.first.weight
    assert not editor.model.second.weight.any()
    assert editor.changes[0].after == "zeros"


def test_a_half_weight_is_drawn_in_float32():
    """`nn.init.orthogonal_` has no 16-bit version."""
    editor = ModelEditor(nn.Sequential(nn.Linear(8, 8)).half())
    editor.fill("0", "weight", nn.init.orthogonal_, "orthogonal")
    weight = editor.model[0].weight
    assert weight.dtype == torch.float16
    torch.testing.assert_close(
        (weight @ weight.T).float(), torch.eye(8), atol=5e-3, rtol=0
    )


def test_a_norm_moved_to_the_front_is_one_changed_attribute():
    """`norm_first` of an encoder, and the norm at its end."""
    item = zoo("encoder, function")
    editor = ModelEditor(item.model)
    for i in range(2):
        editor.set_attribute(f"layers.{i}", "norm_first", value=True)
    editor.insert_after("", nn.LayerNorm(WIDTH))
    model = editor.finish(("add-normalisation",))
    native = copy.deepcopy(item.model)
    for layer in native.layers:
        layer.norm_first = True
    wanted = nn.functional.layer_norm(native(item.batch), (WIDTH,))
    torch.testing.assert_close(model(item.batch), wanted)
    assert getattr(model, BOOK).diff().splitlines()[0] == (
        "layers.0, layers.1: norm_first False -> True"
    )


def test_the_hooks_of_the_user_stay_and_those_of_a_live_watch_do_not():
    """A watch of the original hears nothing of the copy."""
    import gradwatch

    model, seen = Functions(), []
    model.head.register_forward_hook(lambda *call: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, console=None):
        model(torch.randn(3, WIDTH)).sum().backward()
        editor = ModelEditor(model)
        optimizer.step()
    copied = editor.model
    assert len(copied.head._forward_hooks) == 1
    assert not copied.layers[0]._forward_hooks
    assert not copied._forward_pre_hooks
    seen.clear()
    copied(torch.randn(3, WIDTH))
    assert seen == [1]


def test_a_model_that_keeps_tensors_of_its_last_forward_is_copied():
    """`copy.deepcopy` refuses tensors with a history."""
    model = Functions()
    model.last = model(torch.randn(2, WIDTH))
    assert ModelEditor(model).model.last.grad_fn is None
    assert model.last.grad_fn is not None


def test_a_model_that_cannot_be_copied_says_so():
    """A lock is not to be copied."""
    import threading

    model = Functions()
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be copied.*deep-copyable"):
        ModelEditor(model)


def test_a_compiled_model_gives_an_uncompiled_copy():
    """Hooks on the wrapper would cost graph breaks."""
    model = Functions()
    compiled = torch.compile(model, backend="eager")
    assert type(ModelEditor(compiled).model) is Functions


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.module("layers.7"), "no module `layers.7`; did you mean `layers."),
        (lambda e: e.fill("head", "scale", nn.init.ones_, "ones"), "no tensor `scale`"),
        (lambda e: e.set_attribute("head", "norm_first", True), "no attribute"),
        (lambda e: e.insert_after("layers", nn.Tanh()), "never called by itself"),
        (
            lambda e: [e.add_residual("head", None, 1.0) for _ in range(2)],
            "has a shortcut already",
        ),
    ],
    ids=["module", "parameter", "attribute", "container", "twice"],
)
def test_what_cannot_be_edited_is_named(edit, message):
    """The message says which layer, and what to do."""
    with pytest.raises(TreatmentError, match=message):
        edit(ModelEditor(Functions()))


def test_the_output_projection_of_attention_takes_no_norm():
    """It is handed to a function and never called: a hook would not run."""
    editor = ModelEditor(nn.MultiheadAttention(4, 2))
    with pytest.raises(TreatmentError, match="never called by itself"):
        editor.add_norm("out_proj", nn.LayerNorm(4), None)
    editor.fill("out_proj", "weight", nn.init.zeros_, "zeros")


def test_a_lazy_or_scripted_layer_is_refused():
    """Neither has anything to edit yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules announce themselves
        lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(TreatmentError, match="a lazy one; run one batch"):
        ModelEditor(lazy).fill("0", "weight", nn.init.zeros_, "zeros")


def test_what_is_put_beside_a_frozen_layer_is_frozen():
    """A user who froze a layer did not ask for new weights in it to learn."""
    model = treated(zoo("frozen"), add_learned)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names == {"head.weight", "head.bias"}
