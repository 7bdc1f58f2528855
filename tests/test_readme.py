"""What the README and its neighbours promise is there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
# Left out where the tests run on the wheel alone.
SOURCES = ("gradwatch/", "integrations/")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Every link to a file of the repository names one that exists."""
    text = (ROOT / page).read_text("utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    missing = [
        target
        for target in targets
        if not target.startswith(SOURCES) and not (ROOT / target).exists()
    ]
    assert not missing


def test_the_extras_are_those_of_the_package():
    """The README names every extra of pyproject.toml, and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"`\[(\w+)\]`", (ROOT / "README.md").read_text("utf-8"))
    assert sorted(named) == sorted(project["optional-dependencies"])


def test_the_commands_exist():
    """The README's two commands are jobs of `dev.py`."""
    jobs = runpy.run_path(str(ROOT / "dev.py"))["EXTRAS"]
    named = re.findall(
        r"^python3 dev\.py (\w+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert named == ["demo", "test"]
    assert set(named) <= set(jobs)


def test_dev_explains_itself():
    """Without a job, `dev.py` says what it can do, and fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "dev.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "dev.py demo" in done.stdout


def test_the_examples_run(tmp_path):
    """The README's Python blocks run, one after the other, as they stand."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
    )
    assert len(blocks) == 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert "GW101" in done.stdout
    assert "activation Sigmoid" in done.stdout  # what the treatment changed
