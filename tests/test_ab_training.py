"""A/B training: honest comparison, and nothing of the user's changes."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.ab_training import train_both
from gradwatch.optimizer_spec import read_spec, rebuild
from gradwatch.recipe import Recipe
from gradwatch.recommendations import Verdict
from tests.harmless import alike, global_hooks, hooks_on, state_of
from tests.trial_models import (
    MODELS,
    Noisy,
    Tied,
    batches,
    deep,
    deep_batches,
    loss_fn,
    recommend,
    use_remedies,
)


@pytest.fixture(autouse=True)
def _remedies(monkeypatch):
    use_remedies(monkeypatch)
    torch.manual_seed(0)


def adam(model, lr=1e-3):
    """Return an optimizer of a model."""
    return torch.optim.Adam(model.parameters(), lr=lr)


def test_a_cure_helps_and_a_treatment_that_does_nothing_changes_nothing():
    """The identity's curves are equal bit by bit; three treatments share a control."""
    net = deep()
    same, cure, broken = train_both(
        net,
        [[recommend("nothing")], [recommend("cure")], [recommend("broken")]],
        deep_batches(),
        loss_fn,
        adam(net),
        steps=60,
    )
    assert same.verdict is Verdict.NO_CHANGE
    assert same.losses_before == same.losses_after
    assert cure.verdict is Verdict.HELPED, cure.reason
    assert cure.losses_before == same.losses_before
    assert (cure.how, cure.steps) == ("training", 60)
    assert broken.verdict is Verdict.FAILED
    assert "cannot be done" in broken.reason


@pytest.mark.parametrize("make", MODELS)
def test_the_identity_gives_equal_curves_under_dropout(make):
    """Both copies draw the same random numbers at every step."""
    model = make()
    (result,) = train_both(
        model, [[recommend("nothing")]], batches(), loss_fn, adam(model), steps=15
    )
    assert result.losses_before == result.losses_after
    assert len(set(result.losses_before)) > 5


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_user_changes(make, training):
    """Model, optimizer and its state, gradients, batches, random states, hooks."""
    model = make().train(training)
    optimizer = adam(model)
    loss_fn(model, batches()[0]).backward()
    optimizer.step()
    data = batches()
    kept = [(x.clone(), y.clone()) for x, y in data]
    before = state_of(model, [optimizer])
    groups = [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]
    python, drawn = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    def spoiling(model, batch):
        random.random()
        np.random.rand()  # noqa: NPY002
        batch[0].mul_(0.9)
        return loss_fn(model, batch)

    (result,) = train_both(
        model, [[recommend("rate", factor=0.5)]], data, spoiling, optimizer, steps=12
    )
    assert result.verdict is not Verdict.FAILED, result.reason
    assert alike(before, state_of(model, [optimizer]))
    assert groups == [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]
    assert alike(kept, data)
    assert python == random.getstate()
    assert drawn == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert hooks_on(model) == []
    assert global_hooks() == []


def test_a_loss_that_runs_the_users_model_is_named_and_leaves_it_alone():
    """A closure over the wrong model would train nothing and fill its gradients."""
    model = Noisy()
    before = state_of(model)
    (result,) = train_both(
        model,
        [[recommend("nothing")]],
        batches(),
        lambda copy, batch: nn.functional.cross_entropy(
            model.head(batch[0] @ torch.ones(6, 16)), batch[1]
        ),
        adam(model),
    )
    assert result.verdict is Verdict.FAILED
    assert "not another one" in result.reason
    assert alike(before, state_of(model))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({"loss_fn": lambda m, b: 1 / 0}, "division", id="loss"),
        pytest.param({"loss_fn": lambda m, b: m(b[0])}, "scalar", id="no-scalar"),
        pytest.param({"batches": []}, "empty", id="no-batches"),
        pytest.param({"optimizer": lambda p: None}, "NoneType", id="no-optimizer"),
        pytest.param(
            {"optimizer": adam(nn.Linear(2, 2))}, "owns no parameter", id="foreign"
        ),
    ],
)
def test_what_cannot_run_fails_with_its_reason(arguments, expected):
    """An error of the user's code is a result; nothing leaks."""
    model = Noisy()
    before = state_of(model)
    given = {"batches": batches(), "loss_fn": loss_fn, "optimizer": adam(model)}
    given |= arguments
    (result,) = train_both(
        model, [[recommend("nothing")]], *(given[k] for k in given), steps=3
    )
    assert result.verdict is Verdict.FAILED
    assert expected in result.reason
    assert alike(before, state_of(model))
    assert global_hooks() == []


