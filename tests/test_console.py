"""What a user reads: snapshots of the report, alerts, the panel; and what stays inert.

The snapshots lie in `tests/snapshots`. After a change that is meant, write them again
with `GRADWATCH_WRITE_SNAPSHOTS=1` and read them.
"""

import io
import itertools
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

from gradwatch.console import (
    ConsoleView,
    emit,
    markdown_text,
    render_alert,
    report_text,
    stream_format,
)
from gradwatch.console_layers import chosen_rows, table_rows
from gradwatch.console_live import can_be_live, render_panel
from gradwatch.console_report import to_text
from gradwatch.console_text import (
    bar,
    compact,
    decades,
    duration,
    inert,
    measured,
    number,
    percent,
    plain_for,
    shorten,
    sparkline,
)
from gradwatch.findings import Confidence, Health, Severity
from gradwatch.report import RunFacts
from gradwatch.testing import make_chain, make_history, make_pulses, make_step
from tests.sample_reports import (
    SAMPLES,
    healthy,
    make_finding,
    plain_network,
    vanishing,
)

SNAPSHOTS = Path(__file__).parent / "snapshots"
HOSTILE = "[red]x[/red]\x1b[2J\x1b]0;title\x07\r\n\u202e\x9b31m"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def neutral_environment(monkeypatch):
    """No test depends on the terminal that runs it."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SAMPLES)
def test_report_reads_as_before(name, width):
    """The whole report, as text, at two widths."""
    text = report_text(SAMPLES[name](), width) + "\n"
    file = SNAPSHOTS / f"{name}.{width}.txt"
    if os.environ.get("GRADWATCH_WRITE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_line_is_wider_than_the_console(name, width):
    """Nothing is cut off by the terminal."""
    lines = report_text(SAMPLES[name](), width).splitlines()
    assert max(map(len, lines)) <= width


def test_a_slope_is_seen():
    """Bars of a fading gradient grow from layer to layer; healthy ones are level."""
    lengths = bar_lengths(vanishing())
    assert lengths == sorted(lengths)
    assert lengths[0] < 3 < 10 < lengths[-2]
    level = bar_lengths(healthy())
    assert max(level) - min(level) < 1


def bar_lengths(report):
    """Return the length of each layer's bar, in cells."""
    eighths = dict(zip("▏▎▍▌▋▊▉█", range(1, 9), strict=True))
    bars = re.findall(r"\d layers\.\d+ +([▏▎▍▌▋▊▉█]+) ", report_text(report))
    return [sum(map(eighths.__getitem__, bar)) / 8 for bar in bars]


def test_not_measured_is_a_dash_and_explained():
    """What was not measured is never shown as zero."""
    text = report_text(SAMPLES["half_seen"]())
    row = next(line for line in text.splitlines() if "encoder.1 " in line)
    assert row.split()[2:] == ["\u2013", "\u2013", "\u2013", "not", "seen"]
    assert "\u2013: not measured" in text.replace("\n  ", " ")


def test_long_networks_show_the_ends_sick_layers_and_a_sample():
    """500 layers become 32 rows, and the text says how many are left out."""
    report = SAMPLES["long_network"]()
    rows = table_rows(report)
    named = set(report.findings[0].layers)
    shown = chosen_rows(rows, named)
    assert len(shown) == 32
    assert {0, 1, 2, 201, 330, 497, 498, 499} <= set(shown)
    gaps = [b - a for a, b in itertools.pairwise(shown)]
    assert max(gaps) < 2 * 500 / 24
    assert "32 of 500 layers shown" in report_text(report)


def test_many_sick_layers_leave_room_for_the_others():
    """Even with all layers sick, the rows stay few and the ends are there."""
    rows = [row.model_copy(update={"health": Health.DEAD}) for row in
            table_rows(SAMPLES["long_network"]())]  # fmt: skip
    shown = chosen_rows(rows)
    assert len(shown) <= 32
    assert {0, 499} <= set(shown)


def test_names_from_the_user_are_inert():
    """Markup is text, and no character reaches the terminal that it could obey."""
    finding = make_finding(
        layers=(HOSTILE,), message=f"{HOSTILE} is sick.", help=HOSTILE, origin=HOSTILE
    )
    report = plain_network(
        6, name="{}" + HOSTILE, findings=(finding,), health=Health.VANISHING
    )
    for text in (report_text(report), render_alert(finding)):
        assert "[red]x[/red]" in text
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    coloured = report_text(report, colour=True)
    without_styles = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert "\x1b" not in without_styles


@given(st.text())
def test_inert_text_is_printable_and_ordinary_names_stay(text):
    """No control, format or line-breaking character is left."""
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]", inert(text))
    assert inert("blöcke.0/naïve") == "blöcke.0/naïve"


