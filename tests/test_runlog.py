"""Records of runs: what is read back is what was measured, whatever became of them."""

import json
import math
import os
import shutil
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import gradwatch
from gradwatch import cli, records
from gradwatch.console import report_text
from gradwatch.errors import ReportError, SettingsError
from gradwatch.findings import Health
from gradwatch.report import Report
from gradwatch.runlog import read_run
from gradwatch.runlog_format import PROBES, PULSES, SCHEMA_VERSION
from gradwatch.settings import Settings
from gradwatch.structure import Structure
from gradwatch.testing import make_chain, make_layer, make_step, make_structure
from tests.recorded_runs import FakeRun, deep_mlp, train

HOSTILE = ["[red]bold[/red]", "a\x1b[2J\x1b]0;x\x07", "<script>alert(1)</script>"]


def same(first, second):
    """Whether two values are equal, a NaN being equal to a NaN."""
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if hasattr(first, "__dataclass_fields__"):
        return type(first) is type(second) and all(
            same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first)
        )
    return first == second


# -- records as JSON ------------------------------------------------------------------

NUMBER = st.none() | st.floats()
FLAG = st.none() | st.booleans()
WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LAYERS = st.builds(
    records.LayerRecord,
    WORD,
    st.integers(0, 3),
    st.integers(0, 99),
    grad_norm=NUMBER,
    output_rms=NUMBER,
    input_finite=FLAG,
    output_finite=FLAG,
    grad_finite=FLAG,
    sample_signal=NUMBER,
)
POINTS = st.builds(
    records.PointRecord, WORD, WORD, NUMBER, width=st.none() | st.integers(1, 9)
)
CHAINS = st.builds(
    records.ChainRecord, WORD, st.lists(POINTS, max_size=3).map(tuple), st.booleans()
)
PROFILES = st.builds(
    records.TimeProfile, WORD, WORD, st.lists(st.floats(), max_size=4).map(tuple), WORD
)
STEPS = st.builds(
    records.StepRecord,
    st.integers(0, 10**9),
    layers=st.lists(LAYERS, max_size=2).map(tuple),
    chains=st.lists(CHAINS, max_size=2).map(tuple),
    time_profiles=st.lists(PROFILES, max_size=2).map(tuple),
    loss=NUMBER,
    loss_scale=NUMBER,
    coverage=st.lists(
        st.tuples(WORD, st.sampled_from(records.Coverage)), max_size=2
    ).map(tuple),
    non_finite=st.none()
    | st.builds(records.NonFiniteOrigin, st.integers(0, 9), st.none() | WORD, WORD),
    local_rank=st.none() | st.integers(0, 7),
    float16=FLAG,
)


@examples(deadline=None)
@given(STEPS)
def test_any_probe_survives_the_round_trip(record):
    """Bit by bit: NaN, Inf, None, -0.0, and any text as a layer's name."""
    data = PROBES.dump(record)
    assert b"\n" not in data
    json.loads(data, parse_constant=pytest.fail)  # strict JSON
    (read,) = PROBES.load(data)
    assert same(read, record)


@examples(deadline=None)
@given(NUMBER, NUMBER, st.booleans(), NUMBER)
def test_any_pulse_survives_the_round_trip(norm, loss, finite, scale):
    """The same of pulses, where a loss scale of None is not the default of 1."""
    pulse = records.PulseRecord(
        7, grad_norm=norm, loss=loss, finite=finite, loss_scale=scale
    )
    (read,) = PULSES.load(PULSES.dump(pulse))
    assert same(read, pulse)


# -- a whole run ----------------------------------------------------------------------


def test_the_report_of_a_finished_run_is_the_watch_report(tmp_path):
    """The record holds it as it was at the end."""
    model, *batch = deep_mlp()
    with gradwatch.watch(model, record=tmp_path, console=None) as watch:
        train(model, *batch)
    run = read_run(watch.record)
    assert run.finished
    assert run.notes == ()
    assert run.report == watch.report()
    assert run.report.health is Health.VANISHING
    assert [p.step for p in run.history.probes] == [0, 1, 2, 5, 10, 20, 50]
    assert all(map(same, run.history.probes, watch.history.probes))
    assert all(map(same, run.history.pulses, watch.history.pulses))
    assert run.history.tally == watch.history.tally
    assert run.structure == watch.structure


