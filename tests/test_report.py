"""The report as data: composed, worded, saved and read back."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.console import report_text
from gradwatch.errors import ReportError
from gradwatch.findings import Confidence, Health, Severity
from gradwatch.records import Coverage, LayerRecord, ParameterRecord
from gradwatch.report import SCHEMA_VERSION, LayerSummary, Report, RunFacts
from gradwatch.report_build import shown_probe
from gradwatch.report_words import count, headline, in_words, name_layers
from gradwatch.settings import Settings
from gradwatch.testing import make_history, make_pulses, make_step, make_time_profile
from tests.sample_reports import (
    SAMPLES,
    healthy,
    make_finding,
    make_report,
    non_finite,
    plain_network,
    vanishing,
)


@pytest.mark.parametrize("name", SAMPLES)
def test_json_round_trip_keeps_everything(name):
    """What is read back writes the same JSON again, NaN and Inf included."""
    report = SAMPLES[name]()
    read = Report.from_json(report.to_json())
    assert read.to_json() == report.to_json()
    assert read.health is report.health
    assert [f.severity for f in read.findings] == [f.severity for f in report.findings]


def test_equal_reports_compare_equal_after_the_round_trip():
    """A report without NaN is equal to what is read back, by value."""
    report = vanishing()
    assert Report.from_json(report.to_json()) == report


def test_json_is_strict_and_names_the_levels():
    """Other programs can read the JSON: no NaN literal, levels by name, the address."""
    text = non_finite().to_json()
    fields = json.loads(text, parse_constant=pytest.fail)
    (finding,) = fields["findings"]
    assert finding["severity"] == "critical"
    assert finding["confidence"] == "high"
    assert finding["url"].endswith("/non-finite/")
    assert finding["evidence"][1]["value"] == "Infinity"


@given(st.floats(), st.floats(allow_nan=False), st.text())
def test_any_float_and_any_text_survive_the_round_trip(value, other, text):
    """Floats are bit-equal after the round trip, infinities and NaN as such."""
    layer = LayerSummary(name=text, grad_norm=value, grad_ratio=other)
    report = Report(health=Health.UNKNOWN, sentence=text, next_step="", layers=(layer,))
    read = Report.from_json(report.to_json())
    assert read.layers[0].grad_ratio == other
    got = read.layers[0].grad_norm
    assert got == value or (math.isnan(got) and math.isnan(value))
    assert read.sentence == text


@given(st.integers(min_value=0, max_value=6000))
def test_a_truncated_report_is_refused_with_one_clear_error(length):
    """Wherever a file is cut off, `from_json` raises ReportError."""
    text = vanishing_json()
    cut = text[: min(length, len(text) - 1)]
    with pytest.raises(ReportError, match=r"truncated|empty|not JSON"):
        Report.from_json(cut)


def vanishing_json(_kept=[]):  # noqa: B006 - composed once, not a hundred times
    """Return the JSON of a sample."""
    if not _kept:
        _kept.append(vanishing().to_json())
    return _kept[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("hello", "not JSON"),
        ("[1, 2]", "not a report of gradwatch"),
        ('{"format": "other"}', "not a report of gradwatch"),
        ('{"format": "gradwatch-report", "schema_version": 99}', "newer gradwatch"),
        ('{"format": "gradwatch-report"}', "`health`: Field required"),
        ("[" * 100_000, "not a report|truncated|not JSON"),
        ('{"format": "gradwatch-report", "x": ' + "9" * 5000 + "}", "not a report"),
        (
            '{"format": "gradwatch-report", "health": "healthy", "sentence": 3}',
            "damaged",
        ),
    ],
)
def test_foreign_text_is_refused_with_the_reason(text, says):
    """Each kind of wrong text has a message of its own."""
    with pytest.raises(ReportError, match=says):
        Report.from_json(text)


def test_fields_of_a_later_version_with_the_same_schema_are_left_out():
    """A new field does not make an old gradwatch refuse the file."""
    fields = json.loads(healthy().to_json()) | {"forecasts": [{"a": 1}]}
    assert Report.from_json(json.dumps(fields)).health is Health.HEALTHY
    assert fields["schema_version"] == SCHEMA_VERSION


def test_saved_json_loads_again(tmp_path):
    """`load` reads what `save` wrote."""
    report = vanishing()
    path = report.save(tmp_path / "report.json")
    assert Report.load(path) == report


def test_saved_text_is_the_console_without_escapes(tmp_path):
    """A .txt file holds what the console shows."""
    report = vanishing()
    text = report.save(tmp_path / "report.txt").read_text("utf-8")
    assert text == f"{report}\n"
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.pdf", "end in .html, .json or .txt"),
        ("a", "got .."),
        ("b.JSN", "jsn"),
    ],
)
def test_saving_with_another_ending_is_refused(tmp_path, name, says):
    """The message names the endings there are."""
    with pytest.raises(ReportError, match=says):
        healthy().save(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_unreadable_files_are_refused_with_the_path(tmp_path):
    """Missing, binary and unwritable files: each says which file and why."""
    with pytest.raises(ReportError, match=r"gone\.json cannot be read: No such file"):
        Report.load(tmp_path / "gone.json")
    binary = tmp_path / "weights.pt"
    binary.write_bytes(b"\x80\x02}q\x00\xff")
    with pytest.raises(ReportError, match="is not text"):
        Report.load(binary)
    with pytest.raises(ReportError, match="cannot be read"):
        Report.load(tmp_path)
    with pytest.raises(ReportError, match="cannot be written"):
        healthy().save(tmp_path / "no" / "folder.json")


def test_notebook_view_is_escaped_html():
    """A layer's name cannot become markup of the notebook."""
    finding = make_finding(layers=("<img src=x onerror=alert(1)>",))
    page = plain_network(6, findings=(finding,))._repr_html_()
    assert page.startswith("<pre")
    assert "<img" not in page
    assert "&lt;img" in page


