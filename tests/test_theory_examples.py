"""The theory gallery: what each script measures agrees with the theory it tells of."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "theory"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name):
    """Import one script of the gallery."""
    spec = importlib.util.spec_from_file_location(
        f"theory_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_tells_its_options_and_needs_no_matplotlib(name, monkeypatch, capsys):
    """`--help` names the folder for the pictures; without it nothing is drawn."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        load(name).main()
    assert stopped.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_chi_is_what_closed_forms_say():
    """Without biases a tanh network below sigma_w = 1 rests at q* = 0: chi = sigma_w^2.

    For the quadrature: E[z^2] of N(0, v) is v.
    """
    script = load("order_chaos")
    assert script.gaussian_mean(lambda x: x**2, 2.5) == pytest.approx(2.5, rel=1e-6)
    assert script.fixed_point(0.7, 0.0) == pytest.approx(0.0, abs=1e-6)
    assert script.chi(0.7, 0.0) == pytest.approx(0.49, rel=1e-5)
    assert script.chi(1.0, 0.5) < 1.0 < script.chi(2.0, 0.5)


@pytest.mark.parametrize(
    ("sigma_w", "sigma_b"), [(0.7, 0.3), (1.5, 0.5), (2.5, 0.5)], ids=str
)
def test_measured_growth_follows_chi(sigma_w, sigma_b):
    """Within what the width allows.

    Hanin and Nica 2018: the variance of ln |grad|^2 is about 5 / width a layer, so the
    slope over L layers has a standard deviation of sqrt(5 / (n L)) / (2 ln 10) decades;
    four of them are allowed.
    """
    script = load("order_chaos")
    width, depth = 128, 16
    report = script.look(sigma_w, sigma_b, width, depth)
    expected = 0.5 * math.log10(script.chi(sigma_w, sigma_b))
    spread = math.sqrt(5 / (width * depth)) / (2 * math.log(10))
    assert script.growth(report) == pytest.approx(expected, abs=4 * spread)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("shape", ["orthogonal", "gaussian", "triangular"])
def test_no_step_back_exceeds_the_bound(activation, shape):
    """sigma_max times the largest slope bounds every step; gradwatch measures them."""
    script = load("rnn_bound")
    matrix = script.make_recurrent(shape, 1.5, 16)
    assert torch.linalg.eigvals(matrix).abs().max() == pytest.approx(1.5, rel=1e-6)
    bound = float(torch.linalg.svdvals(matrix)[0]) * script.SLOPES[activation]
    (profile,) = script.look(activation, matrix, length=16).time_profiles
    ratios = script.growth_by_step(profile.norms)
    assert len(ratios) >= 14
    assert max(ratios) <= bound * (1 + 1e-9)
    assert max(ratios) > bound / 10  # and it is the same quantity


def test_the_spectral_radius_does_not_decide():
    """At equal radius the horizon of a sigmoid is far below that of tanh."""
    script = load("rnn_bound")
    matrix = script.make_recurrent("orthogonal", 0.95, 16)
    horizons = {
        name: script.look(name, matrix, length=24).time_profiles[0].horizon
        for name in ("sigmoid", "tanh")
    }
    radius_alone = math.log(0.01) / math.log(0.95)
    assert horizons["sigmoid"] * 3 < horizons["tanh"] < radius_alone / 3


def test_the_neuron_bifurcates_where_theory_says():
    """Two fixed points meet at the bifurcation: slope 1, and the sweep jumps there."""
    script = load("one_neuron")
    low, high = script.bifurcations(script.WEIGHT)
    for x, b in (low, high):
        assert x == pytest.approx(1 / (1 + math.exp(-(script.WEIGHT * x + b))))
        assert script.WEIGHT * x * (1 - x) == pytest.approx(1.0)
    # By symmetry about x = 1/2, b = -w / 2.
    assert low[1] + high[1] == pytest.approx(-script.WEIGHT)
    step = 0.02
    assert script.settle(low[1] - step, 0.0) < low[0]
    assert script.settle(low[1] + step, 0.0) > high[0]
    assert script.settle(high[1] + step, 1.0) > high[0]
    assert script.settle(high[1] - step, 1.0) < low[0]
    with pytest.raises(ValueError, match="must exceed 4"):
        script.bifurcations(3.9)


