"""Rules and remedies of other packages: the example works, broken ones hurt nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradwatch
from gradwatch import plugins, remedy_plugins, rule_plugins
from gradwatch.detector import Detector
from gradwatch.findings import Evidence, Health, Severity
from gradwatch.rules import RULES, Rule
from gradwatch.run_facts import what_was_checked
from gradwatch.settings import Settings
from gradwatch.structure import Structure
from gradwatch.testing import make_history, make_step

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PLUGIN = Path(__file__).resolve().parent.parent / "examples" / "plugin"


def install(folder, entry_points, name="some-plugin"):
    """Write what an installer leaves behind: the metadata of a distribution."""
    metadata = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"
    )
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Return a folder on the path; plug-ins are looked for anew, before and after."""
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (rule_plugins.all_rules, remedy_plugins.all_remedies):
        cached.cache_clear()
    yield tmp_path
    for cached in (rule_plugins.all_rules, remedy_plugins.all_remedies):
        cached.cache_clear()


SCRIPT = """
import torch
from torch import nn
import gradwatch

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                      nn.Linear(16, 3))
with torch.no_grad():
    model[2].weight.mul_(50)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
with gradwatch.watch(model, console=None) as watch:
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
report = watch.report()
print(*[f"{f.code}:{f.layers}:{f.is_alarm}:{f.url!r}" for f in report.findings])
print("checked", [rule.code for rule in report.checked])
best = next(r for r in report.recommendations if r.remedy == "rescale-weights")
treated = gradwatch.treat(model, best)
print("rms", model[2].weight.square().mean().sqrt().item(),
      treated[2].weight.square().mean().sqrt().item())
again = gradwatch.Report.from_json(report.to_json()) if hasattr(
    gradwatch.Report, "from_json") else report
print("again", [f.code for f in again.findings])
before = model[2].weight.clone()
exec(best.code)
print("same", torch.allclose(model[2].weight, treated[2].weight, rtol=1e-5))
"""


def test_the_example_plugin_s_rule_fires_and_its_remedy_is_applied(tmp_path):
    """As installed: its module and metadata on the path, nothing else."""
    declared = tomllib.loads((PLUGIN / "pyproject.toml").read_text("utf-8"))["project"]
    install(tmp_path, declared["entry-points"], declared["name"])
    source = PLUGIN / "gradwatch_heavy_weights.py"
    (tmp_path / source.name).write_text(source.read_text("utf-8"), "utf-8")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not gradwatch.__file__.startswith(sys.prefix):
        paths.append(str(Path(gradwatch.__file__).parent.parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "80"}
    calls = (
        "import sys; from gradwatch.cli import app; "
        "[app(words.split(), standalone_mode=False) for words in sys.argv[1:]]"
    )
    words = ["rules", "remedies", "explain LAB101", "remedies rescale-weights"]
    for arguments in (["-c", SCRIPT], ["-c", calls, *words]):
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        if arguments[1] is SCRIPT:
            assert "LAB101:('2',):True:''" in done.stdout
            assert "'GW205'" in done.stdout
            before, after = map(float, done.stdout.split("rms ")[1].split()[:2])
            assert before > 2
            assert after == pytest.approx((3 * 16) ** -0.5, rel=1e-5)
            assert "again ['LAB101'" in done.stdout
            assert "same True" in done.stdout  # the lines to paste do what apply does
        else:
            assert "LAB101  heavy-weights " in done.stdout
            assert "rescale-weights          reshapes" in done.stdout
            assert "# LAB101 heavy-weights" in done.stdout
            assert "# rescale-weights" in done.stdout
            assert "LAB101 heavy-weights](" in done.stdout
            assert "GW101  vanishing-gradient" in done.stdout


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("Mine = 3", "TypeError: 3 is no `gradwatch.rules.Rule`"),
        ("", "AttributeError"),
        (
            "from gradwatch.rules.dead_units import DeadUnits\n"
            "class Mine(DeadUnits): code = 'GW103'",
            "GW is gradwatch's own",
        ),
        (
            "from gradwatch.rules.dead_units import DeadUnits\n"
            "class Mine(DeadUnits): code = 'LAB103'",
            "there is a rule named 'dead-units' already",
        ),
        (
            "from gradwatch.rules.dead_units import DeadUnits\n"
            "class Mine(DeadUnits):\n"
            "    code, name, settings_used = 'LAB103', 'x', ('y',)",
            "names what is no setting: ['y']",
        ),
    ],
    ids=["raises", "exits", "no-rule", "missing", "our-code", "our-name", "setting"],
)
def test_what_cannot_be_used_is_left_out_with_one_warning(
    fresh, monkeypatch, source, reason
):
    """It names the plug-in and the reason; our rules stay, also under `-W error`."""
    (fresh / "a_broken_plugin.py").write_text(source)
    monkeypatch.delitem(sys.modules, "a_broken_plugin", raising=False)
    install(fresh, {"gradwatch.rules": {"mine": "a_broken_plugin:Mine"}})
    with pytest.warns(gradwatch.PluginWarning) as told:
        assert rule_plugins.all_rules() == RULES
    assert len(told) == 1
    text = str(told[0].message)
    assert "`mine = a_broken_plugin:Mine` of some-plugin 0.1 (gradwatch.rules)" in text
    assert reason in text
    assert rule_plugins.all_rules() == RULES  # and no second warning