def test_the_report_of_a_running_run_is_the_watch_report_at_its_last_probe(tmp_path):
    """Composed of the record alone, it says the same, recommendations included."""
    model, *batch = deep_mlp()
    seen = []

    def after(step):
        if step == 50:
            seen.append((read_run(watch.record), watch.report()))

    with gradwatch.watch(model, record=tmp_path, console=None) as watch:
        train(model, *batch, steps=55, after=after)
    ((run, live),) = seen
    assert not run.finished
    (note,) = run.notes
    assert "still runs, or was killed" in note
    assert "step 50" in note
    assert run.report.recommendations
    facts = {"overhead": live.overhead, "run": live.run}
    assert run.report.model_copy(update=facts) == live
    assert run.report.run.model_copy(update={"notes": ()}) == live.run


def test_trials_after_the_end_are_recorded(tmp_path):
    """The usual order: train, read the report, try what it recommends."""
    model, *batch = deep_mlp()
    with gradwatch.watch(model, record=tmp_path, console=None) as watch:
        train(model, *batch)
    assert all(r.trial is None for r in read_run(watch.record).report.recommendations)
    best = watch.report().recommendations[0]
    result = watch.trial(best, steps=5, progress=False)
    run = read_run(watch.record)
    assert run.finished
    assert result in [r.trial for r in run.report.recommendations]
    assert run.report == watch.report()
    assert run.notes == ()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.skipif(os.name == "nt", reason="deletes and moves files")
def test_a_trial_after_the_record_was_deleted_warns_and_writes_nothing(
    tmp_path, replaced
):
    """The trial is the user's: it ends as if nothing had been recorded."""
    model, *batch = deep_mlp()
    with gradwatch.watch(model, record=tmp_path, console=None) as watch:
        train(model, *batch)
    file = watch.record / "run.jsonl"
    file.rename(tmp_path / "elsewhere")
    if replaced:
        file.write_text("mine")
    best = watch.report().recommendations[0]
    with pytest.warns(gradwatch.RecordWarning, match="records nothing more"):
        watch.trial(best, steps=5, progress=False)
    watch.trial(best, steps=5, progress=False)  # a second warning would be an error
    assert [path.read_text() for path in watch.record.iterdir()] == (
        ["mine"] if replaced else []
    )


def test_findings_are_recorded_as_they_come_and_go(tmp_path):
    """Came at the first probe, confirmed at the second, cleared by two clean ones."""
    run = FakeRun(tmp_path)
    sick = {"chains": [make_chain(decades=6.0)]}
    for step in (0, 1, 2):
        run.probe(step, **sick)
    for step in (5, 10, 20):
        run.probe(step)
    read = read_run(run.file)
    told = [(e.step, e.what) for e in read.events if e.finding.code == "GW101"]
    assert told == [(0, "came"), (1, "changed"), (10, "cleared")]
    (cleared,) = read.report.cleared
    assert (cleared.code, cleared.cleared_step) == ("GW101", 10)
    assert read.report.cleared == run.report().cleared
    assert read.report.findings == run.report().findings


def test_a_finding_that_was_never_confirmed_is_withdrawn(tmp_path):
    """The events say that it was seen; the report does not call it cleared."""
    run = FakeRun(tmp_path)
    run.probe(0, chains=[make_chain(decades=6.0)])
    for step in (1, 2, 5, 10):
        run.probe(step)
    read = read_run(run.file)
    told = [e.what for e in read.events if e.finding.code == "GW101"]
    assert told == ["came", "withdrawn"]
    assert read.report.cleared == ()


def test_a_record_never_overwrites_another(tmp_path):
    """Two runs of one second get folders of their own."""
    folders = {FakeRun(tmp_path).recorder.folder for _ in range(3)}
    assert len(folders) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_equal_options_return_the_live_watch_and_its_record(tmp_path):
    """A notebook cell that is run twice records one run."""
    model, *_ = deep_mlp()
    first = gradwatch.watch(model, record=tmp_path, console=None)
    assert gradwatch.watch(model, record=str(tmp_path), console=None) is first
    first.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_newest_of_several_runs_is_read(tmp_path):
    """A folder of runs stands for its newest; the notes say so."""
    FakeRun(tmp_path).finish()
    newest = FakeRun(tmp_path).finish()
    run = read_run(tmp_path)
    assert run.path.parent == newest
    assert "newest of 2 runs" in run.notes[0]


