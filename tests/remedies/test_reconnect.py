"""What keeps weights from learning, named with the lines that undo it."""

import pytest
import torch
from torch import nn

from gradwatch.recommendations import Risk
from gradwatch.remedies.reconnect import Reconnect
from gradwatch.rules import RULES
from gradwatch.structure import Role
from gradwatch.testing import make_parameter, make_step, make_structure
from tests.remedies.cases import offers, refusals
from tests.remedies.runs import ADAM, NAMES, probe, run

REMEDY = Reconnect()


def steps_of(lost, step=30, **fields):
    """Return two probes at which some layers have other parameters than usual."""

    def made(at):
        weights = [make_parameter(n, **fields if n in lost else {}) for n in NAMES]
        return make_step(at, names=NAMES, parameters=weights, loss=1.0)

    return made(0), made(step)


def only(case):
    """Return the single advice of a case."""
    (offer,) = offers(REMEDY, case)
    assert offer.risk is Risk.ADVICE
    assert not offer.can_apply
    return offer


def test_weights_outside_the_optimizer_are_given_to_it():
    """The lines add them to a real optimizer."""
    lost = ("layers.1",)
    probes = steps_of(lost, in_optimizer=False, update_ratio=None)
    offer = only(run("GW106", *probes, layers=lost, optimizer=ADAM))
    assert offer.title == "Give layers.1 to the optimizer"
    assert offer.layers == lost
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    optimizer = torch.optim.Adam(model.layers[0].parameters())
    exec(offer.code, {"model": model, "optimizer": optimizer})
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.layers[1].parameters()} <= owned


def test_a_whole_child_is_named_once():
    """Not layer by layer."""
    lost = ("layers.0", "layers.1", "layers.2")
    probes = steps_of(lost, in_optimizer=False, update_ratio=None)
    offer = only(run("GW106", *probes, layers=lost))
    assert offer.title == "Give layers to the optimizer"
    assert "layer = model.layers\n" in offer.code


def test_a_detach_is_placed_between_two_layers():
    """Above the last layer without a gradient."""
    lost = ("layers.0", "layers.1")
    offer = only(run("GW106", *steps_of(lost, grad_norm=None), layers=lost))
    assert "between model.layers[1] and model.layers[2]" in offer.code
    assert ".detach()" in offer.code
    assert "in 31 steps" in offer.why


def test_a_softmax_over_one_unit_is_named():
    """With the loss to use instead."""
    names = NAMES
    roles = dict.fromkeys(names[:-1], Role.TRUNK)
    structure = make_structure(names, roles=roles)
    one = structure.layers["head"]
    layers = dict(structure.layers) | {"head": type(one)(**_fields(one, fan_out=1))}
    structure = make_structure(names)
    object.__setattr__(structure, "layers", layers)
    probes = steps_of(names, grad_norm=0.0, zero_steps=31)
    offer = only(run("GW106", *probes, structure=structure, layers=names))
    assert offer.layers == ("head",)
    assert "binary_cross_entropy_with_logits" in offer.code
    assert "nn.Linear(64, 2)" in offer.code


def _fields(info, **changes):
    return {name: getattr(info, name) for name in info.__slots__} | changes


def test_a_zero_weight_above_is_named_and_drawn():
    """The lines draw it."""
    weights = [make_parameter(n, grad_norm=0.0, zero_steps=31) for n in NAMES[:2]]
    weights += [make_parameter(NAMES[2], zero_weight=True), make_parameter("head")]
    record = make_step(30, names=NAMES, parameters=weights, loss=1.0)
    offer = only(run("GW106", record))
    assert "the weight of layers.2 is all zero" in offer.why
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    nn.init.zeros_(model.layers[2].weight)
    exec(offer.code, {"model": model, "nn": nn})
    assert float(model.layers[2].weight.detach().abs().sum()) > 0


def test_a_zero_without_an_explanation_asks_for_a_mask():
    """Nothing measured names it."""
    lost = ("layers.0",)
    probes = steps_of(lost, grad_norm=0.0, zero_steps=31)
    offer = only(run("GW106", *probes, layers=lost))
    assert "mask" in offer.why
    assert "for 31 steps" in offer.why


def test_a_layer_without_gradients_in_the_forward_is_taken_out_of_no_grad():
    """Or is frozen openly."""
    record = make_step(30, names=NAMES, no_grad_layers=("layers.0",), loss=1.0)
    offer = only(run("GW106", record))
    assert "requires_grad_(False)" in offer.code
    assert offer.layers == ("layers.0",)


def test_layers_that_were_never_called_are_named():
    """Call them or delete them."""
    structure = make_structure(
        (*NAMES[:3], "extra", "head"), roles={"extra": Role.UNUSED}
    )
    offer = only(run("GW106", probe(30), structure=structure))
    assert offer.layers == ("extra",)
    assert "self.extra(x)" in offer.code


def test_what_the_finding_is_about_comes_first():
    """Other disconnected layers follow."""
    lost = ("layers.1",)
    fields = {"in_optimizer": False, "update_ratio": None}
    weights = [make_parameter(n, **fields if n in lost else {}) for n in NAMES]
    record = make_step(
        30, names=NAMES, parameters=weights, no_grad_layers=("layers.0",), loss=1.0
    )
    first, second = offers(REMEDY, run("GW106", record, layers=("layers.0",)))
    assert first.layers == ("layers.0",)
    assert second.layers == ("layers.1",)


@pytest.mark.parametrize("code", [rule.code for rule in RULES])
def test_a_connected_network_is_refused(code):
    """On every rule."""
    (refusal,) = refusals(REMEDY, run(code, probe(0), probe(30)))
    assert "gets a gradient" in refusal.reason
