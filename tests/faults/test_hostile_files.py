"""Reports, records and settings from anywhere: read or refused; nothing runs."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

import gradwatch
from gradwatch import Report, Settings
from gradwatch.console import report_text
from gradwatch.errors import ReportError, SettingsError
from gradwatch.runlog import read_run
from tests.recorded_runs import deep_mlp, train
from tests.sample_reports import SAMPLES

ROOT = Path(__file__).parents[2]
fuzz = examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

#: What a stranger may put where a number, a word or a list belongs.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**30), -1, 0, 1 << 63]),
    st.floats(),
    st.sampled_from(
        ["NaN", "inf", "-Infinity", "", "[red]", "\x1b[2J", "\ud800", "a\n"]
    ),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


def paths_of(value, path=()):
    """Yield the path of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from paths_of(item, (*path, key))


def with_junk(value, draw):
    """Change a JSON value in one to three places."""
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(paths_of(value))))
        target = value
        for key in way:
            target = target[key]
        if draw(st.booleans()):
            target[last] = draw(JUNK)
        else:
            del target[last]
        if not value:
            return value
    return value


def read_or_refused(read):
    """Return what is read, or None if it is refused in a message of ordinary length."""
    try:
        return read()
    except (ReportError, SettingsError) as refusal:
        said = str(refusal)
    assert 0 < len(said) < 2000
    return None


# -- files ----------------------------------------------------------------------------


@fuzz
@given(st.data(), st.sampled_from(sorted(SAMPLES)))
def test_a_changed_report_is_refused_or_shown(data, name):
    """Wrong values anywhere: one clear error, or a report that prints."""
    fields = with_junk(json.loads(sample(name)), data.draw)
    report = read_or_refused(lambda: Report.from_json(json.dumps(fields)))
    if report is not None:
        shown_inert(report_text(report))
        assert report.to_json()


def test_half_a_character_in_a_report_is_refused():
    """JSON can hold a lone surrogate, a file in UTF-8 cannot; a pair is a character."""
    fields = json.loads(sample("vanishing"))
    fields["sentence"] = "\ud800"
    with pytest.raises(ReportError, match="half a character"):
        Report.from_json(json.dumps(fields))
    fields["sentence"] = "\U0001f600"
    assert Report.from_json(json.dumps(fields)).sentence == "\U0001f600"


def sample(name, _kept={}):  # noqa: B006 - composed once
    """Return the JSON of a sample."""
    if name not in _kept:
        _kept[name] = SAMPLES[name]().to_json()
    return _kept[name]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Return the lines of a record with findings, proposals and a report."""
    folder = tmp_path_factory.mktemp("runs")
    model, x, labels = deep_mlp()
    with gradwatch.watch(model, console=None, every=2, record=folder):
        train(model, x, labels, steps=6)
    (file,) = folder.glob("*/run.jsonl")
    return file.read_bytes().splitlines(keepends=True)


@fuzz
@given(data=st.data())
def test_a_changed_record_is_refused_or_read(lines, tmp_path_factory, data):
    """Wrong values in any line, and lines in any order."""
    lines = list(lines)
    place = data.draw(st.integers(0, len(lines) - 1))
    junk = with_junk(json.loads(lines[place]), data.draw)
    lines[place] = json.dumps(junk).encode() + b"\n"
    if data.draw(st.booleans()):
        lines = [lines[0], *data.draw(st.permutations(lines[1:]))]
    if data.draw(st.booleans()):
        lines = [line for line in lines if b'"kind":"report"' not in line]
    file = tmp_path_factory.mktemp("odd") / "run.jsonl"
    file.write_bytes(b"".join(lines))
    run = read_or_refused(lambda: read_run(file))
    if run is not None:
        shown_inert(report_text(run.report))


@fuzz
@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    | st.builds(
        "{} = {!r}".format, st.sampled_from([*Settings.model_fields]), JUNK
    ).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([".toml", ".yaml", ".yml"]),
)
def test_any_settings_file_is_read_or_refused(tmp_path_factory, content, suffix):
    """Bytes, words, and wrong values of right names."""
    file = tmp_path_factory.mktemp("settings") / f"gradwatch{suffix}"
    file.write_bytes(content)
    loaded = read_or_refused(lambda: Settings.load(file))
    assert loaded is None or isinstance(loaded, Settings)


DEEP = {
    "toml-lists.toml": "a = " + "[" * 20_000,
    "toml-tables.toml": "[" + ".".join("a" * 3000) + "]\nevery = 3",
    "yaml-lists.yaml": "a: " + "[" * 20_000,
    "yaml-laughs.yaml": "\n".join(
        [
            "a0: &a0 [x, x]",
            *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 26)),
        ]
    ),
    "yaml-laugh.yaml": "\n".join(
        [
            "a0: &a0 [x, x]",
            *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 26)),
        ]
    )
    + "\nevery: *a25",
    "yaml-tag.yaml": "every: !!python/object/apply:os.system ['false']",
    "yaml-self.yaml": "every: &a [*a]",
    "yaml-date.yaml": "every: 2026-13-41",
    "toml-number.toml": "every = " + "9" * 5000,
    "yaml-number.yaml": "every: " + "9" * 5000,
}


@pytest.mark.parametrize("name", DEEP)
def test_a_settings_file_made_to_break_readers_is_refused(tmp_path, name):
    """Nesting, aliases that multiply, tags that call: an error of ordinary length."""
    file = tmp_path / name
    file.write_text(DEEP[name])
    with pytest.raises(SettingsError) as caught:
        Settings.load(file)
    assert len(str(caught.value)) < 5000


READER = """
import sys
import gradwatch
from gradwatch.console import report_text
from gradwatch.runlog import read_run
report, run, settings = sys.argv[1:]

