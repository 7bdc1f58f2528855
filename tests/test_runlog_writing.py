"""Records while they are written: killed, read meanwhile, bounded, on a full disk."""

import errno
import itertools
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gradwatch
from gradwatch import runlog_writing
from gradwatch.runlog import read_run
from gradwatch.runlog_format import Kind
from gradwatch.runlog_writing import Entry, Limits, RunWriter, thinned
from gradwatch.settings import Settings
from gradwatch.testing import make_chain, make_history, make_step
from tests.recorded_runs import FakeRun, deep_mlp, train

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
    import sys, time, torch, gradwatch
    from torch import nn
    torch.manual_seed(0)
    hidden = [m for _ in range(10) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(64, 16), torch.randint(4, (64,))
    watch = gradwatch.watch(model, record=sys.argv[1], console=None, every=1)
    for step in range(100_000):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if step == 5:
            print("training", flush=True)
"""


@pytest.fixture
def training(tmp_path):
    """Start a process that trains with a record, and return it after some steps."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout.readline() == "training\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_is_read_while_it_is_written_and_after_a_kill(training, tmp_path):
    """Each look sees whole records, more as time goes on; a kill costs no probe."""
    seen = []
    for _ in range(5):
        run = read_run(tmp_path)
        assert not run.finished
        assert not [n for n in run.notes if "could not be read" in n]
        steps = [probe.step for probe in run.history.probes]
        assert steps == list(range(len(steps)))
        seen.append(len(steps))
        time.sleep(0.1)
    assert training.poll() is None
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] >= 6

    # After SIGKILL in the middle of training: report, history and findings.
    training.kill()
    training.wait()
    run = read_run(tmp_path)
    assert not run.finished
    steps = [probe.step for probe in run.history.probes]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 6
    assert run.report.health is gradwatch.Health.VANISHING
    assert run.report.recommendations
    assert run.report.run.optimizers == ("SGD",)
    assert run.report.run.steps == steps[-1] + 1
    assert run.events[0].what == "came"