def test_repr_is_one_short_line():
    """`repr` does not pour the report into a debugger."""
    assert repr(vanishing()) == "<Report vanishing: 2 findings, 10 layers, 51 steps>"


def test_findings_are_sorted_with_the_reports_health_first():
    """The first card is the one that the header speaks of."""
    dead = make_finding("GW103", health=Health.DEAD, severity=Severity.CRITICAL)
    exploding = make_finding(
        "GW201", health=Health.EXPLODING, severity=Severity.WARNING
    )
    note = make_finding("GW302", health=Health.EXPLODING, severity=Severity.NOTE)
    report = plain_network(6, findings=(note, dead, exploding), health=Health.EXPLODING)
    assert [f.code for f in report.findings] == ["GW201", "GW103", "GW302"]


def test_sentence_names_the_worst_and_the_report_ends_with_its_next_step():
    """A sick report begins with what is and ends with what to do."""
    report = vanishing()
    assert report.sentence.startswith("The gradient loses 5.8 decades")
    assert report.next_step.startswith("Look at the activation")
    assert "gradwatch explain GW101" in report.next_step


def test_healthy_report_says_what_was_checked_and_over_which_steps():
    """Healthy is said with its grounds."""
    report = healthy()
    assert report.sentence == (
        "No sign of a gradient defect in 6 weight layers over steps 0 to 50."
    )
    assert report.next_step == (
        "6 rules checked at 7 probes over steps 0 to 50; 2 could not be judged here."
    )


def test_an_old_look_is_not_stretched_over_the_whole_training():
    """The steps are those of the probes; how old the last one is, is said."""
    run = RunFacts(steps=300)
    report = plain_network(6, health=Health.HEALTHY, run=run)
    assert report.sentence == (
        "No sign of a gradient defect in 6 weight layers over steps 0 to 50; gradwatch "
        "last looked at every layer at step 50 of 300."
    )
    assert "at 7 probes over steps 0 to 50 (of 300);" in report.next_step
    recent = plain_network(6, health=Health.HEALTHY, run=RunFacts(steps=80))
    assert recent.sentence.endswith("over steps 0 to 50.")


def test_an_error_of_ours_is_the_first_thing_said():
    """What stood before it is said after it, and what to do is to report it."""
    report = SAMPLES["failed"]()
    stopped = (
        "gradwatch stopped at step 51 after an error of its own: no verdict on what "
        "came later."
    )
    assert report.sentence == stopped
    assert report.next_step.startswith("Training was not affected. Please report")
    assert report.next_step.endswith(": ZeroDivisionError: division by zero")
    run = RunFacts(failure="ValueError: x")
    sick = plain_network(6, findings=(make_finding(),), run=run)
    assert sick.sentence == (
        f"{stopped} Before that: The gradient loses 5.8 decades between layers.8 and "
        "layers.0."
    )


