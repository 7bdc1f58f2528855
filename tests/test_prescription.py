"""Recommendations applied: to a copy of the model, and to a new optimizer for it."""

import inspect
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import gradwatch
from gradwatch.anatomy import ActivationSite
from gradwatch.errors import ModelError, SettingsError, TreatmentError
from gradwatch.recommendations import Recommendation, Risk
from tests.treated_models import WIDTH, Functions, zoo

SITES = tuple(ActivationSite(f"layers.{i}", "sigmoid") for i in range(3))


def recommendation(remedy, **fields):
    """Return a recommendation for the layers of `Functions`."""
    base = Recommendation(
        remedy,
        "title",
        ("GW101",),
        tuple(site.layer for site in SITES),
        "why",
        "x = torch.relu(layer(x))",
        Risk.RESHAPES,
        sites=SITES,
    )
    return replace(base, **fields)


SWAP = recommendation("swap-activation", options={"to": "relu", "init": "he"})
NORM = recommendation("add-normalisation", options={"norm": "layer"})
LEARNED = recommendation("add-residual", options={"variant": "learned", "scale": 0.5})
CLIP = recommendation("clip-gradients", options={"max_norm": 0.1})


# -- treat ----------------------------------------------------------------------------


def test_one_recommendation_gives_a_treated_copy_with_its_book():
    """Both swap and weights are in it, and the original has neither."""
    model = Functions()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    treated = gradwatch.treat(model, SWAP)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert getattr(model, "gradwatch_treatment", None) is None
    book = gradwatch.treatment_of(treated)
    assert book.remedies == ("swap-activation",)
    lines = book.diff().splitlines()
    assert lines[0] == "layers.0 ... layers.2 (3): activation sigmoid() -> ReLU"
    rows = torch.randn(4, WIDTH)
    hidden = rows
    for layer in treated.layers:
        hidden = torch.relu(nn.functional.linear(hidden, layer.weight, layer.bias))
    assert torch.equal(treated(rows), treated.head(hidden))


def test_the_same_random_state_draws_the_same_weights():
    """A treatment is reproducible without spending the user's random numbers."""
    torch.manual_seed(0)
    model = Functions()
    one, other = gradwatch.treat(model, SWAP), gradwatch.treat(model, SWAP)
    assert torch.equal(one.layers[0].weight, other.layers[0].weight)
    torch.manual_seed(1)
    third = gradwatch.treat(model, SWAP)
    assert not torch.equal(one.layers[0].weight, third.layers[0].weight)


def test_several_are_applied_in_order_and_treatments_add_up():
    """Together, and one after the other."""
    model = Functions()
    together = gradwatch.treat(model, [SWAP, NORM])
    apart = gradwatch.treat(gradwatch.treat(model, SWAP), NORM)
    for treated in (together, apart):
        book = gradwatch.treatment_of(treated)
        assert book.remedies == ("swap-activation", "add-normalisation")
        assert {c.what for c in book.changes} == {
            "activation", "weight", "bias", "norm",
        }  # fmt: skip
    assert set(together.state_dict()) == set(apart.state_dict())


def test_what_changes_only_the_training_leaves_the_copy_as_it_is():
    """Clipping is no matter of the model."""
    model = Functions()
    treated = gradwatch.treat(model, CLIP)
    rows = torch.randn(3, WIDTH)
    assert torch.equal(treated(rows), model(rows))
    assert gradwatch.treatment_of(treated).changes == ()


@pytest.mark.parametrize(
    "fields", [{"can_apply": False}, {"risk": Risk.ADVICE}], ids=["cannot", "advice"]
)
def test_advice_is_refused_with_the_lines_and_their_place(fields):
    """The user sees what to write, and where."""
    advice = replace(SWAP, where="net.py:12", **fields)
    with pytest.raises(TreatmentError, match=r"at net.py:12:\nx = torch.relu"):
        gradwatch.treat(Functions(), advice)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (replace(SWAP, remedy="pray"), r"`remedy` \(='pray'\)"),
        ("swap-activation", r"`recommendation` \(=str\)"),
        (None, r"`recommendation` \(=NoneType\)"),
    ],
    ids=["remedy", "text", "none"],
)
def test_what_is_no_recommendation_is_named(given, message):
    """At once, before anything is copied."""
    with pytest.raises(TreatmentError, match=message):
        gradwatch.treat(Functions(), given)


def test_a_recommendation_for_another_model_names_the_missing_layer():
    """With the model's class."""
    with pytest.raises(TreatmentError, match=r"`Sequential` has no module `layers.0`"):
        gradwatch.treat(nn.Sequential(nn.Linear(2, 2)), SWAP)
    with pytest.raises(ModelError, match=r"`model` \(=int\) must be an"):
        gradwatch.treat(3, SWAP)


