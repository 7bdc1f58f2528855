"""Hand-made recommendations, and reports that carry them."""

from dataclasses import replace

from gradwatch.anatomy import ActivationSite
from gradwatch.findings import Evidence, Health, Severity
from gradwatch.recommendations import (
    Change,
    ProfileSeen,
    Recommendation,
    Rejection,
    Risk,
    TrialResult,
    Verdict,
)
from tests.sample_reports import make_finding, plain_network

SWAP = Recommendation(
    remedy="swap-activation",
    title="Swap 9 Sigmoids for ReLU, with He weights",
    answers=("GW101", "GW105"),
    layers=tuple(f"layers.{i}" for i in range(9)),
    why=(
        "A sigmoid passes on at most 1/4 of the gradient: 9 of them lose 5.4 decades. "
        "A ReLU passes on all of it where it is active; He weights keep its size."
    ),
    code=(
        "for i in range(9):\n"
        "    model.acts[i] = nn.ReLU()\n"
        '    nn.init.kaiming_normal_(model.layers[i].weight, nonlinearity="relu")\n'
        "    nn.init.zeros_(model.layers[i].bias)"
    ),
    risk=Risk.RESHAPES,
    sites=(ActivationSite("layers.0", "sigmoid", "acts.0"),),
    options={"to": "relu", "gain": 2.0, "layers": 9, "bias": True},
    caution="The outputs are no longer between 0 and 1.",
    source=(
        "Glorot, Bordes & Bengio (2011), Deep sparse rectifier neural networks; He et "
        "al. (2015), Delving deep into rectifiers, arXiv:1502.01852"
    ),
    record="helped 24 of 24 deep sigmoid networks",
)
KUMAR = Recommendation(
    remedy="initialise-weights",
    title="Draw 9 weights for sigmoids, std 0.45",
    answers=("GW101",),
    layers=tuple(f"layers.{i}" for i in range(9)),
    why="Their std is 0.07; sigmoids of 64 inputs keep the signal at 0.45.",
    code="for layer in model.layers[:9]:\n    nn.init.normal_(layer.weight, std=0.45)",
    risk=Risk.REINITIALISES,
    caution="Beyond about 20 layers it is not enough.",
    source="Kumar (2017)",
    record="helped 11 of 24 deep sigmoid networks",
)
RESIDUAL = Recommendation(
    remedy="add-residual",
    title="Add shortcuts around layers.1 to layers.8, scaled 0.35",
    answers=("GW101",),
    layers=tuple(f"layers.{i}" for i in range(1, 9)),
    why="They keep the shape of what they read: the gradient may pass beside them.",
    code="x = x + 0.35 * self.act(layer(x))",
    risk=Risk.RESHAPES,
    record="helped 20 of 24 deep sigmoid networks",
    can_apply=False,
    where="train.py:27",
)
RATE = Recommendation(
    remedy="adjust-learning-rate",
    title="Multiply the learning rate by 100, to 0.1",
    answers=("GW302",),
    layers=(),
    why="The median update is 1e-5 of its weight; 1e-3 is usual.",
    code='for group in optimizer.param_groups:\n    group["lr"] = 0.1',
    risk=Risk.SAFE,
    record="helped 8 of 10 networks with too small updates",
)
CLIP = Rejection("clip-gradients", "clipping cannot enlarge a gradient", ("GW101",))
NORM = Rejection("add-normalisation", "layer norm before a sigmoid harms", ("GW101",))

