"""Hand-made reports that the tests of report, console and command line share."""

import math

from gradwatch.findings import (
    Confidence,
    Evidence,
    Finding,
    Health,
    Severity,
    Trend,
)
from gradwatch.history import History
from gradwatch.records import (
    ActivationRecord,
    Coverage,
    LayerRecord,
    NonFiniteOrigin,
    ParameterRecord,
    TimeProfile,
)
from gradwatch.report import CheckedRule, Overhead, RunFacts, UncheckedRule
from gradwatch.report_build import build_report
from gradwatch.settings import Settings
from gradwatch.structure import LayerInfo, Role, Structure
from gradwatch.testing import make_chain, make_history, make_pulses, make_step

STEPS = (0, 1, 2, 5, 10, 20, 50)
RHYTHM = "probes at steps 0, 1, 2, 5, 10, 20, 50, then every 100; pulses at every step"


def make_finding(code="GW101", **fields):
    """Return a confirmed critical finding; every field may be set."""
    usual = {
        "name": "vanishing-gradient",
        "health": Health.VANISHING,
        "severity": Severity.CRITICAL,
        "confidence": Confidence.HIGH,
        "layers": ("layers.0", "layers.1"),
        "message": "The gradient loses 5.8 decades between layers.8 and layers.0.",
        "help": "Look at the activation and the initialisation from layers.5 down.",
        "evidence": (Evidence("D", 5.76, 2.0, "decades", (50, 50), "layers.0"),),
        "since_step": 0,
        "trend": Trend.STEADY,
    }
    return Finding(code=code, **(usual | fields))


def make_report(**given):
    """Return a report composed of nothing but what is given."""
    usual = {
        "history": History(),
        "structure": Structure(),
        "settings": Settings(),
        "findings": (),
        "cleared": (),
        "ignored": 0,
        "health": Health.UNKNOWN,
        "layer_health": {},
        "overhead": Overhead(),
        "run": RunFacts(
            gradwatch="0.1.0",
            torch="2.13.0",
            python="3.12.3",
            model="Net",
            num_parameters=41600,
        ),
        "checked": (),
        "not_checked": (),
    }
    return build_report(**(usual | given))


def plain_network(
    layers=10,
    decades=0.0,
    activation="relu",
    steps=STEPS,
    name="layers.{}",
    shares=None,
    **given,
):
    """Return the report on a chain whose gradient loses `decades` to its source."""
    names = [name.format(i) for i in range(layers)]
    hidden = names[:-1]
    norms = [0.031 * 10 ** (-decades * (1 - i / (layers - 2))) for i in range(layers)]
    shares = shares or {}
    relu = activation == "relu"
    probes = [
        make_step(
            step,
            layers=[
                LayerRecord(layer, 0, i, grad_norm=norm, output_rms=0.5)
                for i, (layer, norm) in enumerate(zip(names, norms, strict=True))
            ],
            activations=[
                ActivationRecord(
                    layer,
                    activation,
                    num_units=100 if relu else None,
                    dead_units=round(100 * shares.get(layer, 0)) if relu else None,
                    saturated_share=None if relu else shares.get(layer, 0.0),
                )
                for layer in hidden
            ],
            parameters=[
                ParameterRecord(
                    f"{layer}.weight", layer, 2, 4096, update_ratio=norm / 31
                )
                for layer, norm in zip(names, norms, strict=True)
            ],
            chains=[make_chain(norms=norms[:-1])],
            coverage=dict.fromkeys(names, Coverage.OBSERVED),
        )
        for step in steps
    ]
    infos = {
        layer: LayerInfo(
            layer,
            "Linear",
            Role.TRUNK if layer in hidden else Role.HEAD,
            order,
            is_weight=True,
            num_parameters=4160,
            activation=activation if layer in hidden else None,
        )
        for order, layer in enumerate(names)
    }
    losses = [2.3 - 0.01 * step for step in range(steps[-1] + 1)]
    usual = {
        "history": make_history(*probes, pulses=make_pulses(losses=losses, lr=0.1)),
        "structure": Structure(infos, known=True, reason="", last_hidden=hidden[-1]),
        "health": Health.HEALTHY,
        "layer_health": dict.fromkeys(names, Health.HEALTHY),
        "overhead": Overhead(
            share=0.0043,
            seconds=0.031,
            probes=len(steps),
            pulses=steps[-1] + 1,
            rhythm=RHYTHM,
        ),
        "run": RunFacts(
            gradwatch="0.1.0",
            torch="2.13.0",
            python="3.12.3",
            model="Sequential",
            num_parameters=4160 * layers,
            optimizers=("SGD",),
            device="cpu",
        ),
        "checked": [
            CheckedRule(code=code, name="-", steps=(steps[0], steps[-1]))
            for code in ("GW101", "GW103", "GW105", "GW201", "GW205", "GW301")
        ],
        "not_checked": [
            UncheckedRule(code=code, name="-", reason="no recurrent layer was observed")
            for code in ("GW102", "GW202")
        ],
    }
    given["layer_health"] = usual["layer_health"] | given.get("layer_health", {})
    return make_report(**(usual | given))