def test_a_script_is_recorded_a_model_at_a_time(python, tmp_path):
    """`gradwatch run --record` makes a folder for each model that the script trains."""
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "for kind in (nn.Linear, nn.Linear, nn.Bilinear):\n"
        "    model = kind(*[4] * (2 + (kind is nn.Bilinear)))\n"
        "    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "    inputs = [torch.randn(8, 4)] * (1 + (kind is nn.Bilinear))\n"
        "    model(*inputs).mean().backward()\n"
        "    optimizer.step()\n"
    )
    command = ["-m", "gradwatch", "run", "--console", "none", "--record", "runs"]
    done = python.run([*command, "train.py"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = [read_run(folder) for folder in (tmp_path / "runs").iterdir()]
    assert sorted(run.name for run in runs) == ["Bilinear", "Linear", "Linear #2"]
    assert all(run.finished and run.report.run.steps == 1 for run in runs)


# -- bounded --------------------------------------------------------------------------


def test_a_long_run_stays_bounded_and_keeps_every_finding(tmp_path):
    """20,000 probes with findings that come and go 50 times: the file stays small."""
    run = FakeRun(tmp_path, settings=Settings(confirm_window=1, confirm_probes=1))
    sick, well = make_step(0, chains=[make_chain(decades=6.0)]), make_step(0)
    largest = 0
    for step in range(20_000):
        run.pulse(step, losses=[1.0])
        run.history.add_probe(replace(sick if step % 400 == 0 else well, step=step))
        if step % 400 < 2:
            run.detector.update(run.history, run.structure)
        run.record()
        if step % 500 == 0:
            largest = max(largest, run.file.stat().st_size)
    read = read_run(run.finish())
    probe = len(runlog_line(run.file, b"probe"))
    assert largest < 256 * probe + 4_000_000
    cleared = [e for e in read.events if e.what == "cleared"]
    assert [e.step for e in cleared] == [400 * n + 1 for n in range(50)]
    steps = [p.step for p in read.history.probes]
    assert steps[0] == 0
    assert steps[-64:] == list(range(20_000 - 64, 20_000))
    assert len(steps) <= 256
    assert_even(steps, 20_000 - 2 * 256)  # the end of the even part is a rest
    pulses = [p.step for p in read.history.pulses]
    assert pulses[-512:] == list(range(20_000 - 512, 20_000))
    assert 2000 < len(pulses) <= 8192
    assert_even(pulses, 20_000 - 8192)
    assert read.history.num_probes == read.history.num_pulses == 20_000
    assert read.history.first_loss == 1.0
    assert "of 20,000 probes" in " ".join(read.notes)
    # What the rules look at is whole: the report can be composed of it.
    text = run.file.read_bytes().splitlines(keepends=True)
    run.file.write_bytes(b"".join(text[:-1]))
    composed, live = read_run(run.file).report, run.report()
    assert composed.findings == live.findings
    assert composed.cleared == live.cleared
    assert composed.checked == live.checked
    assert composed.layers == live.layers


def runlog_line(file, kind):
    """Return a line of a kind."""
    mark = b'{"kind":"' + kind
    return next(x for x in file.read_bytes().splitlines() if x.startswith(mark))


def assert_even(steps, least):
    """One gap, a power of two, covers the run but for what was not thinned yet."""
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    widest = max(gaps)
    assert widest & (widest - 1) == 0
    assert sum(gap for gap in gaps if gap == widest) >= least


@pytest.mark.parametrize("count", [10, 100, 1000, 5000])
def test_thinning_keeps_the_first_and_the_newest_and_even_gaps(count):
    """However many there are, and however often it was thinned before."""
    kept = []
    for number in range(count):
        before = [*kept, Entry(Kind.PROBE, number, b"", number=number)]
        kept = thinned(before, most=40, newest=10)
        numbers = [entry.number for entry in kept]
        if len(kept) < len(before):
            gaps = {b - a for a, b in itertools.pairwise(numbers[:-10])}
            assert len(gaps) == 1
            assert 17 <= len(kept) <= 25
        assert numbers[0] == 0
        assert numbers[-10:] == list(range(max(0, number - 9), number + 1))
        assert len(kept) <= 40


def test_a_model_too_large_for_the_file_loses_even_newer_probes(tmp_path):
    """The size rules over the count: three probes stay, and the first."""
    writer = RunWriter(tmp_path / "run.jsonl", b"{}\n", Limits(size_bytes=10_000))
    for step in range(50):
        data = b'"' + b"x" * 2000 + b'"'
        writer.write([Entry(Kind.PROBE, step, data)])
        assert (tmp_path / "run.jsonl").stat().st_size <= 10_000
    writer.close()
    lines = (tmp_path / "run.jsonl").read_bytes().splitlines()[1:]
    assert b'"step":0,' in lines[0]
    assert b'"step":49,' in lines[-1]


def test_superseded_states_do_not_pile_up(tmp_path):
    """Of structure and state only the newest counts; the older ones go in time."""
    limits = Limits(waste_bytes=5_000)
    writer = RunWriter(tmp_path / "run.jsonl", b"{}\n", limits)
    for step in range(200):
        writer.write([Entry(Kind.STATE, step, b'"' + b"x" * 1000 + b'"')])
    writer.close()
    assert (tmp_path / "run.jsonl").stat().st_size < 8_000
    assert b'"step":199,' in (tmp_path / "run.jsonl").read_bytes().splitlines()[-1]


# -- trouble --------------------------------------------------------------------------


def weights_after(record, before=None):
    """Train a small network under a watch; return its weights and the watch."""
    model, *batch = deep_mlp(depth=3)
    with gradwatch.watch(model, record=record, console=None, every=5) as watch:
        train(
            model,
            *batch,
            steps=30,
            after=lambda step: before(watch) if before and step == 12 else None,
        )
    return torch.cat([p.detach().flatten() for p in model.parameters()]), watch


def deleted(watch):
    """The folder of the run is gone."""
    for file in watch.record.iterdir():
        file.unlink()
    watch.record.rmdir()


def replaced(watch):
    """Another file lies where the record was."""
    file = watch.record / "run.jsonl"
    file.unlink()
    file.write_text("mine")


def refuse(code):
    """Return a trouble: every write of ours is refused with this error."""

    def trouble(watch):
        def put(self, text):
            raise OSError(code, os.strerror(code))

        patched = pytest.MonkeyPatch()
        patched.setattr(RunWriter, "_put", put)
        watch.undo = patched.undo

    return trouble


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (refuse(errno.ENOSPC), "No space left"),
        (refuse(errno.EACCES), "Permission denied"),
        (refuse(errno.EIO), "Input/output error"),
        (deleted, "No such file"),
        (replaced, "another file has taken its place"),
    ],
    ids=["disk full", "permission", "broken disk", "folder deleted", "file replaced"],
)
@pytest.mark.skipif(os.name == "nt", reason="deletes and moves open files")
def test_trouble_with_the_disk_warns_once_and_changes_no_bit(
    tmp_path, trouble, message
):
    """Training ends as it would have without a record; the report comes as well."""
    expected, _ = weights_after(None)
    with pytest.warns(gradwatch.RecordWarning, match=message) as told:
        weights, watch = weights_after(tmp_path, trouble)
    getattr(watch, "undo", lambda: None)()
    assert len(told) == 1
    assert torch.equal(weights, expected)
    assert watch.report().run.failure == ""
    assert len(watch.report().run.probe_steps) == 6


