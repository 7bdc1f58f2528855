"""Which activations are exchanged for which, and which stay."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.recommendations import Risk
from gradwatch.remedies.swap_activation import SwapActivation
from gradwatch.structure import LayerInfo, Role
from tests.remedies.cases import (
    case,
    chain,
    offers,
    refusals,
    spans_of,
    structure_of,
)

REMEDY = SwapActivation()


def sites_with(**fields):
    """Return a sigmoid chain whose third site has other fields."""
    anatomy = chain()
    sites = list(anatomy.sites)
    sites[2] = replace(sites[2], **fields)
    return replace(anatomy, sites=tuple(sites))


@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "hardsigmoid", "tanh"])
def test_a_flat_activation_that_fades_becomes_relu_with_he_weights(activation):
    """First of the variants; then SELU with LeCun weights."""
    first, second, *_ = offers(REMEDY, case(anatomy=chain(activation=activation)))
    assert first.options == {"to": "relu", "init": "he"}
    assert second.options == {"to": "selu", "init": "lecun"}
    assert first.layers == tuple(f"fc{i}" for i in range(1, 7))
    assert first.risk is Risk.REINITIALISES
    assert first.answers == ("GW101",)


def test_the_reason_compares_the_weights_with_what_the_new_activation_asks_for():
    """0.0722 is PyTorch's default at 64 inputs; He's is sqrt(2/64) = 0.18."""
    first = offers(REMEDY, case())[0]
    assert first.title == "Swap 6 Sigmoids for ReLU, with He weights"
    assert "std 0.072 against 0.18 = sqrt(2 / fan_in) for ReLU" in first.why
    assert first.record == "repaired 29 of 30 vanishing networks in our bench"


def test_the_swap_that_keeps_the_weights_comes_last_with_its_poor_record():
    """10 of 30: PyTorch's default weights are too small for ReLU."""
    last = offers(REMEDY, case())[-1]
    assert last.options == {"to": "relu", "init": "keep"}
    assert "10 of 30" in last.record
    assert "0.41" in last.caution
    assert last.risk is Risk.RESHAPES


@pytest.mark.parametrize("reason", ["output activation", "gate", "inside attention"])
def test_what_must_stay_stays(reason):
    """The other five are exchanged."""
    anatomy = sites_with(swappable=False, reason=reason)
    for offer in offers(REMEDY, case(anatomy=anatomy)):
        assert "fc3" not in offer.layers
        assert len(offer.sites) == 5


def test_a_module_that_also_serves_the_output_stays_everywhere():
    """Exchanging it would change the output."""
    anatomy = sites_with(module="shared", shared_with=("head",))
    head = replace(anatomy.sites[0], layer="head", module="shared", swappable=False)
    anatomy = replace(anatomy, sites=(*anatomy.sites, head))
    assert all("fc3" not in o.layers for o in offers(REMEDY, case(anatomy=anatomy)))


def test_with_nothing_left_to_swap_it_says_why():
    """The reason is that of the sites."""
    anatomy = chain()
    sites = tuple(replace(s, swappable=False, reason="gate") for s in anatomy.sites)
    anatomy = replace(anatomy, sites=sites)
    (refusal,) = refusals(REMEDY, case(anatomy=anatomy))
    assert "must stay (gate)" in refusal.reason


@pytest.mark.parametrize("activation", ["relu", "gelu", "leaky_relu"])
def test_relu_is_not_swapped_for_relu(activation):
    """It says that the initialisation is at fault; SELU comes in plain networks."""
    sick = case(anatomy=chain(activation=activation))
    assert [o.options["to"] for o in offers(REMEDY, sick)] == ["selu", "tanh"]
    assert "the initialisation is at fault" in refusals(REMEDY, sick)[0].reason


@pytest.mark.parametrize("change", ["norms", "sums"])
def test_selu_is_for_plain_networks(change):
    """Norms and shortcuts keep the size of the signal already."""
    anatomy = chain(activation="relu")
    spans = spans_of(3) if change == "sums" else ()
    if change == "norms":
        anatomy = replace(anatomy, norms=("norm1",))
    assert offers(REMEDY, case(anatomy=anatomy, spans=spans)) == []


def test_deep_batch_norm_that_explodes_becomes_selu_without_norms():
    """The norms make the gradient grow; SELU needs none."""
    anatomy = chain(40, "relu", norm="BatchNorm1d")
    names = tuple(f"norm{i}" for i in range(1, 41))
    anatomy = replace(anatomy, norms=names)
    structure = structure_of(anatomy)
    norms = {n: LayerInfo(n, "BatchNorm1d", role=Role.NORM) for n in names}
    structure = replace(structure, layers={**structure.layers, **norms})
    (offer,) = offers(REMEDY, case("GW201", anatomy=anatomy, structure=structure))
    assert offer.options["norms"] == "drop"
    assert REMEDY.recipe(offer).lr_factor == 0.1
    assert "without 40 batch norms" in offer.title
    assert offer.code.startswith('for name in [f"norm{i}" for i in range(1, 41)]:')


def test_dead_relus_become_leaky():
    """Units that pass some gradient on below zero can come back."""
    sick = case("GW103", anatomy=chain(activation="relu"))
    assert offers(REMEDY, sick)[0].options == {"to": "leaky_relu", "init": "he"}
    assert offers(REMEDY, case("GW103")) == []


def test_an_explosion_through_tanh_gets_selu_first():
    """Facts C: 20, 19 and 17 of 24."""
    sick = case("GW201", anatomy=chain(activation="sigmoid"))
    found = [o.options["to"] for o in offers(REMEDY, sick)]
    assert found == ["selu", "tanh", "relu", "relu"]


@pytest.mark.parametrize("code", ["GW201", "GW205"])
def test_an_exponential_activation_is_exchanged(code):
    """It explodes, or ends in NaN; nothing else of the network is touched."""
    anatomy = sites_with(activation="exp")
    first = offers(REMEDY, case(code, anatomy=anatomy))[0]
    assert first.options["to"] == "relu"
    if code == "GW205":
        assert first.layers == ("fc3",)


@pytest.mark.parametrize("code", ["GW102", "GW106", "GW108", "GW204", "GW301", "GW302"])
def test_it_refuses_what_is_not_its_business(code):
    """With a reason of its own for each."""
    assert offers(REMEDY, case(code)) == []
    assert refusals(REMEDY, case(code))[0].reason.endswith(".")


def test_the_code_for_modules_runs_and_does_what_it_says():
    """Pasted below a model with these names."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for i in range(1, 7):
        model.add_module(f"fc{i}", nn.Linear(64, 64))
        model.add_module(f"act{i}", nn.Sigmoid())
    code = offers(REMEDY, case())[0].code
    exec(code, {"model": model, "nn": nn})
    assert all(isinstance(model.get_submodule(f"act{i}"), nn.ReLU) for i in range(1, 7))
    assert float(model.fc6.weight.detach().std()) == pytest.approx(
        (2 / 64) ** 0.5, rel=0.05
    )
    assert float(model.fc6.bias.detach().abs().max()) == 0.0


def test_a_function_is_named_with_its_line():
    """No code of ours can be pasted over it."""
    first = offers(REMEDY, case(anatomy=chain(functional=True)))[0]
    assert first.where == "net.py:12"
    assert "# net.py:12: torch.sigmoid(x) -> torch.relu(x)" in first.code
