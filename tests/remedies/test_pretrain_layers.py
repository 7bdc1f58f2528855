"""Greedy pre-training: what it asks for, what it changes, what it keeps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.remedies.pretrain_layers import PretrainLayers, layers_to_pretrain
from gradwatch.remedies.pretraining import pretrain
from gradwatch.structure import Role
from tests.remedies.cases import case, offers, refusals

REMEDY = PretrainLayers()


def test_each_layer_of_a_faded_network_gets_steps_of_its_own():
    """300 for each of six."""
    (offer,) = offers(REMEDY, case())
    assert REMEDY.recipe(offer).pretrain_steps == 1800
    assert layers_to_pretrain(offer) == {f"fc{i}": "sigmoid" for i in range(1, 7)}
    assert '"fc1": "sigmoid",' in offer.code


def test_layers_on_branches_are_left_out():
    """Two are too few then."""
    sick = case()
    layers = {
        name: replace(info, role=Role.BRANCH if name > "fc2" else info.role)
        for name, info in sick.structure.layers.items()
    }
    sick = replace(sick, structure=replace(sick.structure, layers=layers))
    assert "Fewer than 3" in refusals(REMEDY, sick)[0].reason


@pytest.mark.parametrize("code", ["GW102", "GW103", "GW201", "GW301"])
def test_it_refuses_what_is_not_its_business(code):
    """It answers what fades along the depth."""
    assert offers(REMEDY, case(code)) == []


def network():
    """Return three sigmoid layers with default weights and a head, and inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 16), nn.Sigmoid()),
        *(nn.Linear(16, 16), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(16, 2)),
    )
    mixing = torch.randn(4, 16)
    batches = [(torch.randn(32, 4) @ mixing, torch.zeros(32)) for _ in range(8)]
    return model, batches


def signal(model, batches):
    """Return the deviation over samples of the last hidden layer over its RMS."""
    with torch.no_grad():
        hidden = model[:6](batches[0][0])
        return float(hidden.std(0).norm() / hidden.pow(2).mean(0).sqrt().norm())


def test_the_signal_that_sigmoids_lose_is_kept_afterwards():
    """Untrained sigmoids lose it; a layer that can be decoded does not."""
    model, batches = network()
    before = signal(model, batches)
    left = pretrain(model, batches, dict.fromkeys("024", "sigmoid"), 600)
    assert list(left) == ["0", "2", "4"]
    assert all(share < 0.7 for share in left.values())
    assert signal(model, batches) > 5 * before


def test_nothing_but_the_layers_changes():
    """The head, modes, gradients and the forward methods stay as they were."""
    model, batches = network()
    model[6].eval()
    model[0].weight.grad = torch.ones(16, 16)
    head = model[7].weight.detach().clone()
    modes = [module.training for module in model.modules()]
    pretrain(model, batches, {"0": "sigmoid", "2": "sigmoid"}, 4)
    torch.testing.assert_close(model[7].weight.detach(), head, rtol=0, atol=0)
    torch.testing.assert_close(model[0].weight.grad, torch.ones(16, 16))
    assert [module.training for module in model.modules()] == modes
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.Conv2d(3, 8, 2),
    ],
    ids=["strided", "same", "valid"],
)
def test_convolutions_are_rebuilt_at_their_size(layer):
    """Whatever stride and padding are; a mapping is passed as keywords."""
    torch.manual_seed(0)
    model = nn.Sequential(layer)
    batches = [{"input": torch.randn(4, 3, 9, 9)}]
    before = layer.weight.detach().clone()
    left = pretrain(model, batches, {"0": "relu"}, 30)
    assert left["0"] < 1.5
    assert not torch.equal(layer.weight.detach(), before)


def test_wrong_arguments_are_errors_that_say_what_to_do():
    """No batches, a layer that is not called, one that cannot learn so."""
    model, batches = network()
    with pytest.raises(ValueError, match="at least one batch"):
        pretrain(model, [], {"0": "sigmoid"}, 1)
    with pytest.raises(ValueError, match="must name activations"):
        pretrain(model, batches, {"0": "nothing-like-it"}, 1)
    with pytest.raises(TypeError, match="1 is a Sigmoid"):
        pretrain(model, batches, {"1": None}, 1)
    with pytest.raises(ValueError, match="was not called"):
        pretrain(model, batches, {"0": "sigmoid"}, 1, run=lambda *_: None)