def read():
    gradwatch.Settings.load(settings)
    report_text(gradwatch.Report.load(report))
    report_text(read_run(run).report)

read()  # what is imported at first use
names = ("pickle.", "exec", "os.system", "os.exec", "os.fork", "os.posix_spawn",
         "subprocess.", "socket.", "marshal.", "ctypes.", "import", "os.remove")
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(names) else 0)
written = []
sys.addaudithook(
    lambda event, args: written.append(args)
    if event == "open" and set(str(args[1] or "")) & set("wxa+") else 0
)
read()
print(sorted(set(seen)), written)
"""


def test_reading_runs_nothing_and_writes_nothing(lines, tmp_path):
    """The interpreter's own audit sees no pickle, import, process, socket or write."""
    (tmp_path / "report.json").write_text(sample("vanishing"))
    (tmp_path / "run.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "settings.toml").write_text("every = 3")
    names = ("report.json", "run.jsonl", "settings.toml")
    files = [str(tmp_path / name) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", READER, *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "[] []", (done.stdout, done.stderr[-2000:])


def test_no_module_of_ours_unpickles_or_evaluates():
    """Only `gradwatch run`, which is asked to run a script, calls exec."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    callers = []
    for file in sorted(Path(gradwatch.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name for alias in node.names}, file
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in forbidden, file
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {"exec", "eval", "torch.load", "yaml.load"}:
                    callers.append((file.name, called))
    assert callers == [("script.py", "exec")]


# -- names ----------------------------------------------------------------------------

PAYLOADS = [
    "[red]markup[/red]",
    "\x1b[2J\x1b]0;title\x07",
    "<img src=x onerror=alert(1)>",
    'a"]; pwned() #',
    "b\npwned()",
    "{pwned()}",
    "'); pwned('",
    "c d  e",
    "\u202eright-to-left\u2066",
    "class",
    "007",
    "\\",
    "'''",
]


def shown_inert(text):
    """Hold that a terminal has nothing to obey in a text."""
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text
    )


def hostile_net(layer):
    """Return a deep net of sigmoids whose layers have names of an attacker's."""
    model = nn.Sequential()
    for number, payload in enumerate(PAYLOADS):
        block = nn.Sequential()
        block.add_module(payload, layer())
        block.add_module(f"act{payload}", nn.Sigmoid())
        model.add_module(f"{payload}{number}" if number % 2 else payload, block)
    return model


def test_names_of_layers_are_inert_wherever_they_are_shown(tmp_path, capsys):
    """On the terminal, in the notebook, in the record, and in the code to paste."""
    model = hostile_net(lambda: nn.Linear(8, 8))
    with gradwatch.watch(
        model, every=1, console="alerts", name=PAYLOADS[1], record=tmp_path
    ) as watch:
        train(model, torch.randn(64, 8), torch.randint(8, (64,)), steps=4)
    report = watch.report()
    assert report.findings
    assert watch._observer.hooks.failure is None
    shown_inert(capsys.readouterr().err)
    shown_inert(str(report))
    assert "<img" not in report._repr_html_()
    (file,) = tmp_path.glob("*/run.jsonl")
    assert file.resolve().parent.parent == tmp_path.resolve()
    assert [layer.name for layer in read_run(file).report.layers] == [
        layer.name for layer in report.layers
    ]
    assert len(report.recommendations) > 3
    for recommendation in report.recommendations:
        code = recommendation.code
        nodes = ast.walk(ast.parse(code))
        assert "pwned" not in {n.id for n in nodes if isinstance(n, ast.Name)}, code