@pytest.mark.parametrize("value", [3, "", "  ", b"runs"])
def test_a_record_that_is_no_path_is_refused(value):
    """At once, with the value."""
    with pytest.raises(SettingsError, match="`record`"):
        gradwatch.watch(deep_mlp()[0], record=value)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """Below a file there is no folder: better now than after three days."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="no run can be recorded there"):
        gradwatch.watch(deep_mlp()[0], record=tmp_path / "file" / "runs")


def test_other_ranks_record_nothing(tmp_path, monkeypatch):
    """As they print nothing; a launcher says who they are before torch does."""
    monkeypatch.setenv("RANK", "1")
    model, *batch = deep_mlp(depth=2)
    with gradwatch.watch(model, record=tmp_path, console=None) as watch:
        train(model, *batch, steps=2)
    assert watch.record is None
    assert list(tmp_path.iterdir()) == []


# -- damaged, foreign, hostile --------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the bytes of a finished record with findings."""
    run = FakeRun(tmp_path_factory.mktemp("runs"))
    for step in range(6):
        run.pulse(step, losses=[1.0 / (step + 1)])
        run.probe(step, chains=[make_chain(decades=6.0 if step < 3 else 0.0)])
    return (run.finish() / "run.jsonl").read_bytes()


@examples(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_record_cut_off_anywhere_gives_every_complete_line(
    finished, tmp_path_factory, data
):
    """Each complete probe and finding is read; a cut header is one clear error."""
    ends = [i + 1 for i, byte in enumerate(finished) if byte == ord("\n")]
    near = st.sampled_from(ends).flatmap(lambda end: st.integers(end - 3, end + 3))
    cut = data.draw(st.integers(0, len(finished)) | near)
    file = tmp_path_factory.mktemp("cut") / "run.jsonl"
    file.write_bytes(finished[:cut])
    # A line without its end is complete where only the line's end is missing.
    complete = finished[: max([e for e in ends if e - 1 <= cut], default=0)]
    if not complete:
        with pytest.raises(ReportError, match=r"empty|cut off inside its first line"):
            read_run(file)
        return
    run = read_run(file)
    lines = complete.splitlines()
    assert len(run.history.probes) == sum(b'"kind":"probe"' in x for x in lines)
    assert len(run.events) == sum(b'"kind":"finding"' in x for x in lines)
    assert len(run.history.pulses) == sum(b'"kind":"pulses"' in x for x in lines)
    assert run.finished == (complete == finished)
    cut_off = "last line is cut off" in " ".join(run.notes)
    assert cut_off == (len(finished[:cut]) > len(complete))
    assert report_text(run.report)


def test_without_a_state_the_findings_come_from_the_events(finished, tmp_path):
    """A record cut off before what was known still says what stood."""
    lines = finished.splitlines(keepends=True)
    kept = [x for x in lines if b'"kind":"state"' not in x][:8]
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join(kept))
    assert [f.code for f in read_run(file).report.findings] == ["GW101"]


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 4096, b"\xff\xfe garbage", b'{"kind":"probe","step":1,"data":{"x":1}}'],
    ids=["zeros", "bytes", "wrong fields"],
)
def test_a_damaged_line_costs_only_itself(finished, tmp_path, damage):
    """In the middle of a file, as after a power loss; all others count."""
    lines = finished.splitlines(keepends=True)
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"".join([*lines[:4], damage + b"\n", *lines[4:]]))
    run = read_run(file)
    assert len(run.history.probes) == 6
    assert run.finished
    assert (damage.strip(b"\0") != b"") == ("1 line" in " ".join(run.notes))


def test_a_kind_of_line_that_is_not_known_is_left_out_and_told(finished, tmp_path):
    """A later gradwatch of this schema may write more kinds."""
    file = tmp_path / "run.jsonl"
    file.write_bytes(finished + b'{"kind":"weather","step":3,"data":"rain"}\n')
    run = read_run(file)
    assert run.finished
    assert "1 line of a kind" in run.notes[-1]


def test_a_newer_schema_is_refused_with_what_to_do(finished, tmp_path):
    """Guessing would be worse."""
    mark = f'"schema_version": {SCHEMA_VERSION}'.encode()
    newer = finished.replace(mark, b'"schema_version": 99', 1)
    (tmp_path / "run.jsonl").write_bytes(newer)
    with pytest.raises(ReportError, match=r"newer gradwatch \(schema 99"):
        read_run(tmp_path)