def test_no_escape_codes_where_there_is_no_terminal(monkeypatch):
    """A log file gets plain text of 80 columns; so does NO_COLOR's terminal."""
    assert stream_format(io.StringIO()) == (80, False)
    assert stream_format(Terminal())[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not stream_format(Terminal())[1]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not stream_format(Terminal())[1]
    assert "\x1b" not in printed("end", io.StringIO())


def printed(mode, stream, *findings, report=None):
    """Return what a view prints for findings and a report."""
    view = ConsoleView(mode, stream)
    for finding in findings:
        view.on_finding(finding)
    view.on_close(report or vanishing())
    return stream.getvalue()


def test_terminals_that_cannot_hold_our_signs_get_others():
    """An ASCII stream is written to without an error, and the slope is still seen."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    emit(report_text(vanishing()), stream)
    text = raw.getvalue().decode("ascii")
    assert "gradwatch -----" in text
    assert "########" in text
    assert "?" not in text
    assert plain_for("no-such-encoding", "…") == "..."
    assert plain_for("utf-8", "…") == "…"


def test_alert_says_when_what_and_where():
    """Two lines: step, severity, rule; then layers, sentence and where to read on."""
    assert render_alert(vanishing().findings[0]).splitlines() == [
        "gradwatch: step 50: CRITICAL GW101 vanishing-gradient",
        "  layers.0 … layers.5 (6 layers): The gradient loses 5.8 decades between "
        "layers.8 and layers.0 (0.72 a layer): a smooth slope. More: gradwatch "
        "explain GW101",
    ]
    late = make_finding(since_step=80)
    assert render_alert(late).startswith("gradwatch: step 80: CRITICAL GW101")
    gone = make_finding(cleared_step=70)
    assert render_alert(gone) == (
        "gradwatch: step 70: GW101 vanishing-gradient is gone (it stood since step 0)"
    )


def test_alert_names_a_layer_once_and_the_model_where_it_has_a_name():
    """Two networks of one class can be told apart; a number is called a layer."""
    rnn = make_finding(layers=("rnn",), message="The gradient of rnn loses 5 decades.")
    head, line = render_alert(rnn, "generator").splitlines()
    assert head == "gradwatch generator: step 50: CRITICAL GW101 vanishing-gradient"
    assert line.startswith("  The gradient of rnn loses 5 decades. More:")
    other = make_finding(layers=("fc1",), message="The gradient of fc10 loses 5.")
    assert "  fc1: The gradient of fc10" in render_alert(other)
    bare = make_finding(layers=("22",), message="22% of the outputs are saturated.")
    assert "  layer 22: 22% of" in render_alert(bare)


def test_a_root_that_owns_a_parameter_is_named_wherever_layers_are():
    """In the alert, the card, the table and at the ends of a sparkline."""
    report = plain_network(4, name="{}", findings=(make_finding(layers=("0", "")),))
    chain = report.chains[0]
    top = chain.points[-1].model_copy(update={"label": "", "layer": ""})
    rows = [
        row.model_copy(update={"name": row.name.strip("2")}) for row in report.layers
    ]
    report = report.model_copy(
        update={
            "layers": rows,
            "chains": (chain.model_copy(update={"points": (*chain.points[:-1], top)}),),
        }
    )
    lines = report_text(report).splitlines()
    assert any(re.match(r" +layers +0, \(model\)$", line) for line in lines)
    assert any(re.match(r" +3 \(model\) +█", line) for line in lines)
    assert any(re.match(r" +layers.0 .+ \(model\)$", line) for line in lines)
    alert = render_alert(make_finding(layers=("h", "")))
    assert alert.splitlines()[1].startswith("  h, (model): ")


def test_the_name_of_the_model_is_in_the_header_and_inert():
    """Only one that the user gave."""
    run = RunFacts(name=HOSTILE, model="Net")
    text = report_text(plain_network(6, run=run))
    assert text.startswith("gradwatch [red]x[/red]\\x1b[2J")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    plain = plain_network(6, run=RunFacts(name="Net", model="Net"))
    assert report_text(plain).startswith("gradwatch ─")


def test_values_are_shown_with_their_unit():
    """Shares in percent, a step as a step."""
    assert measured(1.0, "share") == "100%"
    assert measured(556, "step") == "step 556"
    assert measured(5.76, "decades") == "5.76 decades"
    assert measured(0.02, "") == "0.02"


def test_alarms_are_told_once_and_again_when_they_get_worse():
    """The same finding is not repeated; notes and unconfirmed ones are not told."""
    warning = make_finding(severity=Severity.WARNING)
    stream = io.StringIO()
    view = ConsoleView("alerts", stream)
    for finding in (
        make_finding(severity=Severity.NOTE),
        make_finding(confidence=Confidence.LOW),
        warning,
        replace(warning, layers=("layers.3",)),
        make_finding(),
        warning,
    ):
        view.on_finding(finding)
    told = re.findall(r"step \d+: (\w+) GW101", stream.getvalue())
    assert told == ["WARNING", "CRITICAL"]


def test_what_is_gone_is_told_once():
    """A finding that clears is told by its probe or by itself, not by both."""
    finding = make_finding()
    stream = io.StringIO()
    view = ConsoleView("alerts", stream)
    view.on_finding(finding)
    history = make_history(make_step(70))
    view.on_probe(history, (finding,), Health.VANISHING)
    view.on_probe(history, (), Health.HEALTHY)
    view.on_probe(history, (), Health.HEALTHY)
    view.on_finding(replace(finding, cleared_step=70))
    assert stream.getvalue().count("is gone") == 1
    assert "step 70: GW101" in stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "alerts", "reports"),
    [("alerts", 1, 1), ("live", 1, 1), ("end", 0, 1), (None, 0, 0)],
)
def test_modes_print_what_they_promise(mode, alerts, reports):
    """Alerts, the report, or nothing."""
    text = printed(mode, io.StringIO(), make_finding())
    assert text.count("gradwatch: step") == alerts
    assert text.count("What was seen and spent") == reports


def test_report_is_printed_once():
    """Closing twice prints once."""
    stream = io.StringIO()
    view = ConsoleView("end", stream)
    view.on_close(healthy())
    view.on_close(healthy())
    assert stream.getvalue().count("HEALTHY") == 1


def test_default_stream_is_standard_error_at_the_time(capsys, monkeypatch):
    """Standard error is looked up when something is printed; none at all is fine."""
    view = ConsoleView("alerts")
    view.on_finding(make_finding())
    assert "GW101" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", None)
    view.on_finding(make_finding("GW103"))
    view.on_close(healthy())


class BrokenStream(io.StringIO):
    """A stream whose every write fails."""

    writes = 0

    def write(self, text):
        self.writes += 1
        raise BrokenPipeError


@pytest.mark.parametrize("mode", ["live", "alerts", "end"])
def test_errors_of_printing_never_reach_training(mode):
    """A closed stream, a broken pipe: silence from then on, no exception."""
    closed = io.StringIO()
    closed.close()
    broken = BrokenStream()
    for stream in (closed, broken, object()):
        view = ConsoleView(mode, stream)
        view.on_finding(make_finding())
        view.on_probe(make_history(make_step(0)), (), Health.HEALTHY)
        view.on_close(healthy())
    assert broken.writes == 1


def test_alerts_go_above_the_bars_of_tqdm():
    """A bar is cleared, the alert has lines of its own, the bar is drawn again."""
    stream = Terminal()
    with tqdm(total=10, file=stream, ncols=60, mininterval=0) as progress:
        progress.update(3)
        ConsoleView("alerts", stream, 80).on_finding(make_finding())
        progress.update(3)
    lines = re.split(r"[\r\n]", stream.getvalue())
    alert = [line for line in lines if "CRITICAL" in line]
    assert len(alert) == 1
    assert "%|" not in alert[0]
    assert "60%|" in stream.getvalue().rpartition("CRITICAL")[2]


def test_tqdm_is_not_imported_for_nothing(monkeypatch):
    """Without tqdm in the process the alert is simply written."""
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    stream = io.StringIO()
    emit("text", stream)
    assert stream.getvalue() == "text\n"
    assert "tqdm" not in sys.modules


@pytest.fixture
def history():
    """Return a short history of a network that fades."""
    probe = make_step(3, chains=[make_chain(decades=3.0)])
    return make_history(
        probe, pulses=make_pulses([2.5] * 4, losses=[2.0, 1.9, 1.8, 1.7])
    )


def test_panel_shows_the_state(history):
    """Step, loss, gradient norm, D, update ratio, health, cost, and what was found."""
    panel = render_panel(history, (make_finding(),), Health.VANISHING, 0.0043, 76)
    assert to_text(panel, 80).splitlines() == [
        "╭─ gradwatch VANISHING ────────────────────────────────────────────────────╮",
        "│ step  loss  grad norm  D     update  cost                                │",
        "│ 3     1.7   2.5        +3.0  0.001   0.43 %                              │",
        "│ GW101 The gradient loses 5.8 decades between layers.8 and layers.0.      │",
        "╰──────────────────────────────────────────────────────────────────────────╯",
    ]


def test_panel_does_not_invent_what_is_not_known():
    """Without measurements there are dashes."""
    panel = render_panel(make_history(), (), Health.UNKNOWN, None, 76)
    assert to_text(panel, 80).splitlines()[2].split()[2:4] == ["not", "known"]


def test_live_panel_comes_and_goes(history):
    """It is drawn at a probe, alerts go above it, and the streams are given back."""
    before = (sys.stdout, sys.stderr)
    stream = Terminal()
    view = ConsoleView("live", stream, 80)
    view.on_probe(history, (), Health.HEALTHY, 0.001)
    assert "grad norm" in stream.getvalue()
    view.on_finding(make_finding())
    view.on_close(vanishing())
    assert (sys.stdout, sys.stderr) == before
    assert "CRITICAL GW101" in stream.getvalue()
    assert stream.getvalue().count("What was seen and spent") == 1


def test_live_falls_back_to_alerts_without_a_terminal(history):
    """In a log file there is no panel, but the alerts are there."""
    stream = io.StringIO()
    view = ConsoleView("live", stream)
    view.on_probe(history, (), Health.HEALTHY)
    view.on_finding(make_finding())
    assert "grad norm" not in stream.getvalue()
    assert "CRITICAL GW101" in stream.getvalue()


def test_live_gives_way_to_tqdm(history):
    """A bar that appears takes the panel's place for good."""
    stream = Terminal()
    view = ConsoleView("live", stream, 80)
    view.on_probe(history, (), Health.HEALTHY)
    assert "grad norm" in stream.getvalue()
    with tqdm(total=3, file=io.StringIO()):
        view.on_probe(history, (), Health.HEALTHY)
    drawn = stream.getvalue().count("grad norm")
    view.on_probe(history, (), Health.HEALTHY)
    assert stream.getvalue().count("grad norm") == drawn


def test_live_gives_way_to_other_rich_displays(history):
    """A rich progress bar, on whatever console, keeps the terminal."""
    stream = Terminal()
    other = Console(file=Terminal(), force_terminal=True)
    assert can_be_live(stream, None)
    with Progress(console=other):
        assert not can_be_live(stream, None)
        view = ConsoleView("live", stream, 80)
        view.on_probe(history, (), Health.HEALTHY)
        view.on_finding(make_finding())
    assert "grad norm" not in stream.getvalue()
    assert "CRITICAL GW101" in stream.getvalue()
    assert can_be_live(stream, None)


def test_numbers_are_short_and_honest():
    """Missing, zero, tiny and non-finite values are told apart."""
    values = (None, 0.0, 1.0, 0.0123456, 163.4, 1e-6, 8.1012e-8, 1.5e7, float("nan"))
    assert [number(v) for v in values] == [
        "\u2013", "0", "1", "0.012", "163", "1e-6", "8.1e-8", "1.5e7", "NaN",
    ]  # fmt: skip
    assert number(float("-inf")) == "-Inf"
    assert max(len(compact(v)) for v in (-1.2345e-9, 123456.0, 1e300, 5e-324)) <= 8
    assert [percent(v) for v in (None, 0, 0.001, 0.5, 0.999, 1)] == [
        "\u2013", "0%", "<1%", "50%", ">99%", "100%",
    ]  # fmt: skip
    assert [decades(v) for v in (None, -0.01, 5.76, -5.76, float("-inf"))] == [
        "\u2013", "0.0", "+5.8", "-5.8", "zero",
    ]  # fmt: skip
    assert [duration(v) for v in (0.0032, 1.44, 300)] == ["3.2 ms", "1.4 s", "5 min"]


@given(st.floats(0, 1), st.integers(1, 40))
def test_bars_fit_and_the_least_is_visible(share, width):
    """A measured value has a bar, and none is longer than its column."""
    assert 1 <= len(bar(share, width)) <= width


@given(st.lists(st.floats(min_value=0), max_size=200), st.integers(1, 60))
def test_sparklines_fit(values, width):
    """Any profile, zeros and infinities included, gives at most `width` cells."""
    assert len(sparkline(values, width)) <= width


def test_sparkline_shows_a_slope_zeros_and_infinities():
    """Log scale: equal ratios are equal steps."""
    assert sparkline([10.0**i for i in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 2.0, 1.0], 8) == "▇█▇"
    assert sparkline([0.0, 1.0, float("inf")], 8) == "·█!"
    assert sparkline([0.0, 0.0], 8) == "··"
    assert sparkline([], 8) == ""


def test_long_names_keep_their_end():
    """The end of a name tells layers apart; a cut at a dot is preferred."""
    assert shorten("layers.0", 8) == "layers.0"
    assert shorten("backbone.stage.blocks.12.mlp.fc", 20) == "….blocks.12.mlp.fc"
    assert shorten("averyveryverylongname", 10) == "…ylongname"


def test_markdown_is_rendered():
    """A rule's page reads as text, without marks."""
    assert markdown_text("# Title\n\nA `word`.", 40).split()[-2:] == ["A", "word."]