def test_layers_with_numbers_for_names_read_as_layers_in_a_sentence():
    """A list keeps the plain names."""
    assert in_words(["0", "2", "4", "6"]) == "layer 0 … layer 6 (4 layers)"
    assert in_words(["22", "head"]) == "layer 22, head"
    assert name_layers(["22", "head"]) == "22, head"


def test_nothing_trained_is_said():
    """A watch without a step judges nothing and says how to train under it."""
    report = SAMPLES["nothing_trained"]()
    assert "No optimizer step" in report.sentence
    assert "watch.step()" in report.next_step


def test_one_probe_is_not_called_healthy():
    """One look gives no verdict, and the sentence says so."""
    report = plain_network(6, steps=(0,), health=Health.UNKNOWN)
    assert report.sentence.startswith("1 probe: no sign of a gradient defect yet")
    assert report.next_step == "Train a few more steps under the watch."


def test_unconfirmed_finding_is_called_so():
    """A finding of low confidence is no verdict."""
    finding = make_finding(confidence=Confidence.LOW)
    report = plain_network(6, steps=(0,), health=Health.UNKNOWN, findings=(finding,))
    assert report.sentence.startswith("Not confirmed yet, after 1 probe: The gradient")


def test_low_coverage_is_the_sentence_and_the_next_step():
    """Where too little was seen, that is what matters."""
    report = SAMPLES["half_seen"]()
    assert "only 1 of 3 trainable weight layers" in report.sentence
    assert "inside a compiled region" in report.next_step


def test_coverage_is_counted_and_grouped_by_reason():
    """Layers that share a reason share a line; frozen ones are no weight layers."""
    seen = SAMPLES["half_seen"]().coverage
    assert (seen.observed, seen.no_gradient, seen.not_seen) == (1, 1, 2)
    assert seen.share == pytest.approx(1 / 3)
    assert [r.layers for r in seen.reasons] == [
        ("encoder.1", "encoder.2"),
        ("encoder.3",),
    ]
    assert make_report().coverage.share is None


def test_layers_are_relative_to_the_top_of_the_trunk():
    """`grad_ratio` is 0 at the top and -D at the source."""
    layers = vanishing().layers
    assert layers[0].grad_ratio == pytest.approx(-5.76)
    assert layers[8].grad_ratio == pytest.approx(0.0)


def test_calls_of_one_layer_merge_by_root_mean_square():
    """Two calls with norms 3 and 4 count as sqrt((9 + 16) / 2)."""
    step = make_step(
        0,
        layers=[
            LayerRecord("shared", 0, 0, grad_norm=3.0),
            LayerRecord("shared", 1, 4, grad_norm=4.0),
        ],
        parameters=[
            ParameterRecord("shared.weight", "shared", 2, 64, update_ratio=0.01),
            ParameterRecord("shared.bias", "shared", 1, 8, update_ratio=0.9),
        ],
        chains=[],
        coverage={"shared": Coverage.OBSERVED},
    )
    (layer,) = make_report(history=make_history(step)).layers
    assert layer.calls == 2
    assert layer.order == 0
    assert layer.grad_norm == pytest.approx(math.sqrt(12.5))
    assert layer.update_ratio == 0.01


def test_exact_zero_and_not_measured_are_told_apart():
    """A zero gradient is -inf decades; a missing one is None."""
    step = make_step(
        0,
        layers=[
            LayerRecord("zero", 0, 0, grad_norm=0.0),
            LayerRecord("gone", 0, 1, grad_norm=None),
            LayerRecord("top", 0, 2, grad_norm=2.0),
        ],
        parameters=[],
        chains=[],
        coverage={},
    )
    zero, gone, top = make_report(history=make_history(step)).layers
    assert zero.grad_ratio == -math.inf
    assert gone.grad_norm is None
    assert gone.grad_ratio is None
    assert top.grad_ratio == 0.0


