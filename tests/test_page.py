"""The page of a report: complete, inert, small, and its numbers are the records'."""

import base64
import hashlib
import json
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from importlib import resources

import pytest

from gradwatch.history import Series
from gradwatch.page import page, page_data, script_json
from gradwatch.page_numbers import (
    MAX_COLUMNS,
    MISSING,
    NOT_FINITE,
    ZERO,
    decades,
    pack,
    series_data,
    share,
)
from gradwatch.records import (
    ActivationRecord,
    ChainRecord,
    LayerRecord,
    ParameterRecord,
    PointRecord,
    PulseRecord,
    StepRecord,
    TimeProfile,
)
from gradwatch.report import Report
from gradwatch.runlog import read_run
from gradwatch.settings import Settings
from tests.recorded_runs import FakeRun
from tests.sample_reports import vanishing

HOSTILE = '</script><img src=x onerror="alert(1)">\u2028&amp;[red]'


def unpack(text):
    """Return the cells of a packed grid, as a browser reads them."""
    data = zlib.decompress(base64.b64decode(text))
    return list(struct.unpack(f"<{len(data) // 2}h", data))


class Reader(HTMLParser):
    """Collects what a page loads, and its scripts."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.scripts = [], [], []
        self._in_script = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action")]
        if tag == "script":
            self._in_script = True
            self.scripts.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        if tag == "script":
            self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1][1] += data


def read(text):
    """Return the parsed page and its data."""
    reader = Reader()
    reader.feed(text)
    data = next(code for attrs, code in reader.scripts if attrs.get("id") == "data")
    return reader, json.loads(data)


def probe(step, gradients, **fields):
    """Return a probe of layers a, b, ... with these gradient norms."""
    names = "abcdefgh"[: len(gradients)]
    return StepRecord(
        step,
        layers=tuple(
            LayerRecord(name, 0, i, grad_norm=norm)
            for i, (name, norm) in enumerate(zip(names, gradients, strict=True))
        ),
        **fields,
    )


def test_a_page_is_complete_and_loads_nothing():
    """No address but an anchor within the page, and a policy that forbids the rest."""
    report = Report.from_json(vanishing().to_json())  # one that knows no series
    text = page(report)
    reader, data = read(text)
    assert [
        address for address in reader.addresses if not address.startswith("#")
    ] == []
    assert {"link", "iframe", "object", "embed", "img"}.isdisjoint(reader.tags)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "<!--gradwatch:" not in text
    assert data["report"] == json.loads(vanishing().to_json())
    assert data["series"] is None


def test_a_live_page_may_ask_where_it_came_from_and_nowhere_else():
    """It asks its own server."""
    text = page(vanishing(), live=True)
    assert "connect-src 'self'" in text
    assert read(text)[1]["live"] is True


def test_words_of_a_run_end_no_script():
    """Names of layers and messages stay data, whatever is in them."""
    report = vanishing()
    (finding, *others) = report.findings
    hostile = type(finding)(
        **{name: getattr(finding, name) for name in finding.__dataclass_fields__}
        | {"message": HOSTILE, "layers": (HOSTILE,)}
    )
    report = report.model_copy(
        update={"findings": (hostile, *others), "sentence": HOSTILE}
    )
    plain, _ = read(page(vanishing()))
    reader, data = read(page(report))
    assert reader.tags == plain.tags
    assert data["report"]["sentence"] == HOSTILE
    assert data["report"]["findings"][0]["layers"] == [HOSTILE]


@pytest.mark.parametrize("text", ["</script>", "<!--", "&", "\u2028", "\u2029"])
def test_json_in_a_script_holds_nothing_that_ends_it(text):
    """What could end the element is escaped, and reads back the same."""
    written = script_json({"x": text})
    assert text not in written
    assert json.loads(written) == {"x": text}


@pytest.mark.parametrize(
    ("value", "top", "cell"),
    [
        (1e-3, 1.0, -3000),
        (2.0, 1.0, 301),
        (5e-320, 1e-300, -19301),
        (None, 1.0, MISSING),
        (1.0, None, MISSING),
        (0.0, 1.0, ZERO),
        (math.inf, 1.0, NOT_FINITE),
        (math.nan, 1.0, NOT_FINITE),
        (1e300, 1e-300, 32000),
    ],
)
def test_cells_are_thousandths_of_decades(value, top, cell):
    """Not measured, zero and not finite are three things, none of them a number."""
    assert decades(value, top) == cell


def test_shares_are_hundredths_of_percents():
    """The same for shares."""
    cells = [share(0.0), share(0.123456), share(1.0), share(None), share(math.nan)]
    assert cells == [0, 1235, 10000, MISSING, NOT_FINITE]


def test_packed_cells_read_back():
    """What is packed is what a browser unpacks."""
    values = [MISSING, ZERO, NOT_FINITE, -1, 0, 1, 32000]
    assert unpack(pack(values)) == values


def test_grids_hold_every_layer_at_every_probe():
    """Layer by layer, a cell a probe; what was not measured is missing, not zero."""
    chain = ChainRecord(
        "a", tuple(PointRecord(n, n, g) for n, g in zip("ab", (1e-4, 1.0), strict=True))
    )
    first = probe(
        0,
        [1e-4, 1.0],
        chains=(chain,),
        parameters=(
            ParameterRecord("a.weight", "a", 2, 100, weight_rms=0.1, update_ratio=1e-3),
            ParameterRecord("a.bias", "a", 1, 10, weight_rms=0.0, update_ratio=0.5),
        ),
        activations=(
            ActivationRecord("a", "relu", num_units=4, dead_units=1),
            ActivationRecord("b", "tanh", saturated_share=0.5),
        ),
    )
    second = probe(7, [None, 10.0])
    data = series_data(Series((first, second), ()), Settings())
    assert data["steps"] == [0, 7]
    assert data["layers"] == ["a"]  # the layer that owns parameters
    grids = {name: unpack(cells) for name, cells in data["grids"].items()}
    assert grids["gradient"] == [-4000, MISSING]
    assert grids["update"] == [-3000, MISSING]
    assert grids["weight"] == [0, MISSING]  # 0.1 * sqrt(100) = 1
    assert grids["dead"] == [2500, MISSING]
    assert grids["saturated"] == [MISSING, MISSING]
    assert unpack(data["trunk"]["cells"]) == [-4000, 0, MISSING, MISSING]


def test_a_broken_gradient_is_called_broken():
    """A NaN is neither missing nor zero."""
    record = StepRecord(
        0, layers=(LayerRecord("a", 0, 0, grad_norm=math.nan, grad_finite=False),)
    )
    data = series_data(Series((record,), ()), Settings())
    assert unpack(data["grids"]["gradient"]) == [NOT_FINITE]


def test_a_time_profile_is_relative_to_its_largest():
    """The newest probe is always among those that are kept."""
    probes = tuple(
        probe(
            i,
            [1.0],
            time_profiles=(TimeProfile("rnn", "forward", (1e-6, 1e-2), "input"),),
        )
        for i in range(250)
    )
    data = series_data(Series(probes, ()), Settings())
    assert data["times"][-1]["step"] == 249
    assert len(data["times"]) <= 100
    assert unpack(data["times"][0]["cells"]) == [-4000, 0]


def test_spikes_clips_and_skips_are_marked():
    """A norm beyond `spike_ratio` times the median before it is a spike."""
    settings = Settings()
    norms = [1.0] * 20 + [settings.spike_ratio * 1.5, 1.0, 1.0]
    pulses = [
        PulseRecord(i, grad_norm=n, step_grad_norm=n) for i, n in enumerate(norms)
    ]
    pulses[3] = PulseRecord(3, grad_norm=1.0, step_grad_norm=0.5, clip_factor=0.5)
    pulses[5] = PulseRecord(5, finite=False, skipped=True)
    pulses[6] = PulseRecord(6, finite=False)
    data = series_data(Series((probe(0, [1.0]),), tuple(pulses)), settings)["pulses"]
    assert data["spikes"] == [20]
    assert data["clipped"] == [3]
    assert data["skipped"] == [5]
    assert data["broken"] == [6]
    assert data["norms"][5] is None


def test_of_very_many_probes_evenly_spaced_ones_are_drawn():
    """The first and the newest among them, and the page says of how many."""
    probes = tuple(probe(i, [1.0]) for i in range(3 * MAX_COLUMNS))
    data = series_data(Series(probes, ()), Settings())
    assert len(data["steps"]) == MAX_COLUMNS
    assert data["steps"][0] == 0
    assert data["steps"][-1] == 3 * MAX_COLUMNS - 1
    assert data["probes"] == 3 * MAX_COLUMNS


def test_five_hundred_layers_at_five_hundred_probes_stay_below_5_mb():
    """Norms that no neighbour predicts: nothing to gain by packing."""
    count = 500
    layers = tuple(
        LayerRecord(
            f"encoder.layers.{i}.fc", 0, i, grad_norm=1e-3 * (1 + (i * 7919 % 997))
        )
        for i in range(count)
    )
    parameters = tuple(
        ParameterRecord(
            f"{r.layer}.weight",
            r.layer,
            2,
            9,
            weight_rms=1 + (i * 31 % 97) / 9,
            update_ratio=1e-3 * (1 + i * 57 % 91),
        )
        for i, r in enumerate(layers)
    )
    probes = tuple(
        StepRecord(step, layers[step:] + layers[:step], parameters=parameters)
        for step in range(count)
    )
    report = vanishing()
    report._series = Series(probes, ())
    assert len(page(report).encode()) < 5e6


def test_a_recorded_run_has_pictures(tmp_path):
    """From the record to the numbers of the page."""
    run = FakeRun(tmp_path)
    for step in (0, 10, 20):
        run.probe(step)
    loaded = read_run(run.recorder.folder).report
    path = loaded.save(tmp_path / "page.html")
    _, data = read(path.read_text("utf-8"))
    assert data["series"]["steps"] == [0, 10, 20]
    assert data["limits"]["vanishing_decades"] == run.settings.vanishing_decades


def test_limits_are_those_of_the_run():
    """A report with other limits draws other limits; nonsense falls back."""
    report = vanishing()
    own = report.model_copy(update={"settings": {"vanishing_decades": 3.5}})
    assert page_data(own)["limits"]["vanishing_decades"] == 3.5
    bad = report.model_copy(update={"settings": {"vanishing_decades": "many"}})
    assert page_data(bad)["limits"]["vanishing_decades"] == 2.0


def test_the_plotting_library_is_the_published_one():
    """ECharts 6.1.0, `dist/echarts.min.js` of its npm package, unchanged."""
    file = resources.files("gradwatch").joinpath("templates", "echarts.min.js")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found == "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
