"""The shape of the package: what it ships, what it imports, and who may import whom."""

import ast
import os
import re
import subprocess
import sys
from importlib import metadata, resources, util
from pathlib import Path

import pytest

import gradwatch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(next(iter(gradwatch.__path__)))

# From the bottom up: a module imports from the lines above its own, and from its own
# line where that makes no circle. A new file takes a place here on purpose.
ORDER = (
    (
        "_version",
        "late_import",
        "errors",
        "figures",
        "findings",
        "ranks",
        "records",
        "settings_file",
        "settings",
    ),
    ("ledger", "statistics"),
    ("dominators", "graph_nodes", "autograd_graph", "graph_neighbours"),
    ("foreign_forward", "layers", "losses", "structure", "trunk"),
    ("recurrent_weights", "recurrent_cells", "recurrent_backward", "recurrent"),
    ("graph_reading", "structure_build"),
    ("probe_entries", "probe_books", "probe_graph", "probe_step", "probe"),
    ("probe_numbers", "probe_coverage", "probe_depth", "probe_time", "probe_record"),
    ("processes_record", "processes_handshake"),
    ("pulse", "rhythm", "stopwatch"),
    ("recipe", "optimizer_spec", "capture"),
    (
        "hook_events",
        "unseen_steps",
        "step_hooks",
        "hook_kinds",
        "module_hooks",
        "hooks",
        "nan_origin",
    ),
    ("history",),
    ("deliveries", "watched_model", "optimizer_roles"),
    ("processes",),
    ("pulse_taking", "observed_facts", "sealing", "observer"),
    ("twin", "compiled_replay"),
    # Hand-made histories and tiny networks for tests; nothing of gradwatch imports it.
    ("testing",),
    # Plug-ins: found by entry points, checked.
    ("plugins",),
    ("rules",),
    ("rule_plugins",),
    ("detector",),
    ("anatomy", "recommendations"),
    ("activation_sites", "anatomy_reading"),
    ("situations",),
    ("activation_marks", "fitting", "model_copy", "rewiring", "weight_filling"),
    ("treatment", "training_edits"),
    ("remedies",),
    ("remedy_plugins",),
    ("remedy_ranking",),
    ("recommender",),
    ("prescription",),
    ("captured_loss", "verdicts", "replay", "trial_arm", "ab_training"),
    ("console_trial", "trials", "captured_trials"),
    ("run_facts", "report", "report_parts", "report_words", "report_build"),
    ("console_text", "console_layers", "console_trials", "console_recommendations"),
    ("console_report", "console_live", "console"),
    ("plot_numbers", "plots", "page_numbers", "page"),
    ("demo_nets", "console_cures", "console_demo"),
    ("runlog_format", "runlog_writing", "runlog_recording", "runlog", "serve"),
    ("comparison_parts", "comparison_measures", "comparison", "console_comparison"),
    (
        "watch_options",
        "listeners",
        "session_trials",
        "session_reports",
        "session",
        "precheck",
    ),
    ("demo_patient", "demo"),
    ("autowatch",),
    ("script",),
    ("cli", "__main__", "integrations", "child_start"),
)
# `Report`'s render methods, the commands and a watch that prints import what they use
# when they are called.
LATE_IMPORTS_IN = {"report", "cli", "session"}
FIRST_IMPORTS_NONE_OF = (
    "pytorch_lightning",
    "lightning",
    "transformers",
    "matplotlib",
    "wandb",
    "tensorboard",
    "mlflow",
    "sklearn",
    "yaml",
    "typer",
    "click",
    # A third of the time of the import went to these before they waited for a print.
    "rich",
    "markdown_it",
    "pygments",
    "gradwatch.console",
    # Parts of torch that cost as much as all of gradwatch.
    "torch._dynamo",
    "torch._inductor",
    "torch.utils.tensorboard",
)


WATCH = """
import gradwatch, torch
gradwatch.watch(torch.nn.Linear(1, 1), console={console}).close()
"""