def test_settings_of_another_version_do_not_stop_the_reading(finished, tmp_path):
    """What is not known is left out and told; a wrong value means the defaults."""
    file, known = tmp_path / "run.jsonl", b'{"budget": 0.01'
    file.write_bytes(finished.replace(known, b'{"moon": 1, "budget": 0.02'))
    run = read_run(file)
    assert run.settings == Settings(budget=0.02)
    assert "not known here: moon" in run.notes[0]
    file.write_bytes(finished.replace(known, b'{"budget": -1'))
    run = read_run(file)
    assert run.settings == Settings()
    assert "the defaults count" in run.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0" * 64, "is empty"),
        (b"hello\n", "not a record of gradwatch"),
        (b'{"format": "other"}\n', "not a record of gradwatch"),
        (b"[1, 2]\n", "not a record of gradwatch"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not a record of gradwatch"),
        (b"[" * 100_000, "not a record of gradwatch"),
        (b'{"format": "gradwatch-run", "schema', "cut off inside its first line"),
        (b'{"format": "gradwatch-run", "schema_version": 1}\n', "damaged first line"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_a_foreign_file_is_refused_with_one_clear_error(tmp_path, content, message):
    """One sentence that names the file and what it should be."""
    (tmp_path / "run.jsonl").write_bytes(content)
    with pytest.raises(ReportError, match=message):
        read_run(tmp_path)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path):
    """With what to pass instead."""
    with pytest.raises(ReportError, match="holds no run"):
        read_run(tmp_path)
    with pytest.raises(ReportError, match="cannot be read: No such file"):
        read_run(tmp_path / "gone")


def test_hostile_names_are_shown_inert(tmp_path):
    """Markup, escapes and HTML in names of layers and of the model."""
    names = [*HOSTILE, "a\u202eb", "line\nbreak", "head"]
    run = FakeRun(tmp_path, structure=make_structure(names), name="\x1b[2J[red]")
    chain = make_chain(decades=6.0, points=len(names) - 1)
    points = tuple(
        replace(point, label=name, layer=name)
        for point, name in zip(chain.points, names, strict=False)
    )
    chain = replace(chain, source=names[0], points=points)
    for step in (0, 1, 2):
        run.probe(step, names=names, chains=[chain])
    assert run.recorder.folder.name.endswith("_2J-red")
    read = read_run(run.finish())
    assert [layer.layer for layer in read.history.probes[0].layers] == names
    assert read.report == run.report()
    result = CliRunner().invoke(cli.app, ["report", str(run.file)])
    assert result.exit_code == 0
    assert not set("\x1b\x07\u202e") & set(result.output)
    assert "[red]bold[/red]" in result.output


def test_a_name_that_is_no_unicode_ends_the_record_not_the_watch(tmp_path):
    """Half a surrogate has no JSON: one warning, and the watch goes on."""
    run = FakeRun(tmp_path)
    run.probe(0)
    with pytest.warns(gradwatch.RecordWarning, match="records nothing more"):
        run.probe(1, layers=[make_layer("\ud800")])
    run.probe(2)  # a second warning would be an error
    assert len(read_run(run.file).history.probes) == 1


def test_reading_a_record_changes_nothing(finished, tmp_path):
    """Not even of a cut-off one: the file stays as it is for other readers."""
    file = tmp_path / "run.jsonl"
    file.write_bytes(finished[:-20])
    read_run(tmp_path)
    assert file.read_bytes() == finished[:-20]
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


# -- the command ----------------------------------------------------------------------


def test_the_command_reads_a_run_by_folder_file_and_parent(finished, tmp_path):
    """All three print the same report; `--json` reads back."""
    folder = tmp_path / "2026-01-01_00-00-00_Net"
    folder.mkdir()
    (folder / "run.jsonl").write_bytes(finished)
    outputs = {
        CliRunner().invoke(cli.app, ["report", str(path)]).output
        for path in (folder, folder / "run.jsonl", tmp_path)
    }
    assert len(outputs) == 1
    result = CliRunner().invoke(cli.app, ["report", str(folder), "--json"])
    assert Report.from_json(result.output) == read_run(folder).report


def test_the_command_says_that_a_run_is_not_finished(finished, tmp_path):
    """In the report itself, so that nobody takes it for the end."""
    lines = finished.splitlines(keepends=True)
    (tmp_path / "run.jsonl").write_bytes(b"".join(lines[:-1]))
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert "This run has no end" in " ".join(result.output.split())


def test_a_copy_under_another_name_is_a_record_as_well(finished, tmp_path):
    """What it is, its first line says."""
    (tmp_path / "kept.txt").write_bytes(finished)
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path / "kept.txt")])
    assert result.exit_code == 0
    shutil.copy(tmp_path / "kept.txt", tmp_path / "kept.jsonl")
    assert read_run(tmp_path / "kept.jsonl").finished


def test_a_run_without_a_step_reads_back(tmp_path):
    """A watch that was closed at once has a record all the same."""
    with gradwatch.watch(nn.Linear(2, 2), record=tmp_path, console=None) as watch:
        pass
    run = read_run(watch.record)
    assert run.finished
    assert run.structure == Structure()
    assert "No optimizer step" in run.report.sentence


def test_probes_without_default_fields_stay_small():
    """What was not measured takes no room: half of what would be written else."""
    probe = make_step(0)
    assert len(PROBES.dump(probe)) < 3500