def healthy():
    """A network without a finding; one came and went."""
    spike = make_finding(
        "GW204", name="training-spike", layers=(), since_step=10, cleared_step=20
    )
    return plain_network(6, 0.1, cleared=(spike,), ignored=1)


def vanishing():
    """A deep sigmoid network whose gradient fades evenly."""
    sick = tuple(f"layers.{i}" for i in range(6))
    main = make_finding(
        layers=sick,
        message=(
            "The gradient loses 5.8 decades between layers.8 and layers.0 (0.72 a "
            "layer): a smooth slope; the lower layers move 3e-05 times as far as the "
            "upper ones, and the loss is still at 97% of its first value."
        ),
        evidence=(
            Evidence("D", 5.76, 2.0, "decades", (50, 50), "layers.0"),
            Evidence("update ratio, lower over upper third", 3.1e-5, 0.1, "", (50, 50)),
            Evidence("smallest signal", 0.2, None, "", (50, 50), note="context only"),
        ),
        origin="layers.5",
        consequences=("The outputs hardly depend on the inputs. (GW105)",),
        affected=("layers.8",),
    )
    note = make_finding(
        "GW302",
        name="update-too-small",
        health=Health.STALLED,
        severity=Severity.NOTE,
        confidence=Confidence.MEDIUM,
        layers=(),
        message="The largest applied update is 1e-06 of its weight.",
        help="Compare the learning rate with what such networks are trained with.",
        evidence=(Evidence("update ratio", 1e-6, 1e-5, "", (0, 50)),),
        since_step=5,
        trend=Trend.GROWING,
    )
    return plain_network(
        10,
        5.76,
        "sigmoid",
        shares=dict.fromkeys(sick, 0.03),
        findings=(note, main),
        health=Health.VANISHING,
        layer_health=dict.fromkeys(sick, Health.VANISHING),
    )


def exploding():
    """A network whose gradient grows on its way down."""
    sick = ("layers.0", "layers.1", "layers.2", "layers.3")
    finding = make_finding(
        "GW201",
        name="exploding-gradient",
        health=Health.EXPLODING,
        severity=Severity.WARNING,
        layers=sick,
        message="The gradient gains 4.8 decades between layers.10 and layers.0.",
        help="Look at the weight scale from layers.3 down.",
        evidence=(Evidence("D", -4.8, -2.5, "decades", (2, 2), "layers.0"),),
        trend=Trend.GROWING,
    )
    return plain_network(
        12,
        -4.8,
        steps=(0, 1, 2),
        findings=(finding,),
        health=Health.EXPLODING,
        layer_health=dict.fromkeys(sick, Health.EXPLODING),
    )


def dead():
    """A network with dead ReLU units."""
    sick = ("layers.2", "layers.3")
    finding = make_finding(
        "GW103",
        name="dead-units",
        health=Health.DEAD,
        severity=Severity.WARNING,
        layers=sick,
        message="97% of the units of layers.2 were never active over 3 probes.",
        help="Look at the biases and the inputs of layers.2.",
        evidence=(
            Evidence(
                "share of units never active", 0.97, 0.9, "share", (10, 50), "layers.2"
            ),
        ),
        since_step=10,
        affected=("layers.0", "layers.1"),
    )
    return plain_network(
        6,
        0.4,
        shares={"layers.0": 0.001, "layers.2": 0.97, "layers.3": 0.92},
        findings=(finding,),
        health=Health.DEAD,
        layer_health=dict.fromkeys(sick, Health.DEAD),
    )


def recurrent():
    """A recurrent network whose gradient fades over time."""
    profile = TimeProfile(
        "rnn",
        "forward",
        tuple(0.01 * 10 ** (-5.2 * (63 - t) / 63) for t in range(64)),
        "input",
        spectral_radius=0.83,
        singular_value=1.14,
    )
    names = ("rnn", "head")
    steps = [
        make_step(
            step,
            layers=[LayerRecord("rnn", 0, 0, 0.02), LayerRecord("head", 0, 1, 0.5)],
            parameters=[],
            chains=[],
            time_profiles=[profile],
            coverage=dict.fromkeys(names, Coverage.OBSERVED),
        )
        for step in (0, 1, 2)
    ]
    infos = {
        "rnn": LayerInfo("rnn", "RNN", Role.RECURRENT, 0, True, num_parameters=8000),
        "head": LayerInfo("head", "Linear", Role.HEAD, 1, True, num_parameters=650),
    }
    finding = make_finding(
        "GW102",
        name="vanishing-through-time",
        severity=Severity.WARNING,
        confidence=Confidence.MEDIUM,
        layers=("rnn",),
        message="The gradient of rnn loses 5.2 decades over 63 time steps.",
        help="What lies before the horizon cannot be learned.",
        evidence=(
            Evidence("gradient lost through time", 5.2, 3.0, "decades", (2, 2), "rnn"),
            Evidence("spectral radius", 0.83, None, "", (2, 2), "rnn", "context only"),
        ),
    )
    return make_report(
        history=make_history(*steps),
        structure=Structure(infos, known=True, reason=""),
        settings=Settings(every=1),
        findings=(finding,),
        health=Health.VANISHING,
        layer_health={"rnn": Health.VANISHING, "head": Health.HEALTHY},
    )