def test_a_rate_cannot_be_judged_from_ruined_weights_but_from_fresh_ones():
    """`fresh` gives the untrained model; without it the result says what is missing."""
    torch.manual_seed(0)
    ruined = deep(2, activation=nn.Tanh)
    with torch.no_grad():
        ruined[0].weight.fill_(float("nan"))
    optimizer = torch.optim.SGD(ruined.parameters(), lr=50.0)

    def run(**options):
        lower = recommend("rate", ("GW301",), factor=2e-3)
        data = deep_batches()
        return train_both(ruined, [[lower]], data, loss_fn, optimizer, **options)[0]

    assert "fresh" in run().reason
    result = run(fresh=lambda: deep(2, activation=nn.Tanh))
    assert result.verdict is Verdict.HELPED, result.reason


def test_the_time_limit_ends_all_copies_at_the_same_step():
    """Fewer steps than asked for, equally many of each."""
    net = deep()
    result = train_both(
        net,
        [[recommend("cure")]],
        deep_batches(),
        loss_fn,
        adam(net),
        steps=10**6,
        limit_s=0.3,
    )[0]
    assert 0 < result.steps < 10**6
    assert len(result.losses_before) == len(result.losses_after)
    assert result.seconds < 5


def test_an_unlike_loss_unit_gives_the_same_verdict():
    """Adam's steps do not depend on the loss's scale, so nothing else may."""
    net, verdicts = deep(), []
    for factor in (1e-3, 1.0, 1e3):
        results = train_both(
            net,
            [[recommend("nothing")], [recommend("cure")], [recommend("harm")]],
            deep_batches(),
            lambda m, b, factor=factor: factor * loss_fn(m, b),
            lambda params: torch.optim.Adam(params, lr=1e-3, eps=1e-20),
            steps=60,
        )
        verdicts.append([result.verdict for result in results])
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert verdicts[1][1] is Verdict.HELPED


def test_a_generator_of_batches_is_gone_through_again():
    """It cannot begin anew, so what it gave is kept."""
    net = Noisy()
    (result,) = train_both(
        net, [[recommend("nothing")]], iter(batches(3)), loss_fn, adam(net), steps=10
    )
    assert result.steps == 10


def test_progress_is_told_after_every_step():
    """Steps done and steps wanted."""
    net, told = Noisy(), []
    train_both(
        net,
        [[recommend("nothing")]],
        batches(),
        loss_fn,
        adam(net),
        steps=5,
        progress=lambda done, steps: told.append((done, steps)),
    )
    assert told == [(k, 5) for k in range(1, 6)]


def test_an_optimizer_is_rebuilt_with_its_groups():
    """Class, groups and options; no state; a scheduled rate begins anew."""
    model, copy = Tied(), Tied()
    optimizer = torch.optim.AdamW(
        [
            {"params": model.first.parameters(), "lr": 0.1},
            {"params": model.head.parameters(), "lr": 0.2, "weight_decay": 0.5},
        ]
    )
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.01)
    new = rebuild(optimizer, model, copy, Recipe(lr_factor=0.5))
    assert type(new) is torch.optim.AdamW
    assert [g["lr"] for g in new.param_groups] == [0.05, 0.1]
    assert new.param_groups[1]["weight_decay"] == 0.5
    assert {id(p) for g in new.param_groups for p in g["params"]} == {
        id(p) for p in (*copy.first.parameters(), *copy.head.parameters())
    }
    assert not new.state
    assert [g["lr"] for g in optimizer.param_groups] == [0.001, 0.002]


@pytest.mark.parametrize(
    "kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Rprop", "LBFGS", "NAdam"]
)
def test_optimizers_of_torch_are_rebuilt_from_their_spec_alone(kind):
    """The user's optimizer may be gone."""
    model = Noisy()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)
    spec = read_spec(optimizer, {id(p): n for n, p in model.named_parameters()})
    (result,) = train_both(
        model, [[recommend("nothing")]], batches(), loss_fn, spec, steps=3
    )
    assert result.verdict is not Verdict.FAILED, result.reason
    assert len(set(result.losses_after)) == 3


def test_an_exchanged_optimizer_takes_its_own_options():
    """Another class with the recommended rate; weight decay stays."""
    model = Noisy()
    source = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    new = rebuild(source, model, model, Recipe(optimizer="Adam", lr=1e-3))
    assert type(new) is torch.optim.Adam
    assert new.param_groups[0]["lr"] == 1e-3
    assert new.param_groups[0]["weight_decay"] == 0.01