def test_a_model_that_was_not_treated_has_no_treatment():
    """It is said, and not an empty one returned."""
    with pytest.raises(TreatmentError, match=r"was not returned by `gradwatch.treat`"):
        gradwatch.treatment_of(Functions())


# -- treat_optimizer: groups ----------------------------------------------------------


def owners(optimizer, model):
    """Return the names of the parameters of each group."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def split(model):
    """Return AdamW with decay on matrices only, and a slower head."""
    matrices = [p for p in model.layers.parameters() if p.dim() > 1]
    vectors = [p for p in model.layers.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1, "name": "matrices"},
            {"params": vectors, "weight_decay": 0.0},
            {"params": list(model.head.parameters()), "lr": 1e-4},
        ],
        lr=1e-3,
        betas=(0.8, 0.9),
    )


def test_groups_and_options_are_kept_and_new_parameters_find_theirs():
    """Norms and scales go where the biases of their layer are: without decay."""
    model = Functions()
    treated = gradwatch.treat(model, [NORM, LEARNED])
    optimizer = split(model)
    state = optimizer.state_dict()
    new = gradwatch.treat_optimizer(
        optimizer, [NORM, LEARNED], model=model, treated=treated
    )
    assert optimizer.state_dict() == state
    assert type(new) is torch.optim.AdamW
    assert [g["weight_decay"] for g in new.param_groups] == [0.1, 0.0, 0.01]
    assert [g["lr"] for g in new.param_groups] == [1e-3, 1e-3, 1e-4]
    assert {g["betas"] for g in new.param_groups} == {(0.8, 0.9)}
    assert new.param_groups[0]["name"] == "matrices"
    matrices, vectors, head = owners(new, treated)
    assert matrices == {f"layers.{i}.weight" for i in range(3)}
    assert head == {"head.weight", "head.bias"}
    added = {
        f"layers.{i}.gradwatch.{name}"
        for i in range(3)
        for name in ("scale", "after.0.weight", "after.0.bias")
    }
    assert vectors == added | {f"layers.{i}.bias" for i in range(3)}
    assert not new.state


def test_one_group_takes_all():
    """And nothing twice."""
    model = Functions()
    treated = gradwatch.treat(model, NORM)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    new = gradwatch.treat_optimizer(optimizer, NORM, model=model, treated=treated)
    assert owners(new, treated) == [{name for name, _ in treated.named_parameters()}]
    assert new.param_groups[0]["momentum"] == 0.9


def test_each_of_two_optimizers_gets_the_new_parameters_of_its_own_layers():
    """The head's optimizer owns no norm of the layers."""
    model = Functions()
    treated = gradwatch.treat(model, NORM)
    body = torch.optim.SGD(model.layers.parameters(), lr=0.1)
    head = torch.optim.Adam(model.head.parameters())
    options = {"model": model, "treated": treated}
    (mine,) = owners(gradwatch.treat_optimizer(body, NORM, **options), treated)
    (its,) = owners(gradwatch.treat_optimizer(head, NORM, **options), treated)
    assert its == {"head.weight", "head.bias"}
    assert mine == {n for n, _ in treated.named_parameters()} - its


def test_what_the_user_left_out_stays_out():
    """Frozen by not being in the optimizer; its norm too."""
    model = Functions()
    treated = gradwatch.treat(model, NORM)
    optimizer = torch.optim.SGD(
        [*model.layers[1:].parameters(), *model.head.parameters()], lr=0.1
    )
    new = gradwatch.treat_optimizer(optimizer, NORM, model=model, treated=treated)
    assert not any(name.startswith("layers.0") for name in owners(new, treated)[0])


def test_tied_weights_are_owned_once():
    """One tensor of two layers."""
    item = zoo("tied")
    swap = replace(SWAP, layers=("first",), sites=item.sites)
    treated = gradwatch.treat(item.model, swap)
    optimizer = torch.optim.SGD(item.model.parameters(), lr=0.1)
    new = gradwatch.treat_optimizer(optimizer, swap, model=item.model, treated=treated)
    assert len(new.param_groups[0]["params"]) == len(list(treated.parameters()))


