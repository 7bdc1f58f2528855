"""The pictures of a report: what they show is what was measured."""

import builtins
import json
import math
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.errors import ReportError
from gradwatch.records import LayerRecord, TimeProfile
from gradwatch.report import Report
from gradwatch.runlog import read_run
from gradwatch.structure import Structure
from gradwatch.testing import make_history, make_step
from tests.sample_reports import healthy, make_report, recurrent, vanishing

DECADES = 5.76


@pytest.fixture(scope="module")
def sick():
    """A report whose gradient loses several decades over depth."""
    return vanishing()


def lines(axes):
    """Return the lines of some axes by label."""
    return {str(line.get_label()): line for line in axes.get_lines()}


def test_the_depth_profile_shows_the_trunk_and_its_limits(sick):
    """Its line is the trunk relative to the top, and the limits are those in use."""
    (axes,) = sick.plot("depth profile").axes
    drawn = lines(axes)
    (trunk,) = [line for label, line in drawn.items() if label.startswith("trunk")]
    norms = [point.grad_norm for point in sick.chains[0].points]
    assert list(trunk.get_ydata()) == pytest.approx([n / norms[-1] for n in norms])
    limits = {line.get_ydata()[0] for label, line in drawn.items() if "GW" in label}
    assert limits == {10**-2.0, 10**2.5}
    assert axes.get_yscale() == "log"


def test_limits_follow_the_settings():
    """A user's own limit is the one that is drawn."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    report = gradwatch.check(
        model, torch.randn(3, 4), settings={"vanishing_decades": 1.5}
    )
    (axes,) = report.plot("depth profile").axes
    (label,) = [label for label in lines(axes) if "GW101" in label]
    assert lines(axes)[label].get_ydata()[0] == pytest.approx(10**-1.5)


def test_layers_of_a_finding_are_ringed(sick):
    """The rings lie on the layers that the finding names, and carry its code."""
    (axes,) = sick.plot("depth profile").axes
    (finding,) = [f for f in sick.findings if f.code == "GW101"]
    (rings,) = [c for c in axes.collections if "GW101" in str(c.get_label())]
    points = sick.chains[0].points
    places = [i for i, p in enumerate(points) if p.layer in finding.layers]
    assert rings.get_offsets()[:, 0].tolist() == places
    (plain,) = healthy().plot("depth profile").axes
    assert not plain.collections


def test_the_heat_map_has_a_row_for_each_layer_and_a_column_for_each_probe(sick):
    """Its cells are the decades above the top at each probe."""
    left, right = sick.plot("heat map").axes[:2]
    cells = left.images[0].get_array()
    names = [layer.name for layer in sick.layers if layer.num_parameters]
    assert cells.shape == (len(names), len(sick.run.probe_steps))
    ratios = [layer.grad_ratio for layer in sick.layers if layer.num_parameters]
    assert cells[:, -1].tolist() == pytest.approx(ratios)
    updates = [layer.update_ratio for layer in sick.layers if layer.num_parameters]
    expected = [max(math.log10(value), -6.0) for value in updates]
    assert right.images[0].get_array()[:, -1].tolist() == pytest.approx(expected)


def test_what_was_not_measured_is_no_number_in_the_heat_map():
    """A frozen layer stays grey where it has no gradient or no update."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model[1].requires_grad_(False)
    report = gradwatch.check(model, torch.randn(3, 4))
    right = report.plot("heat map").axes[1]
    assert np.ma.getmaskarray(right.images[0].get_array()).all()  # nothing stepped


def test_the_time_profile_shows_the_norms_over_their_peak():
    """One line a recurrent layer, the horizon in its label."""
    report = recurrent()
    (axes,) = report.plot("time profile").axes
    profile = report.time_profiles[0]
    (label,) = [label for label in lines(axes) if label.startswith(profile.layer)]
    expected = [n / max(profile.norms) if n > 0 else math.nan for n in profile.norms]
    drawn = list(lines(axes)[label].get_ydata())
    assert drawn == pytest.approx(expected, nan_ok=True)
    assert f"{profile.horizon:.0f} steps" in label


