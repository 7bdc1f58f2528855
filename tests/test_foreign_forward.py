"""A copy whose `forward` would run the original is refused, and no other."""

import functools
import types

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.foreign_forward import foreign_forward
from gradwatch.twin import make_twin


def net():
    """Return a small net."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


def wrap(model):
    """A wrapper of one's own around a bound method."""
    inner = model[0].forward

    @functools.wraps(inner)
    def forward(x):
        return inner(x) * 2

    model[0].forward = forward


def close_over(model):
    """A function that knows the layer by a name."""
    layer = model[0]
    model[0].forward = lambda x: nn.functional.linear(x, layer.weight)


def compile_method(model):
    """A compiled method."""
    model[0].forward = torch.compile(model[0].forward, backend="eager")


def default(model):
    """The layer as the default of an argument."""
    model[0].forward = lambda x, layer=model[0]: x @ layer.weight.T


def bind(model):
    """A method of the instance, as accelerate binds it."""
    model[0].forward = types.MethodType(lambda self, x: x @ self.weight.T, model[0])


def part(model):
    """A partial, as hook libraries leave it."""
    model[0].forward = functools.partial(lambda layer, x: x @ layer.weight.T, model[0])


def free(model):
    """A function of its input alone."""
    model[0].forward = lambda x: x * 2


@pytest.mark.parametrize("replace", [wrap, close_over, compile_method, default])
def test_a_forward_that_holds_the_original_is_found(replace):
    """The copy would run the original: no copy is made, and the message says why."""
    model = net()
    replace(model)
    assert foreign_forward(model) == "0.forward"
    with pytest.raises(gradwatch.ModelError, match=r"`0\.forward` was replaced.*Bind"):
        make_twin(model, "a test")


@pytest.mark.parametrize("replace", [bind, part, free])
def test_a_forward_that_follows_the_copy_is_copied(replace):
    """The copy computes with weights of its own."""
    model = net()
    replace(model)
    assert foreign_forward(model) is None
    twin = make_twin(model, "a test")
    x = torch.randn(3, 4)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not torch.equal(twin(x), model(x))


def test_a_model_without_replacements_has_none():
    """The usual case."""
    assert foreign_forward(net()) is None