OPTIMIZERS = [
    kind
    for kind in vars(torch.optim).values()
    if inspect.isclass(kind)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
]


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_every_optimizer_of_torch_is_rebuilt_and_steps(kind):
    """With the same options, over the copy's parameters, the original untouched."""
    model = Functions()
    treated = gradwatch.treat(model, CLIP)
    if kind.__name__ == "Muon":  # made for matrices only
        matrices = [p for p in model.parameters() if p.dim() == 2]
        optimizer = kind(matrices, lr=0.05)
    else:
        optimizer = kind(model.parameters(), lr=0.05)
    new = gradwatch.treat_optimizer(optimizer, CLIP, model=model, treated=treated)
    assert type(new) is kind
    assert new.param_groups[0]["lr"] == 0.05
    before = [p.detach().clone() for p in treated.parameters()]
    mine = [p.detach().clone() for p in model.parameters()]

    def closure():
        new.zero_grad()
        loss = treated(torch.ones(3, WIDTH)).pow(2).sum()
        loss.backward()
        for p in treated.parameters():
            if kind.__name__ == "SparseAdam":
                p.grad = p.grad.to_sparse()
        return loss

    if kind.__name__ == "SparseAdam":
        new = kind(treated.parameters(), lr=0.05)  # sparse norms cannot be clipped
    new.step(closure)
    assert any(
        not torch.equal(p, q) for p, q in zip(treated.parameters(), before, strict=True)
    )
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), mine, strict=True))


def test_an_optimizer_that_cannot_be_rebuilt_says_so():
    """One that wraps another, and one that owns something else."""

    class Wrapper(torch.optim.SGD):
        def __init__(self, inner, *, secret):
            super().__init__(inner.param_groups, lr=0.1)

    model = Functions()
    treated = gradwatch.treat(model, NORM)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SettingsError, match=r"Wrapper.*cannot be built again"):
        gradwatch.treat_optimizer(
            Wrapper(inner, secret=1), NORM, model=model, treated=treated
        )
    other = torch.optim.SGD(Functions().parameters(), lr=0.1)
    with pytest.raises(SettingsError, match="owns no parameter of the model"):
        gradwatch.treat_optimizer(other, NORM, model=model, treated=treated)
    temperature = nn.Parameter(torch.ones(7))
    both = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    with pytest.raises(TreatmentError, match=r"1 parameters .* shape \[7\]"):
        gradwatch.treat_optimizer(both, NORM, model=model, treated=treated)


def test_a_changed_optimizer_keeps_groups_and_their_ratios():
    """SGD for Adam: the head learns at a tenth, and decay stays where it was."""
    model = Functions()
    change = recommendation("change-optimizer", options={"to": "Adam", "lr": 1e-3})
    optimizer = torch.optim.SGD(
        [
            {"params": model.layers.parameters(), "weight_decay": 0.1},
            {"params": model.head.parameters(), "lr": 0.05},
        ],
        lr=0.5,
    )
    treated = gradwatch.treat(model, change)
    new = gradwatch.treat_optimizer(optimizer, change, model=model, treated=treated)
    assert type(new) is torch.optim.Adam
    assert [g["lr"] for g in new.param_groups] == pytest.approx([1e-3, 1e-4])
    assert [g["weight_decay"] for g in new.param_groups] == [0.1, 0.0]


def test_rate_and_epsilon_are_changed_and_a_new_schedule_begins_there():
    """Where a schedule had lowered the rate, the rate it began with counts."""
    model = Functions()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    rate = recommendation("adjust-learning-rate", options={"factor": 0.1})
    eps = recommendation("change-optimizer", options={"eps": 1e-6})
    new = gradwatch.treat_optimizer(
        optimizer, [rate, eps], model=model, treated=gradwatch.treat(model, [])
    )
    assert new.param_groups[0]["lr"] == pytest.approx(0.01)
    assert new.param_groups[0]["eps"] == 1e-6
    assert lr_scheduler.StepLR(new, 1, 0.5).base_lrs == pytest.approx([0.01])


def test_a_treated_pair_trains_better_than_the_sick_one():
    """15 sigmoid layers do not learn in 200 steps; the treated copy does."""
    torch.manual_seed(0)
    model = Functions(depth=15)
    rows = torch.randn(64, WIDTH)
    labels = (rows.sum(1) > 0).long()
    with gradwatch.watch(model, console=None) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(12):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows), labels).backward()
            optimizer.step()
    chosen = next(
        r for r in watch.report().recommendations if r.remedy == "swap-activation"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        treated = gradwatch.treat(model, chosen)
        new = gradwatch.treat_optimizer(optimizer, chosen, model=model, treated=treated)
        losses = {}
        for name, net, steps in (("sick", model, optimizer), ("treated", treated, new)):
            for _ in range(200):
                steps.zero_grad()
                loss = nn.functional.cross_entropy(net(rows), labels)
                loss.backward()
                steps.step()
            losses[name] = float(loss.detach())
    assert losses["sick"] > 0.6
    assert losses["treated"] < 0.3