def test_the_gradient_of_the_neuron_is_the_product_of_slopes():
    """At a fixed point: slope ** steps; gradwatch sees the growth and the decay."""
    script = load("one_neuron")
    attractor = script.settle(script.MIDDLE, 0.0)
    for start in (attractor, 0.5):
        slope = script.WEIGHT * start * (1 - start)
        assert script.sensitivity(start, 6) == pytest.approx(slope**6, rel=1e-6)
        report = script.look(start)
        norms = report.time_profiles[0].norms
        # From the first step to the last one there are LENGTH - 1 slopes.
        expected = slope ** (script.LENGTH - 1)
        assert norms[0] / norms[-1] == pytest.approx(expected, rel=1e-6)
        (finding,) = [f for f in report.findings if f.code in {"GW102", "GW202"}]
        assert finding.code == ("GW202" if slope > 1 else "GW102")


def test_a_clipped_step_is_as_long_as_the_limit():
    """Where the gradient exceeds the limit: lr * limit; never longer."""
    script = load("clipping_wall")
    free = script.descend(None, steps=24)
    clipped = script.descend(script.LIMIT, steps=24)
    lr, limit = script.LR, script.LIMIT
    for length, norm in zip(clipped.step_lengths(), clipped.norms, strict=True):
        assert length == pytest.approx(lr * min(norm, limit), rel=1e-4)
    for length, norm in zip(free.step_lengths(), free.norms, strict=True):
        assert length == pytest.approx(lr * norm, rel=1e-6)
    assert max(free.norms) > 1000 * limit  # the wall
    assert "GW204" in {finding.code for finding in free.report.findings}
    surface = script.loss_surface(
        *(torch.tensor([value], dtype=torch.float64) for value in script.START)
    )
    assert float(surface) == pytest.approx(free.losses[0])


def test_the_gradient_of_a_residual_net_is_binomial_over_path_length():
    """The parts add up to autograd's gradient; their shares are those of theory.

    Three networks of finite width: a share may be off by 0.03, the mean path length by
    a tenth.
    """
    script = load("resnet_paths")
    blocks = 8
    result = script.measure(blocks=blocks, width=96, seeds=3)
    assert result.error < 1e-5
    assert sum(result.measured) == pytest.approx(1.0, abs=1e-5)
    assert result.measured == pytest.approx(result.predicted, abs=0.03)
    c = script.branch_factor()
    mean = sum(k * share for k, share in enumerate(result.measured))
    assert mean == pytest.approx(blocks * c / (1 + c), rel=0.1)
    assert mean < 0.5 * blocks / 2  # far below the mean length of the paths


def test_shortcuts_keep_the_gradient_that_the_longest_path_loses():
    """Each D is that of theory, and only the net without shortcuts has a finding."""
    script = load("resnet_paths")
    c, blocks = script.branch_factor(), 12
    kept = script.look(True, blocks=blocks, width=128)
    lost = script.look(False, blocks=blocks, width=128)
    assert script.decades(kept) == pytest.approx(
        -blocks / 2 * math.log10(1 + c), abs=0.25
    )
    assert script.decades(lost) == pytest.approx(-blocks / 2 * math.log10(c), abs=0.35)
    assert not kept.findings
    assert "GW101" in {finding.code for finding in lost.findings}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_gate_leaves_the_sigmoid_of_its_bias(kind):
    """With small weights a step back leaves phi(b), and the horizon follows."""
    script = load("gate_bias")
    for bias in (0.0, 2.0):
        report = script.look(kind, bias, 0.03, length=40)
        (profile,) = report.time_profiles
        gate = 1 / (1 + math.exp(-bias))
        assert script.factor(profile.norms) == pytest.approx(gate, rel=0.02)
        # An LSTM loses the output gate's half once, on the last step.
        share = 0.02 if kind == "LSTM" else 0.01
        expected = script.predicted_horizon(bias, share)
        assert profile.horizon == pytest.approx(expected, rel=0.1)


def test_pictures_are_drawn(tmp_path):
    """One script from end to end: the picture is a PNG file."""
    script = load("one_neuron")
    path = script.draw(script.measure(points=21), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