def source_files():
    """Return the files of the package by dotted name below `gradwatch`."""
    integrations = util.find_spec("gradwatch.integrations")
    folders = {"": PACKAGE}
    if integrations is not None:
        folders["integrations"] = Path(
            next(iter(integrations.submodule_search_locations))
        )
    found = {}
    for prefix, top in folders.items():
        for folder, _, names in os.walk(top):
            for name in names:
                if name.endswith(".py"):
                    file = Path(folder, name)
                    parts = [prefix, *file.relative_to(top).with_suffix("").parts]
                    parts = [part for part in parts if part not in {"", "__init__"}]
                    found[".".join(parts)] = file
    return found


FILES = source_files()
TREES = {name: ast.parse(file.read_text("utf-8")) for name, file in FILES.items()}


def part_of(name):
    """Return the entry of ORDER that a dotted name belongs to, or None."""
    head = name.split(".")[0]
    return head if any(head in line for line in ORDER) else None


def line_of(name):
    """Return the place of a module in ORDER."""
    return next(i for i, line in enumerate(ORDER) if part_of(name) in line)


def imports(tree):
    """Yield every import as (dotted name, line number, whether inside a function)."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        late = id(node) in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, late
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, late


def own_imports(tree):
    """Yield (name below `gradwatch`, line number, whether inside a function)."""
    for name, line, late in imports(tree):
        if name.split(".")[0] == "gradwatch":
            yield name.partition(".")[2], line, late


def misplaced(name, tree):
    """Return what is wrong with a module's imports, one sentence each."""
    problems = []
    for target, line, late in own_imports(tree):
        where = f"gradwatch.{name}, line {line}"
        if part_of(target) is None:
            # The package itself: `from gradwatch import watch` would be a circle.
            if name.split(".")[0] not in {"cli", "integrations"}:
                problems.append(f"{where}: imports gradwatch itself ({target})")
        elif late and part_of(name) not in LATE_IMPORTS_IN:
            problems.append(f"{where}: imports {target} inside a function")
        elif not late and line_of(target) > line_of(name):
            problems.append(f"{where}: imports {target}, which is above it")
        elif part_of(target) == "testing" != part_of(name):
            problems.append(f"{where}: imports {target}, which is for tests")
    return problems


def loaded_by(code, *, path=None):
    """Return which of FIRST_IMPORTS_NONE_OF a fresh Python has loaded after `code`."""
    script = f"{code}\nimport sys\nprint('loaded:', *sorted(sys.modules))"
    extra = {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **extra},
    )
    modules = done.stdout.split("loaded:")[1].split()
    return [name for name in FIRST_IMPORTS_NONE_OF if name in modules]


