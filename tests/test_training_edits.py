"""What a recipe does at the steps of an optimizer, on weights whose way is known."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from gradwatch.errors import TreatmentError
from gradwatch.recipe import Recipe
from gradwatch.training_edits import edit_steps


def one_weight(recipe, optimizer=None, **options):
    """Return a model of one weight at 0, and an optimizer that follows a recipe."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = (optimizer or torch.optim.SGD)(model.parameters(), **options)
    edit_steps(optimizer, recipe, model)
    return model, optimizer


def push(model, optimizer, gradient, *, closure=False):
    """Step with a given gradient and return how far the weight went."""
    before = model.weight.item()

    def compute():
        model.weight.grad = torch.full_like(model.weight, gradient)
        return torch.tensor(0.0)

    if closure:
        optimizer.step(compute)
    else:
        compute()
        optimizer.step()
    return before - model.weight.item()


@pytest.mark.parametrize("closure", [False, True], ids=["plain", "closure"])
def test_gradients_are_clipped_by_their_global_norm(closure):
    """A gradient of 5 becomes 2, one of 1 stays; also where a closure computes it."""
    model, optimizer = one_weight(Recipe(max_grad_norm=2.0), lr=1.0)
    moved = [push(model, optimizer, g, closure=closure) for g in (5.0, 1.0, -5.0)]
    assert moved == pytest.approx([2.0, 1.0, -2.0], rel=1e-5)


def test_clipping_takes_all_groups_together():
    """The norm of (3, 4) is 5."""
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [w]} for w in weights], lr=1.0)
    edit_steps(optimizer, Recipe(max_grad_norm=1.0), nn.Module())
    for weight, gradient in zip(weights, (3.0, 4.0), strict=True):
        weight.grad = torch.full((1,), gradient)
    optimizer.step()
    assert [w.item() for w in weights] == pytest.approx([-0.6, -0.8], rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_works_with_a_grad_scaler(fused):
    """Scaled gradients are clipped as if they were not scaled."""
    model, optimizer = one_weight(
        Recipe(max_grad_norm=2.0), lr=1.0, fused=True if fused else None
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = 5.0 * model(torch.ones(1, 1)).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert model.weight.item() == pytest.approx(-2.0, rel=1e-5)


def test_the_rate_warms_up_linearly_and_a_scheduler_does_not_notice():
    """1/4, 2/4, 3/4, 4/4, and from there the schedule alone."""
    model, optimizer = one_weight(Recipe(warmup_steps=4), lr=1.0)
    schedule = lr_scheduler.MultiStepLR(optimizer, [5], 0.1)
    moved, rates = [], []
    for _ in range(7):
        moved.append(push(model, optimizer, 1.0))
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert moved == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.1, 0.1], rel=1e-5)
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 2)


def test_a_step_that_raised_does_not_lower_the_rate_twice():
    """The closure failed; the next step has its own share."""
    model, optimizer = one_weight(Recipe(warmup_steps=2), lr=1.0)

    def fails():
        raise KeyError("user's")

    with pytest.raises(KeyError):
        optimizer.step(fails)
    assert push(model, optimizer, 1.0) == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_rate_that_is_a_tensor_warms_up():
    """As capturable optimizers have it."""
    model, optimizer = one_weight(
        Recipe(warmup_steps=2), torch.optim.Adam, lr=torch.tensor(1.0), foreach=False
    )
    assert push(model, optimizer, 1.0) == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"].item() == 1.0


def test_gradients_of_chosen_layers_are_multiplied_for_some_steps():
    """Three times for two steps; then as they are."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    recipe = Recipe(gradient_factors={"0": 3.0}, gradient_steps=2)
    edit_steps(optimizer, recipe, model)
    moved = []
    for _ in range(3):
        before = [p.item() for p in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved.append(
            [b - p.item() for b, p in zip(before, model.parameters(), strict=True)]
        )
    assert [row[0] for row in moved] == pytest.approx([3.0, 3.0, 1.0], rel=1e-5)
    assert [row[1] for row in moved] == pytest.approx([1.0] * 3, rel=1e-5)
    with pytest.raises(TreatmentError, match="gradients of `2` cannot be multiplied"):
        edit_steps(optimizer, Recipe(gradient_factors={"2": 3.0}), model)


def test_factors_act_before_clipping():
    """Else they would undo the limit."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    edit_steps(
        optimizer, Recipe(gradient_factors={"0": 100.0}, max_grad_norm=2.0), model
    )
    before = model[0].weight.item()
    model[0].weight.grad = torch.ones(1, 1)
    optimizer.step()
    assert before - model[0].weight.item() == pytest.approx(2.0, rel=1e-5)


def test_a_default_recipe_leaves_an_optimizer_without_hooks():
    """Nothing changes, nothing runs."""
    _, optimizer = one_weight(Recipe(), lr=1.0)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