def non_finite():
    """A network that turns non-finite at step 2, in its third layer."""
    names = [f"block.{i}" for i in range(5)]
    steps = []
    for step in range(4):
        fine = step < 2
        grad = 0.1 if fine else math.nan
        steps.append(
            make_step(
                step,
                layers=[
                    LayerRecord(name, 0, i, grad, 1.0 if fine else math.inf)
                    for i, name in enumerate(names)
                ],
                parameters=[],
                chains=[],
                coverage=dict.fromkeys(names, Coverage.OBSERVED),
                non_finite=(
                    None if fine else NonFiniteOrigin(step, "block.2", "forward")
                ),
            )
        )
    infos = {
        name: LayerInfo(name, "Linear", Role.TRUNK, i, True, num_parameters=64)
        for i, name in enumerate(names)
    }
    finding = make_finding(
        "GW205",
        name="non-finite",
        health=Health.NON_FINITE,
        layers=("block.2",),
        message="block.2 turns finite inputs into Inf in the forward pass at step 2.",
        help="Look at what block.2 divides by or raises to a power.",
        evidence=(
            Evidence("NaN or Inf first seen at", 2, None, "step", (2, 3), "block.2"),
            Evidence(
                "largest input", math.inf, None, "", (2, 2), "block.2", "was finite"
            ),
        ),
        since_step=2,
        trend=Trend.UNKNOWN,
        origin="block.2",
        affected=("block.3", "block.4"),
    )
    return make_report(
        history=make_history(*steps),
        structure=Structure(infos, known=True, reason=""),
        findings=(finding,),
        health=Health.NON_FINITE,
        layer_health={"block.2": Health.NON_FINITE},
    )


def failed():
    """A named network; gradwatch met an error of its own at step 51."""
    finding = make_finding(
        "GW103",
        name="dead-units",
        health=Health.DEAD,
        severity=Severity.NOTE,
        layers=("2",),
        message="60% of the units of layer 2 were never active over 3 probes.",
        help="Look at the biases and the inputs of layer 2.",
        evidence=(
            Evidence("share of units never active", 0.6, 0.5, "share", (10, 50)),
        ),
        origin="0",
    )
    return plain_network(
        6,
        0.4,
        name="{}",
        findings=(finding,),
        health=Health.UNKNOWN,
        run=RunFacts(
            gradwatch="0.1.0",
            torch="2.13.0",
            python="3.12.3",
            name="generator",
            model="Sequential",
            num_parameters=24960,
            failure="ZeroDivisionError: division by zero",
        ),
        checked=[
            CheckedRule(code="GW101", name="-", steps=(0, 2)),
            CheckedRule(code="GW103", name="-", steps=(0, 50)),
            CheckedRule(code="GW301", name="-", steps=(0, 50)),
        ],
    )


def nothing_trained():
    """A watch that saw no step."""
    return make_report()


def long_network():
    """A healthy network of 500 layers, with a note on two of them."""
    note = make_finding(
        "GW103",
        name="dead-units",
        health=Health.DEAD,
        severity=Severity.NOTE,
        layers=("backbone.blocks.201.mlp.fc", "backbone.blocks.330.mlp.fc"),
        message="60% of the units of backbone.blocks.201.mlp.fc were never active.",
        help="Watch whether the share grows.",
        evidence=(Evidence("dead units", 0.6, 0.5, "", (10, 50)),),
    )
    return plain_network(
        500,
        1.0,
        name="backbone.blocks.{}.mlp.fc",
        findings=(note,),
        shares={"backbone.blocks.201.mlp.fc": 0.6},
    )


def half_seen():
    """A network of which most layers could not be seen, at one probe."""
    names = [f"encoder.{i}" for i in range(4)]
    step = make_step(
        0,
        layers=[LayerRecord("encoder.0", 0, 0, 0.1)],
        parameters=[],
        chains=[],
        coverage={
            "encoder.0": Coverage.OBSERVED,
            "encoder.1": Coverage.NOT_SEEN,
            "encoder.2": Coverage.NOT_SEEN,
            "encoder.3": Coverage.NO_GRADIENT,
        },
        coverage_reasons=(
            ("encoder.1", "inside a compiled region"),
            ("encoder.2", "inside a compiled region"),
            ("encoder.3", "frozen"),
        ),
    )
    infos = {
        name: LayerInfo(
            name, "Linear", Role.TRUNK, i, True, trainable=i < 3, num_parameters=64
        )
        for i, name in enumerate(names)
    }
    return make_report(history=make_history(step), structure=Structure(infos))


SAMPLES = {
    sample.__name__: sample
    for sample in (
        healthy,
        vanishing,
        exploding,
        dead,
        recurrent,
        non_finite,
        failed,
        nothing_trained,
        long_network,
        half_seen,
    )
}