HELPED = TrialResult(
    Verdict.HELPED,
    "Loss over the last 20 of 100 steps: untreated 2.3 (from 2.31), treated 0.41 (from "
    "2.35): better by more than 0.12.",
    how="training",
    backpropagated="loss_fn",
    before=ProfileSeen(decades=6.2, loss=2.31),
    after=ProfileSeen(decades=0.3, loss=2.35),
    losses_before=(2.31,) * 80 + (2.3,) * 20,
    losses_after=(2.35,) * 80 + (0.41,) * 20,
    steps=100,
    seconds=3.2,
    changes=(Change("acts.0", "activation", "Sigmoid", "ReLU"),),
)
NO_CHANGE = TrialResult(
    Verdict.NO_CHANGE,
    "Loss over the last 20 of 100 steps: untreated 2.3 (from 2.31), treated 2.31 (from "
    "2.3): no further apart than 0.12.",
    how="training",
    backpropagated="cross-entropy recognised",
    before=ProfileSeen(decades=6.2),
    after=ProfileSeen(decades=5.9),
    losses_before=(2.31,) * 100,
    losses_after=(2.3,) * 100,
    steps=100,
)
UNSHOWN = TrialResult(
    Verdict.NO_CHANGE,
    "A replay cannot judge what only changes the training, such as a learning rate or "
    "clipping.",
    before=ProfileSeen(decades=6.2),
    after=ProfileSeen(decades=6.2),
)
HURT = TrialResult(
    Verdict.HURT,
    "It makes something else sick: D 6.2 -> -7.1 decades (limit -2.5).",
    backpropagated="random cotangent",
    before=ProfileSeen(decades=6.2),
    after=ProfileSeen(decades=-7.1),
    changes=(Change("layers.0", "weight", "std 0.07", "std 0.9"),),
)
FAILED = TrialResult(
    Verdict.FAILED, "layers.3 got inputs of another shape: expected 64, got 32"
)


def sick(findings, recommendations, rejections=(CLIP, NORM)):
    """Return the report on a fading network of ten layers."""
    names = tuple(f"layers.{i}" for i in range(6))
    return plain_network(
        10,
        5.76,
        "sigmoid",
        shares=dict.fromkeys(names, 0.03),
        findings=findings,
        health=Health.VANISHING,
        layer_health=dict.fromkeys(names, Health.VANISHING),
        recommendations=recommendations,
        rejections=rejections,
    )


def fading():
    """Return the finding of a deep sigmoid network."""
    return make_finding(
        layers=tuple(f"layers.{i}" for i in range(6)),
        message=(
            "The gradient loses 5.8 decades between layers.8 and layers.0 (0.72 a "
            "layer): a smooth slope; the lower layers move 3e-05 times as far as the "
            "upper ones, and the loss is still at 97% of its first value."
        ),
        evidence=(
            Evidence("D", 5.76, 2.0, "decades", (50, 50), "layers.0"),
            Evidence("update ratio, lower over upper third", 3.1e-5, 0.1, "", (50, 50)),
        ),
        origin="layers.5",
    )


def collapsed():
    """Return a second finding, of the same cause."""
    return make_finding(
        "GW105",
        name="signal-collapse",
        health=Health.STALLED,
        severity=Severity.WARNING,
        layers=("layers.7", "layers.8"),
        message="The outputs of layers.8 hardly depend on the input.",
        evidence=(Evidence("sample signal", 0.004, 0.05, "", (50, 50), "layers.8"),),
    )


def stalled():
    """Return a third finding, of its own."""
    return make_finding(
        "GW302",
        name="update-too-small",
        health=Health.STALLED,
        severity=Severity.WARNING,
        layers=(),
        message="The largest applied update is 1e-06 of its weight.",
        evidence=(Evidence("update ratio", 1e-6, 1e-5, "", (0, 50)),),
    )


def recommended():
    """A sick network with three remedies; none was tried."""
    return sick((fading(),), (SWAP, KUMAR, RESIDUAL))


def tried():
    """The same after trials of all three: each ended otherwise."""
    return sick(
        (fading(),),
        (
            replace(SWAP, trial=HELPED),
            replace(KUMAR, trial=NO_CHANGE),
            replace(RESIDUAL, trial=HURT, can_apply=True, where=""),
        ),
    )


def advised():
    """A network whose first remedy only the user can carry out."""
    return sick((fading(),), (RESIDUAL,), ())


def crowded():
    """Three findings, nine recommendations and six rejections."""
    return sick(
        (fading(), collapsed(), stalled()),
        (
            SWAP,
            KUMAR,
            RESIDUAL,
            replace(KUMAR, answers=("GW105",), title="Draw orthogonal weights"),
            replace(RESIDUAL, answers=("GW105",), title="Add layer norms after joins"),
            replace(SWAP, answers=("GW105",), title="Swap 9 Sigmoids for SELU"),
            RATE,
            replace(RATE, remedy="change-optimizer", title="Use Adam with lr 0.001"),
            replace(RATE, remedy="loss-scaling", title="Compute in bfloat16"),
        ),
        (
            CLIP,
            NORM,
            *(
                Rejection(f"remedy-{i}", f"of no use for reason {i}", ("GW302",))
                for i in range(4)
            ),
        ),
    )


SAMPLES = {sample.__name__: sample for sample in (recommended, tried, advised, crowded)}
