"""The command line: what it prints, and how it refuses."""

import json
import subprocess
import sys
import types

import pytest
from typer.testing import CliRunner

from gradwatch import cli
from gradwatch._version import __version__
from gradwatch.errors import GradWatchError
from gradwatch.remedies import REMEDIES
from gradwatch.report import Report
from gradwatch.rules import RULES
from tests.sample_reports import non_finite, vanishing

runner = CliRunner()


def run(*words):
    """Return the result of a command."""
    return runner.invoke(cli.app, words)


@pytest.fixture(autouse=True)
def no_forced_colour(monkeypatch):
    """No test depends on the terminal that runs it."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def saved(tmp_path):
    """Return the path of a saved report."""
    return vanishing().save(tmp_path / "report.json")


def test_version_is_printed():
    """`--version` names the program and its version."""
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"gradwatch {__version__}\n")


def test_report_renders_a_saved_report(saved):
    """The console view of the file, without escape codes in a pipe."""
    result = run("report", str(saved))
    assert result.exit_code == 0
    assert result.output == f"{vanishing()}\n"


def test_report_prints_the_json_again(tmp_path):
    """`--json` gives JSON that reads back, NaN and all."""
    report = non_finite()
    result = run("report", str(report.save(tmp_path / "a.json")), "--json")
    assert json.loads(result.output)["health"] == "non-finite"
    assert Report.from_json(result.output).to_json() == report.to_json()


def test_report_html_writes_the_page(saved, tmp_path):
    """A saved report gets its page; another ending is refused."""
    result = run("report", str(saved), "--html", str(tmp_path / "a.html"))
    assert result.exit_code == 0
    assert "a.html written" in result.output
    assert "<!doctype html>" in (tmp_path / "a.html").read_text("utf-8")
    result = run("report", str(saved), "--html", "a.txt")
    assert result.exit_code == 2
    assert "must end in .html" in result.output


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_is_explained_by_code_and_by_name(rule):
    """Both give the same page, as Markdown where nobody looks at a terminal."""
    by_code, by_name = run("explain", rule.code.lower()), run("explain", rule.name)
    assert by_code.exit_code == 0
    assert by_code.output == by_name.output
    assert by_code.output.startswith(f"# {rule.code} {rule.name}")


def test_unknown_rules_are_refused_with_a_suggestion():
    """The nearest code is named, and hostile words are shown inert."""
    result = run("explain", "vanishing-gradiant")
    assert result.exit_code == 2
    assert "did you mean vanishing-gradient?" in result.output
    result = run("explain", "\x1b[2Jzzz")
    assert "\x1b" not in result.output
    assert "`gradwatch rules` lists them" in result.output


def test_rules_lists_all():
    """One line a rule: code, name, summary."""
    lines = run("rules").output.splitlines()
    assert len(lines) == len(RULES)
    for line, rule in zip(lines, RULES, strict=True):
        assert line.split()[:2] == [rule.code, rule.name]
        assert line.endswith(rule.summary)


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda remedy: remedy.name)
def test_every_remedy_is_explained_by_both_commands(remedy):
    """`explain NAME` and `remedies NAME` show the same page."""
    explained, shown = run("explain", remedy.name), run("remedies", remedy.name)
    assert explained.exit_code == 0
    assert explained.output == shown.output
    assert explained.output.startswith(f"# {remedy.name}\n")


def test_remedies_lists_all():
    """One line a remedy: name, risk, summary."""
    lines = run("remedies").output.splitlines()
    assert len(lines) == len(REMEDIES)
    for line, remedy in zip(lines, REMEDIES, strict=True):
        assert line.split()[:2] == [remedy.name, remedy.risk.value]
        assert line.endswith(remedy.summary)


def test_unknown_remedies_are_refused_with_a_suggestion():
    """By both commands; a rule is no remedy."""
    assert "did you mean gated-cell?" in run("explain", "gated-cel").output
    result = run("remedies", "clip-gradient")
    assert result.exit_code == 2
    assert "did you mean clip-gradients?" in result.output
    result = run("remedies", "GW101")
    assert result.exit_code == 2
    assert "`gradwatch remedies` lists them" in result.output


def test_demo_says_how_to_install_its_data(monkeypatch):
    """Without scikit-learn the message names the extra."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run("demo")
    assert result.exit_code == 1
    assert isinstance(result.exception, GradWatchError)
    assert "pip install scikit-learn" in str(result.exception)


def test_demo_is_called_with_its_words(monkeypatch):
    """What follows `demo` reaches it, and its status becomes the command's."""
    seen = []

    def main(*words):
        seen.append(words)
        return 1

    module = types.ModuleType("gradwatch.demo")
    module.main = main
    monkeypatch.setitem(sys.modules, "gradwatch.demo", module)
    assert run("demo").exit_code == 1
    run("demo", "--quick", "--only", "he-mlp", "--only", "pixel-rnn", "--width", "100")
    assert seen == [(False, None, None), (True, ["he-mlp", "pixel-rnn"], 100)]


@pytest.mark.parametrize("words", [(), ("--help",), ("report", "-h")])
def test_help_is_plain_text(words):
    """Help names the commands and holds no escape code."""
    output = run(*words).output
    assert "Usage" in output
    assert "\x1b" not in output


def test_module_and_error_without_a_traceback(tmp_path):
    """`python -m gradwatch` is the command; what it refuses is one line."""
    missing = tmp_path / "gone\x1b[2J.json"
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch", "report", str(missing)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("gradwatch: ")
    assert "cannot be read: No such file" in line
    assert "\x1b" not in line


def test_no_command_of_later_issues_is_stubbed():
    """A command that is listed works."""
    names = {command.callback.__name__ for command in cli.app.registered_commands}
    assert names == {
        "report",
        "compare",
        "run",
        "serve",
        "explain",
        "rules",
        "remedies",
        "demo",
    }