def test_table_shows_the_last_probe_before_everything_was_nan():
    """After a NaN, the layers are shown as they were before it."""
    report = non_finite()
    assert report.layers_step == 1
    assert report.layers[0].grad_norm == 0.1
    assert shown_probe(make_history()) is None


def test_run_facts_come_from_the_history_unless_they_are_given():
    """Steps, losses, rates and clipping are read from pulses; given values stand."""
    pulses = make_pulses(
        [1.0] * 4, losses=[2.0, 1.5, 1.2, 1.0], lr=0.1, clip_factor=0.5, loss_scale=8.0
    )
    history = make_history(make_step(0), pulses=pulses)
    run = make_report(history=history).run
    assert (run.steps, run.first_loss, run.last_loss) == (4, 2.0, 1.0)
    assert (run.lr, run.clipped_share, run.loss_scale) == (0.1, 1.0, 8.0)
    assert make_report(history=history, run=RunFacts(steps=9)).run.steps == 9


def test_the_last_loss_is_nan_where_it_is_known_to_be():
    """Told as NaN, or not recognised any more in an output full of NaN."""
    told = make_history(make_step(0), pulses=make_pulses(losses=[2.0, math.nan]))
    assert math.isnan(make_report(history=told).run.last_loss)
    good, bad = (
        LayerRecord("a", 0, 0),
        LayerRecord("head", 0, 1, math.nan, output_finite=False, grad_finite=False),
    )
    probes = make_step(0, loss=2.0), make_step(1, loss=9.0)
    silent = make_history(*probes, make_step(2, layers=[good, bad]))
    assert math.isnan(make_report(history=silent).run.last_loss)
    masked = replace(bad, grad_norm=1.0, grad_finite=True)
    silent = make_history(*probes, make_step(2, layers=[good, masked]))
    assert make_report(history=silent).run.last_loss == 9.0


def test_a_gradient_that_grows_back_through_time_has_no_horizon():
    """The far side of its peak is no way that it fades."""
    grows = make_time_profile(norms=[1.0, 3.0, 10.0, 5.0, 1.0, 0.5])
    fades = make_time_profile(decades=5.0)
    step = make_step(0, time_profiles=[grows, fades])
    first, second = make_report(history=make_history(step)).time_profiles
    assert (first.horizon, second.horizon is None) == (None, False)
    text = report_text(make_report(history=make_history(step)))
    assert "gains 1.3 decades on its way back" in text
    assert text.count("horizon") == 1


def test_settings_in_the_report_are_those_that_differ():
    """Defaults are not repeated."""
    report = make_report(settings=Settings(budget=0.02, probe_steps=(0, 3)))
    assert report.settings == {"budget": 0.02, "probe_steps": [0, 3]}


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([], ""),
        (["a", "b", "a"], "a, b"),
        ([f"layers.{i}" for i in range(18)], "layers.0 … layers.17 (18 layers)"),
        ([f"{i}" for i in (8, 0, 2, 4, 6)], "0 … 8 (5 layers)"),
        (["l.0", "l.1", "l.2", "l.9"], "l.0, l.1, l.2 and 1 more"),
        (["stem", "body", "neck", "head"], "stem, body, neck and 1 more"),
        (["b.0.x", "b.1.x", "b.2.x", "b.3.x"], "b.0.x … b.3.x (4 layers)"),
    ],
)
def test_lists_of_layers_are_shortened_only_where_nothing_lies_between(layers, text):
    """Dots promise that all layers in between belong."""
    assert name_layers(layers) == text


def test_layers_that_follow_each_other_are_a_range():
    """Names without numbers are a range where the table says so."""
    order = {"stem": 0, "body": 1, "neck": 2, "head": 3, "out": 4}
    names = ["head", "stem", "neck", "body"]
    assert name_layers(names, order) == "stem … head (4 layers)"
    order["body"] = 9
    assert name_layers(names, order) == "head, stem, neck and 1 more"


def test_headline_is_the_first_clause():
    """Dots inside names and numbers do not end it."""
    finding = make_finding(message="layers.8 loses 5.8 decades; so it is. More.")
    assert headline(finding) == "layers.8 loses 5.8 decades."
    assert count(1, "probe") == "1 probe"
    assert count(1200, "step") == "1,200 steps"