def test_a_record_changes_no_bit_of_the_training(tmp_path):
    """Nor does it use the random generator."""
    expected, _ = weights_after(None)
    state = torch.get_rng_state()
    weights, watch = weights_after(tmp_path)
    assert torch.equal(weights, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert read_run(watch.record).finished


def test_what_was_written_before_the_disk_was_full_is_read(python, tmp_path):
    """A real limit of the system on the file's size, in a process of its own."""
    resource = pytest.importorskip("resource")
    assert resource
    script = """
        import resource, signal, sys, warnings
        import gradwatch
        from tests.recorded_runs import deep_mlp, train
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        model, *batch = deep_mlp()
        watch = gradwatch.watch(model, record=sys.argv[1], console=None, every=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            train(model, *batch, steps=40)
        print(len(told), len(watch.report().run.probe_steps))
    """
    done = python.run(["-c", textwrap.dedent(script), str(tmp_path)], folder=ROOT)
    assert done.stdout.split() == ["1", "40"]
    run = read_run(tmp_path)
    assert run.path.stat().st_size == 100_000
    steps = [probe.step for probe in run.history.probes]
    assert steps == list(range(len(steps)))
    assert 2 <= len(steps) < 40
    assert "cut off" in " ".join(run.notes)


def test_a_line_that_an_interrupt_tore_costs_only_itself(tmp_path, monkeypatch):
    """Ctrl-C in the middle of a write: the next line starts on a line of its own."""
    run = FakeRun(tmp_path)
    run.probe(0)
    put = RunWriter._put

    def torn(self, text):
        put(self, text[: len(text) // 2])
        self._torn = True
        raise KeyboardInterrupt

    monkeypatch.setattr(RunWriter, "_put", torn)
    with pytest.raises(KeyboardInterrupt):
        run.probe(1)
    monkeypatch.undo()
    run.probe(2)
    read = read_run(run.finish())
    assert read.finished
    assert [p.step for p in read.history.probes][::2] in ([0, 2], [0])
    assert read.history.probes[-1].step == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_does_not_write_into_its_parents_record(tmp_path):
    """A worker process of a data loader holds the same open file."""
    run = FakeRun(tmp_path)
    run.probe(0)
    size = run.file.stat().st_size
    writer = run.recorder._writer
    parent = writer._pid
    writer._pid = parent + 1  # as a fork would see it
    run.probe(1)
    run.recorder.finish(run.history, run.seen(), run.report())
    assert run.file.stat().st_size == size
    writer._pid = parent
    run.probe(2)
    assert run.file.stat().st_size > size


def test_a_thinning_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    """The record as it was stays; the copy goes."""
    writer = RunWriter(tmp_path / "run.jsonl", b"{}\n", Limits(probes=3))

    def full(self, entries, beside):
        beside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runlog_writing.RunWriter, "_copy", full)
    for step in range(3):
        writer.write([Entry(Kind.PROBE, step, b"0")])
    with pytest.warns(gradwatch.RecordWarning, match="No space left"):
        writer.write([Entry(Kind.PROBE, 3, b"0")])
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]
    assert len((tmp_path / "run.jsonl").read_bytes().splitlines()) == 5


def test_the_time_of_recording_counts_as_ours(tmp_path, monkeypatch):
    """A slow disk shows in the overhead that the report prints."""
    write = RunWriter.write

    def slow(self, entries):
        time.sleep(0.02)
        write(self, entries)

    monkeypatch.setattr(RunWriter, "write", slow)
    _, watch = weights_after(tmp_path)
    assert watch.report().overhead.seconds > 6 * 0.02


def test_pulses_between_far_probes_are_all_recorded(tmp_path):
    """Also when more go by than the history keeps."""
    run = FakeRun(tmp_path, settings=Settings(max_pulses=64))
    run.probe(0)
    for step in range(1, 500):
        run.pulse(step)
    run.probe(500)
    pulses = read_run(run.finish()).history.pulses
    assert [pulse.step for pulse in pulses] == list(range(1, 500))


def test_a_history_takes_up_the_tally_of_another():
    """What was dropped is still known: first loss, early norms, counts."""
    long = make_history(*(make_step(step, loss=2.0) for step in range(9)))
    short = make_history(make_step(8, loss=1.0))
    short.resume(long.tally)
    assert (short.num_probes, short.first_loss, short.last_step) == (9, 2.0, 8)
    assert short.tally == long.tally
