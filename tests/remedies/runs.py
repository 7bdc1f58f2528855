"""Hand-made runs for the remedies on time, optimizer and loop."""

from __future__ import annotations

from gradwatch.anatomy import Anatomy, OptimizerFacts, RecurrentFacts
from gradwatch.findings import Evidence
from gradwatch.remedies.base import Case
from gradwatch.testing import (
    make_history,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
    make_time_profile,
)
from tests.remedies.cases import finding

SGD = OptimizerFacts("SGD", 0.1, momentum=0.9)
ADAM = OptimizerFacts("Adam", 1e-2, eps=1e-8)
NAMES = ("layers.0", "layers.1", "layers.2", "head")


def probe(step, update=1e-3, rms=0.1, **fields):
    """Return a probe of four layers that all have this update ratio and weight."""
    weights = [make_parameter(n, update_ratio=update, weight_rms=rms) for n in NAMES]
    return make_step(step, names=NAMES, parameters=weights, **fields)


def run(
    code,
    *probes,
    optimizer=SGD,
    anatomy=None,
    pulses=(),
    findings=(),
    structure=None,
    **fields,
):
    """Return the case of a finding at the end of a run."""
    found = finding(code, **({"layers": NAMES[:2]} | fields))
    return Case(
        finding=found,
        findings=(found, *findings),
        structure=make_structure(NAMES) if structure is None else structure,
        anatomy=Anatomy(optimizer=optimizer) if anatomy is None else anatomy,
        history=make_history(*probes, pulses=pulses),
    )


def spiky(norms=100, spikes=(40, 60, 80), size=300.0):
    """Return pulses with norms of 1 to 9 and some spikes far above them."""
    values = [1.0 + i % 9 for i in range(norms)]
    for step in spikes:
        values[step] = size
    return make_pulses(values)


def updates_of(ratio):
    """Return the evidence of GW301."""
    return (Evidence("median update ratio", ratio, 0.1, "", (0, 0)),)


def recurrent(kind="RNN", **fields):
    """Return the facts of a recurrent layer called rnn, 8 inputs, 16 units."""
    plain = kind.startswith("RNN")
    usual = {"nonlinearity": "tanh" if plain else "", "input_size": 8}
    usual |= {"hidden_size": 16, "gate_bias": None if plain else 0.0, "steps": 60}
    return RecurrentFacts("rnn", kind, **(usual | fields))


def through_time(code="GW102", *facts, decades=6.0, steps=60, **anatomy):
    """Return the case of recurrent layers whose gradient fades or grows."""
    signed = decades if code == "GW102" else -decades
    layers = facts or (recurrent(),)
    profiles = [
        make_time_profile(decades=signed, steps=steps, layer=f.layer) for f in layers
    ]
    record = make_step(5, time_profiles=profiles)
    return Case(
        finding=finding(code, layers=tuple(f.layer for f in layers)),
        anatomy=Anatomy(recurrent=tuple(layers), **anatomy),
        history=make_history(record),
    )
