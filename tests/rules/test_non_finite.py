"""GW205: NaN and Inf, their origin, and what is not one."""

import math

import pytest

from gradwatch.findings import Severity
from gradwatch.history import History
from gradwatch.records import NonFiniteOrigin
from gradwatch.rules.non_finite import NonFinite
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_history,
    make_layer,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
)

RULE = NonFinite()
NAMES = [*layer_names(6), "head"]


def judge(*probes, pulses=(), settings=None):
    """Return what the rule says of hand-made records."""
    history = make_history(*probes, pulses=pulses)
    return RULE.judge(history, make_structure(), settings or Settings())


def layers(first_bad, field="output_finite"):
    """Return layers that are not finite from one on."""
    return [
        make_layer(
            name,
            i,
            **{
                field: i < first_bad,
                **(
                    {"input_finite": i <= first_bad} if field == "output_finite" else {}
                ),
            },
        )
        for i, name in enumerate(NAMES)
    ]


def test_the_first_module_with_finite_inputs_is_the_origin():
    """In forward order."""
    finding = judge(make_step(3, layers=layers(2), loss=math.nan))
    assert finding.severity is Severity.CRITICAL
    assert finding.origin == "layers.2"
    assert "layers.2 made it from finite inputs" in finding.message
    assert finding.layers == ("layers.2",)
    assert "layers.5" in finding.affected


def test_else_the_first_in_backward_order():
    """All outputs are finite."""
    bad = [make_layer(name, i, grad_finite=i > 3) for i, name in enumerate(NAMES)]
    finding = judge(make_step(3, layers=bad))
    assert finding.origin == "layers.3"
    assert "backward pass" in finding.message


def test_a_replayed_origin_is_told_as_it_was_seen():
    """The record carries it."""
    origin = NonFiniteOrigin(7, "layers.4", "forward", "inputs from -2 to 90")
    finding = judge(make_step(7, loss=math.nan, non_finite=origin))
    assert finding.origin == "layers.4"
    assert "inputs from -2 to 90" in finding.message


def test_an_origin_that_was_missed_is_not_invented():
    """Step 7 was no probe; at step 10 every layer is NaN."""
    pulses = make_pulses([1.0] * 7) + make_pulses([math.nan] * 4, start=7, finite=False)
    weights = [make_parameter(name, weight_finite=False) for name in NAMES]
    broken = make_step(10, layers=layers(0), parameters=weights, loss=math.nan)
    finding = judge(make_step(5), broken, pulses=pulses)
    assert finding.origin is None
    assert "step 7 was not a probe" in finding.message
    assert "nan_origin='sync'" in finding.message
    sync = Settings(nan_origin="sync")
    assert (
        "sync" not in judge(make_step(5), broken, pulses=pulses, settings=sync).message
    )


SICK = {
    "loss": {"loss": math.inf},
    "parameter": {"parameters": [make_parameter("head", weight_finite=False)]},
    "gradient": {"parameters": [make_parameter("head", grad_norm=math.nan)]},
    "input": {"layers": [make_layer("layers.0", 0, input_finite=False,
                                    output_finite=False, grad_finite=False)]},
}  # fmt: skip


@pytest.mark.parametrize("fields", SICK.values(), ids=SICK)
def test_one_non_finite_value_is_enough(fields):
    """Wherever it is."""
    assert judge(make_step(3, **fields)).severity is Severity.CRITICAL


def test_a_pulse_is_enough():
    """Also between probes."""
    pulses = make_pulses([1.0, math.nan], finite=False, start=11)
    finding = judge(make_step(5), make_step(10), pulses=pulses)
    assert finding.evidence[0].value == 11


def test_skipped_steps_are_not_a_nan():
    """A scaler that meets an overflow skips the step."""
    skipped = make_pulses([math.inf], finite=False, skipped=True, start=5)
    bad = [make_layer(name, i, grad_finite=False) for i, name in enumerate(NAMES)]
    assert judge(make_step(5, layers=bad, loss_scale=65536.0), pulses=skipped) is None
    assert judge(make_step(5, layers=bad, loss_scale=65536.0)) is None


def test_an_infinite_mask_is_a_note():
    """Gradients and loss are finite all the same."""
    finding = judge(make_step(5, layers=layers(6), loss=1.0))
    assert finding.severity is Severity.NOTE


def test_it_does_not_fire_on_a_healthy_network():
    """And is not judged without a probe."""
    assert judge(make_step(5, loss=1.0), pulses=make_pulses([1.0] * 6)) is None
    assert "no probe" in RULE.unmet(make_history(), make_structure(), Settings())


def broken(step, **fields):
    """Return a probe that is full of NaN."""
    weights = [make_parameter(name, weight_finite=False) for name in NAMES]
    return make_step(step, layers=layers(0), parameters=weights, **fields)


def test_the_first_step_is_named_long_after_it():
    """Not the oldest pulse that is still kept, nor the newest probe."""
    origin = NonFiniteOrigin(2, "layers.2", "forward")
    probes = [make_step(0), broken(2, non_finite=origin), broken(500), broken(555)]
    pulses = make_pulses([math.nan] * 100, start=500, finite=False)
    finding = judge(*probes, pulses=pulses)
    assert "first seen at step 2: layers.2 made it" in finding.message
    assert finding.evidence[0].value == 2
    assert finding.evidence[0].steps == (2, 599)


def test_a_nan_that_was_over_is_not_the_first_step():
    """A clean probe lies between the two."""
    origin = NonFiniteOrigin(2, "layers.5", "forward")
    later = NonFiniteOrigin(50, "layers.1", "forward")
    probes = [broken(2, non_finite=origin), make_step(20), broken(50, non_finite=later)]
    finding = judge(*probes)
    assert finding.evidence[0].value == 50
    assert finding.origin == "layers.1"


def test_an_infinite_mask_is_not_the_first_step():
    """It was there from the start; the NaN came later."""
    finding = judge(make_step(0, layers=layers(6), loss=1.0), broken(10))
    assert finding.evidence[0].value == 10


def test_a_beginning_that_is_not_kept_is_not_invented():
    """Probes are dropped one day."""
    history = History(max_probes=2)
    for step in (0, 100, 200, 300):
        history.add_probe(broken(step))
    message = RULE.judge(history, make_structure(), Settings()).message
    assert "first seen at step 200 or before" in message