def test_all_pictures_come_by_name_and_what_is_missing_is_said(sick):
    """A dict of figures; a picture without data is left out with the reason."""
    figures = sick.plot()
    assert set(figures) == {"depth profile", "heat map"}
    assert "no recurrent layer" in figures.missing["time profile"]
    with pytest.raises(KeyError, match="no recurrent layer"):
        figures["time profile"]
    page = figures._repr_html_()
    assert page.count("<img") == 2
    assert "No time profile" in page
    assert sick.plot("heat map")._repr_png_().startswith(b"\x89PNG")


def test_a_report_without_data_has_no_picture():
    """Nothing measured: no figure, three reasons."""
    empty = make_report()
    assert empty.plot() == {}
    assert len(empty.plot().missing) == 3
    with pytest.raises(ReportError, match="no layer's gradient"):
        empty.plot("depth profile")


def test_an_unknown_picture_is_named_with_those_that_exist(sick):
    """The message holds the argument and the choices."""
    with pytest.raises(ReportError, match=r"`name` \(='spectrum'\).*'heat map'"):
        sick.plot("spectrum")


def test_any_name_and_any_number_can_be_drawn():
    """Dollars, underscores, control characters; NaN, infinities and extreme norms."""
    norms = (0.0, 1e-300, math.nan, math.inf, 1e300)
    profiles = [
        TimeProfile(layer, "forward", norms, "replay")
        for layer in ("_rnn", "$\\frac$", "a\nb\x1b[31m")
    ]
    probe = make_step(
        0,
        layers=[
            LayerRecord(f"${name}$", 0, i, grad_norm=norm)
            for i, (name, norm) in enumerate(zip("abcde", norms, strict=True))
        ],
        time_profiles=(*profiles, TimeProfile("nan", "forward", (math.nan,) * 5, "x")),
    )
    report = make_report(history=make_history(probe), structure=Structure())
    figures = report.plot()
    assert set(figures) == {"depth profile", "heat map", "time profile"}
    for figure in figures.values():
        assert figure._repr_png_().startswith(b"\x89PNG")
    legend = figures["time profile"].axes[0].get_legend()
    assert len(legend.get_texts()) == len(profiles) + 1


def test_limits_of_a_strange_file_are_the_usual_ones(sick):
    """A setting that no settings object would accept does not stop the drawing."""
    strange = sick.model_copy(update={"settings": {"vanishing_decades": "x", "q": 1}})
    (axes,) = strange.plot("depth profile").axes
    assert any("2 decades lost" in label for label in lines(axes))


def test_a_report_from_json_says_where_its_series_is(sick):
    """JSON holds the shown probe only: no heat map, and equality is unchanged."""
    read = Report.from_json(sick.to_json())
    assert read == sick
    assert "_series" not in json.loads(sick.to_json())
    assert "read_run" in read.plot().missing["heat map"]
    assert "depth profile" in read.plot()


def train(model, **options):
    """Train a few steps under a watch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, console=None, **options) as watch:
        for _ in range(7):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            if watch.history.num_probes == 2:
                early = watch.report()
    return early, watch.report()


def test_live_and_recorded_runs_draw_the_same_heat_map(tmp_path):
    """The report of a watch and that of its record show the same cells."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    early, live = train(model, record=tmp_path / "run")
    read = read_run(tmp_path / "run").report
    cells = [
        report.plot("heat map").axes[0].images[0].get_array()
        for report in (early, live, read)
    ]
    assert cells[0].shape[1] == 2  # as it was when it was asked for
    assert cells[1].shape[1] == len(live.run.probe_steps)
    np.testing.assert_allclose(cells[1], cells[2])


def test_drawing_leaves_matplotlib_as_it_was(sick):
    """No setting, no backend and no figure of pyplot."""
    before = dict(mpl.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    sick.plot()
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_without_matplotlib_the_extra_is_named(sick, monkeypatch):
    """The error says what to install."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "gradwatch.plots", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        sick.plot()