def test_a_remedy_that_is_none_is_left_out(fresh):
    """As for rules."""
    install(fresh, {"gradwatch.remedies": {"mine": "pathlib:Path"}})
    with pytest.warns(gradwatch.PluginWarning, match=r"is no `gradwatch\.remedies\."):
        assert remedy_plugins.all_remedies() == remedy_plugins.REMEDIES


class Stranger(Rule):
    """A rule of a test."""

    code = "LAB900"
    name = "stranger"
    summary = "Does what its test says."
    health = Health.UNSTABLE
    confirm = 1

    def __init__(self, answer):
        self.answer = answer

    def judge(self, history, structure, settings):
        """Return what it was given, or raise it."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer and self.finding(
            severity=Severity.WARNING,
            message="Strange.",
            help="Look.",
            evidence=(Evidence("strangeness", 1.0, 0.5, "", (0, 0)),)
            if self.answer == "finding"
            else (),
        )


@pytest.mark.parametrize("answer", [ZeroDivisionError("by zero"), "no evidence"])
def test_a_rule_that_raises_says_nothing_and_is_told_once(answer, monkeypatch):
    """Training and the other rules go on; the report says that it was not judged."""
    rule = Stranger(answer)
    history = make_history(make_step(0), make_step(1))
    other = type("Other", (Stranger,), {"code": "LAB901", "name": "other"})("finding")
    detector = Detector(Settings(), rules=(rule, other))
    with pytest.warns(gradwatch.PluginWarning, match="LAB900 stranger of") as told:
        found = detector.update(history, Structure())
    detector.update(history, Structure())
    assert len(told) == 1
    assert [finding.code for finding in found] == ["LAB901"]
    monkeypatch.setattr("gradwatch.run_facts.all_rules", lambda: (rule, other))
    checked, unchecked = what_was_checked(history, Structure(), Settings(), found)
    assert [item.code for item in checked] == ["LAB901"]
    assert [item.code for item in unchecked] == ["LAB900"]
    assert unchecked[0].reason.startswith("it failed: ")


def test_a_rule_without_a_plugin_is_asked_directly():
    """An error of ours is not hidden here: `hooks.py` catches it."""
    for rule in RULES:
        with pytest.raises(AttributeError):
            rule_plugins.ask(rule, None, None, None)


def test_names_are_checked():
    """Kebab case, and not taken."""
    plugins.check_name("two-words", {"one"}, "rule")
    for name in ("Two", "two words", "", None, "one"):
        with pytest.raises(ValueError, match="rule"):
            plugins.check_name(name, {"one"}, "rule")
