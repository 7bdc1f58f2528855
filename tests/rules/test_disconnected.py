"""GW106: no gradient, no optimizer, no call."""

import pytest

from gradwatch.findings import Severity
from gradwatch.records import Coverage
from gradwatch.rules.disconnected import Disconnected
from gradwatch.settings import Settings
from gradwatch.structure import LayerInfo, Role
from gradwatch.testing import (
    layer_names,
    make_activation,
    make_history,
    make_layer,
    make_parameter,
    make_step,
    make_structure,
)

RULE = Disconnected()
NAMES = [*layer_names(6), "head"]


def weights(changed, **fields):
    """Return weights of which the named ones have other fields."""
    return [
        make_parameter(name, **(fields if name in changed else {})) for name in NAMES
    ]


def judge(*, step=50, structure=None, before=(), **fields):
    """Return what the rule says of hand-made records."""
    history = make_history(*before, make_step(step, **fields))
    return RULE.judge(history, structure or make_structure(), Settings())


ZERO = {"grad_norm": 0.0, "zero_steps": 25}


def test_zero_gradients_with_others_that_are_not_are_a_warning():
    """25 steps in a row."""
    finding = judge(parameters=weights({"layers.2"}, **ZERO))
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("layers.2",)
    assert finding.evidence[0].value == 25


def test_all_zero_gradients_ask_for_a_loss_that_is_not_zero():
    """A hinge loss that is met ends with zero gradients."""
    zeros = weights(set(NAMES), **ZERO)
    assert judge(parameters=zeros, loss=0.7).severity is Severity.WARNING
    assert judge(parameters=zeros, loss=0.0) is None
    assert judge(parameters=zeros) is None


def test_a_softmax_over_one_unit_is_named():
    """Its gradient is zero from the first step on, and so is its loss."""
    info = LayerInfo("head", "Linear", Role.HEAD, 6, is_weight=True, fan_out=1)
    structure = make_structure()
    structure = type(structure)(
        layers={**structure.layers, "head": info}, known=True, heads=("head",)
    )
    zeros = weights(set(NAMES), grad_norm=0.0, zero_steps=51)
    finding = judge(parameters=zeros, loss=0.0, structure=structure)
    assert "softmax over one unit" in finding.message
    assert finding.severity is Severity.WARNING


QUIET = {
    "19 steps": {"parameters": weights({"layers.2"}, grad_norm=0.0, zero_steps=19)},
    "frozen": {"parameters": weights({"layers.2"}, trainable=False, grad_norm=None)},
    "unused head without a gradient": {
        "parameters": weights({"layers.5"}, grad_norm=None)
    },
    "expert that was not called": {
        "parameters": weights({"layers.2"}, **ZERO),
        "layers": [make_layer(n, i) for i, n in enumerate(NAMES) if n != "layers.2"],
    },
    "dead units explain zeros below": {
        "parameters": weights(set(NAMES[:4]), **ZERO),
        "activations": [make_activation("layers.3", dead_units=64)],
    },
    "learning rate of zero": {"parameters": weights({"layers.2"}, **ZERO), "lr": 0.0},
    "few steps": {"step": 5, "parameters": weights({"layers.2"}, in_optimizer=False)},
    "owner not known": {"parameters": weights({"layers.2"}, in_optimizer=None)},
    "moved by something else": {
        "parameters": weights({"layers.2"}, in_optimizer=False, update_ratio=1e-3)
    },
}


@pytest.mark.parametrize("fields", QUIET.values(), ids=QUIET)
def test_it_does_not_fire_on(fields):
    """Traps of facts B2 that records can see."""
    assert judge(**fields) is None


def test_a_branch_makes_a_note():
    """A masked expert gets exact zeros."""
    structure = make_structure(roles={"layers.2": Role.BRANCH})
    finding = judge(parameters=weights({"layers.2"}, **ZERO), structure=structure)
    assert finding.severity is Severity.NOTE


def outside(names):
    """Return weights of which the named ones no optimizer owns."""
    return weights(names, in_optimizer=False, update_ratio=0.0)


def test_a_layer_that_no_optimizer_owns_is_a_warning():
    """A head that was replaced after the optimizer was made."""
    finding = judge(parameters=outside({"head"}))
    assert finding.severity is Severity.WARNING
    assert "no optimizer owns" in finding.message


def test_the_whole_input_side_outside_is_on_purpose():
    """Fine-tuning the head only."""
    finding = judge(parameters=outside(set(NAMES[:6])))
    assert finding.severity is Severity.NOTE


def test_a_whole_top_level_child_outside_is_on_purpose():
    """The second of three children belongs to nobody."""
    names = ["a.0", "a.1", "b.0", "b.1", "head"]
    parameters = [
        make_parameter(
            name,
            in_optimizer=not name.startswith("b"),
            update_ratio=0.0 if name.startswith("b") else 1e-3,
        )
        for name in names
    ]
    finding = judge(names=names, parameters=parameters, structure=make_structure(names))
    assert finding.severity is Severity.NOTE


def test_a_detach_is_a_warning():
    """The first layers are called and owned, and never get a gradient."""
    cut = weights(set(NAMES[:2]), grad_norm=None)
    probes = [make_step(step, parameters=cut) for step in (0, 10)]
    finding = judge(before=probes, parameters=cut)
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("layers.0", "layers.1")
    had_one = [make_step(0), make_step(10, parameters=cut)]
    assert judge(before=had_one, parameters=cut) is None


def test_a_layer_that_is_never_called_makes_a_note():
    """It owns weights, but the forward does not use it."""
    structure = make_structure(roles={"layers.3": Role.UNUSED})
    called = [make_layer(n, i) for i, n in enumerate(NAMES) if n != "layers.3"]
    coverage = {n: Coverage.OBSERVED for n in NAMES if n != "layers.3"}
    finding = judge(structure=structure, layers=called, coverage=coverage)
    assert finding.severity is Severity.NOTE
    assert finding.layers == ("layers.3",)


def test_it_says_why_it_cannot_judge():
    """Fewer steps than the limit."""
    history = make_history(make_step(5))
    assert "fewer than 20 steps" in RULE.unmet(history, make_structure(), Settings())


def test_a_flat_loss_makes_what_is_left_out_a_warning():
    """Somebody who trains the head alone on purpose sees the loss fall."""
    lost = outside(NAMES[:3])
    early = make_step(0, loss=2.0)
    assert judge(parameters=lost, loss=1.0, before=[early]).severity is Severity.NOTE
    assert judge(parameters=lost, loss=2.0, before=[early]).severity is Severity.WARNING


def test_layers_that_ran_with_gradients_off_are_named():
    """A note; a warning when the loss stays flat. Without an optimizer: on purpose."""
    owned = weights({"layers.0"}, in_optimizer=True)
    early = make_step(0, loss=2.0)
    muted = {"parameters": owned, "no_grad_layers": ("layers.0",)}
    finding = judge(loss=2.0, before=[early], **muted)
    assert finding.severity is Severity.WARNING
    assert finding.layers == ("layers.0",)
    assert judge(loss=1.0, before=[early], **muted).severity is Severity.NOTE
    frozen = weights({"layers.0"}, in_optimizer=False, grad_norm=None)
    assert judge(parameters=frozen, no_grad_layers=("layers.0",)) is None


def test_a_layer_with_another_weight_that_learns_is_connected():
    """Relative positions are never asked for where only one position is read."""
    silent = make_parameter("layers.2", name="layers.2.position", **ZERO)
    parameters = [*weights(set()), silent]
    assert judge(parameters=parameters) is None