@pytest.fixture(scope="module")
def pyproject():
    """The project's configuration."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_import_loads_no_framework_and_no_logger():
    """Importing gradwatch and watching bring in torch, and no other framework.

    Nor rich, where nothing is printed: on ranks above 0 for instance.
    """
    assert loaded_by(WATCH.format(console="None")) == []


def test_the_check_for_loaded_frameworks_can_fail(tmp_path):
    """A framework imported beside gradwatch is seen by the check above, and rich."""
    (tmp_path / "wandb.py").touch()
    code = "import wandb\n" + WATCH.format(console="'alerts'")
    found = set(loaded_by(code, path=tmp_path))
    assert found >= {"wandb", "rich", "gradwatch.console"}


@pytest.mark.parametrize("name", sorted(set(FILES) - {""}))
def test_imports_go_one_way(name):
    """A module imports only from what lies below it."""
    assert part_of(name), f"gradwatch.{name} has no place in ORDER: give it one"
    assert misplaced(name, TREES[name]) == []


def test_imports_make_no_circle():
    """Modules of one line import each other in one direction only."""
    graph = {
        name: {
            known
            for target, _, late in own_imports(tree)
            for known in (target, target.rpartition(".")[0])
            if known in FILES and known not in {"", name} and not late
        }
        for name, tree in TREES.items()
        if name
    }
    left = dict(graph)
    while left:
        free = [name for name, needs in left.items() if not needs & set(left)]
        assert free, f"these import each other: {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("records", "from gradwatch.history import History", "above it"),
        (
            "records",
            "if TYPE_CHECKING:\n    from gradwatch.history import History",
            "above it",
        ),
        ("hooks", "def f():\n    import gradwatch.records", "inside a function"),
        ("detector", "from gradwatch import watch", "gradwatch itself"),
        ("cli", "from gradwatch.testing import toy", "for tests"),
    ],
    ids=["upward", "type-checking", "late", "package", "testing"],
)
def test_the_check_of_imports_can_fail(name, code, problem):
    """Each kind of wrong import is named."""
    (found,) = misplaced(name, ast.parse(code))
    assert problem in found


@pytest.mark.parametrize("name", sorted(FILES))
def test_only_the_console_imports_rich(name):
    """Rich is known to the console alone."""
    users = [line for target, line, _ in imports(TREES[name]) if _is_rich(target)]
    assert not users or name.startswith("console"), f"{FILES[name]}, lines {users}"


def _is_rich(target):
    return target.split(".")[0] == "rich"


@pytest.mark.parametrize("name", sorted(FILES))
def test_only_hooks_registers_hooks(name):
    """Hooks are registered where they are also removed; `hooks` catches our errors.

    Those of a treatment are no watch's: they are a part of the treated model and of its
    new optimizer, and stay.
    """
    pattern = re.compile(r"register_\w*hook")
    uses = [
        node.lineno
        for node in ast.walk(TREES[name])
        if (isinstance(node, ast.Attribute) and pattern.fullmatch(node.attr))
        or (isinstance(node, ast.Name) and pattern.fullmatch(node.id))
    ]
    allowed = {"hooks", "step_hooks", "module_hooks", "rewiring", "training_edits"}
    assert not uses or name in allowed, f"{FILES[name]}, lines {uses}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_printed(name):
    """The package returns values; the console and the command line show them."""
    uses = [
        node.lineno
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert not uses, f"{FILES[name]}, lines {uses}"


def test_every_folder_is_a_listed_package(pyproject):
    """Setuptools ships exactly the folders that hold modules."""
    if not (ROOT / "gradwatch").is_dir():
        pytest.skip("runs on the source tree, which is out of the way")
    folders = {
        ".".join(("gradwatch", *file.parent.relative_to(ROOT / "gradwatch").parts))
        for file in (ROOT / "gradwatch").rglob("*.py")
    } | {
        ".".join(("gradwatch", *file.parent.relative_to(ROOT).parts))
        for file in (ROOT / "integrations").rglob("*.py")
    }
    assert set(pyproject["tool"]["setuptools"]["packages"]) == folders


def test_every_listed_package_is_importable(pyproject):
    """What setuptools was told to ship is there, in a clone and in the wheel."""
    for name in pyproject["tool"]["setuptools"]["packages"]:
        assert util.find_spec(name) is not None, name


def test_the_version_is_told_once():
    """The package, its metadata and the changelog agree."""
    assert gradwatch.__version__ == metadata.version("gradwatch")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    assert newest[0] == "Unreleased"
    assert newest[1:2] in ([], [gradwatch.__version__])


def test_types_are_shipped():
    """Type checkers of other projects may read our annotations."""
    assert resources.files("gradwatch").joinpath("py.typed").is_file()


def test_the_command_is_installed():
    """`gradwatch` calls a function that exists."""
    (command,) = metadata.entry_points(group="console_scripts", name="gradwatch")
    assert callable(command.load())


def test_every_requirement_is_pinned_for_developers(pyproject):
    """What pyproject.toml asks for, constraints-dev.txt pins: CI moves on purpose."""
    project = pyproject["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {_name(item) for items in lists for item in items} - {"gradwatch"}
    lines = (ROOT / "constraints-dev.txt").read_text("utf-8").splitlines()
    pinned = {_name(line) for line in lines if "==" in line.partition(";")[0]}
    assert wanted <= pinned, f"not pinned: {sorted(wanted - pinned)}"


def _name(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower()


def test_every_public_name_is_used_by_the_typing_file():
    """What users may import is checked by mypy as users would write it."""
    names = sorted(gradwatch.__all__)
    assert names == list(gradwatch.__all__), "`__all__` is sorted"
    text = (ROOT / "tests" / "typing" / "api.py").read_text("utf-8")
    unused = [name for name in names if not re.search(rf"gradwatch\.{name}\b", text)]
    assert not unused, f"tests/typing/api.py does not use {unused}"
