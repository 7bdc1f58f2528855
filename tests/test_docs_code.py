"""Every piece of code in the documentation runs, or says why it cannot."""

import contextlib
import io
import re

import pytest
import torch
import typer

from gradwatch.cli import app
from tests.docs_pages import ROOT, SETUPS, Block, Page, commands, pages, read

PAGES = pages()
#: Pages whose Python blocks are run one after the other. tests/test_readme.py runs the
#: README's, which must stand by themselves in a process of their own.
RUN = [
    page
    for page in PAGES
    if page.of("python") and not page.example and page.name != "README.md"
]
COMMANDS = [
    pytest.param(words, id=f"{block.place} {' '.join(words)}")
    for page in PAGES
    for block in page.of("console", "bash", "sh")
    for words in commands(block)
]
by_name = {"ids": lambda page: page.name}


def run(page: Page, namespace: dict[str, object]) -> str:
    """Run a page's Python blocks as one program; return what the page says is printed.

    The line numbers of a traceback are those of the page.
    """
    printed = io.StringIO()
    for block in page.of("python", "text"):
        if block.kind == "text":
            if block.printed:
                compare(block, printed.getvalue())
            continue
        source = "\n" * (block.line - 1) + block.code
        code = compile(source, str(ROOT / page.name), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exec(code, namespace)
    return printed.getvalue()


def words_of(text: str) -> set[str]:
    """Return the words of a printed text: numbers may differ between machines."""
    return set(re.findall(r"[A-Za-z][A-Za-z-]{2,}", text))


def compare(block: Block, printed: str) -> None:
    """Check that a text block shows what was printed.

    Nine words of ten, so that a reason that appears on one machine and not on another
    does not count; every label of a line (`evidence`, `since`) and every code must.
    """
    shown, known = words_of(block.code), words_of(printed)
    missing = shown - known
    assert len(missing) <= len(shown) / 10, f"{block.place} shows {sorted(missing)}"
    exact = r"^  ([a-z]+)  |(GW\d+)"
    labels = {"".join(m) for m in re.findall(exact, block.code, re.MULTILINE)}
    said = {"".join(m) for m in re.findall(exact, printed, re.MULTILINE)}
    assert labels <= said, f"{block.place} shows {sorted(labels - said)}"


# Lightning, on data as few as those of a test.
@pytest.mark.filterwarnings("ignore:The number of training batches")
# torch's own, when it first compiles an optimizer's step.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("page", RUN, **by_name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """From its first block to its last, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        run(page, {"__name__": "__main__", **SETUPS[page.setup]()})
    finally:
        torch.set_rng_state(state)


@pytest.mark.parametrize("page", [p for p in PAGES if p.example], **by_name)
def test_the_python_of_a_page_is_its_example_s(page):
    """The example runs in CI; the page shows its lines, in its order."""
    lines = (ROOT / page.example).read_text("utf-8").splitlines()
    code = [line.strip() for line in lines]
    for block in page.of("python"):
        shown = [line.strip() for line in block.code.splitlines() if line.strip()]
        assert set(shown) <= set(code), block.place
        places = [code.index(line) for line in shown if code.count(line) == 1]
        assert places == sorted(places), block.place


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_a_page_is_understood(words, tmp_path, monkeypatch):
    """Commands of ours are parsed, beside the files that they name; scripts exist."""
    monkeypatch.chdir(tmp_path)
    if "gradwatch" in words[:6] and words[0] != "git":
        args = words[words.index("gradwatch") + 1 :]
        for word in args:
            if "/" in word or word.endswith((".py", ".json")):
                path = tmp_path / word
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        group = typer.main.get_command(app)
        with contextlib.suppress(typer.Exit):  # --help or --version has done its work
            context = group.make_context("gradwatch", list(args[:1]))
            name, command, _ = group.resolve_command(context, list(args))
            command.make_context(name, list(args[1:]), parent=context)
        return
    if words[0].startswith("python"):
        assert (ROOT / words[1]).exists()
        return
    pytest.skip(f"not a command of ours: {words[0]}")


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in page.blocks if block.reason],
    ids=lambda block: block.place,
)
def test_code_that_is_not_run_is_python_all_the_same(block):
    """It compiles where it is Python; the skip counts it and says why it is not run."""
    if block.kind == "python":
        compile(block.code, block.place, "exec")
    pytest.skip(block.reason)


def page_of(text):
    """Return a page of a text."""
    return read("page.md", text)


def test_a_block_that_fails_is_named_by_its_line():
    """The check can fail, and its traceback leads to the page."""
    page = page_of("# A page\n\n```python\nx = 1\n```\n\n```python\nx += y\n```\n")
    with pytest.raises(NameError) as caught:
        run(page, {})
    assert caught.traceback[-1].lineno + 1 == 8
    assert str(caught.traceback[-1].path).endswith("page.md")


def test_a_text_that_was_not_printed_is_told():
    """Other numbers pass, other words and codes do not."""
    code = "```python\nprint('GW101 fades by 2.0 decades')\n```\n"
    shown = "<!-- printed -->\n\n```text\nGW{} {} by 7.5 decades\n```\n"
    run(page_of(code + shown.format(101, "fades")), {})
    with pytest.raises(AssertionError, match="GW102"):
        run(page_of(code + shown.format(102, "fades")), {})
    with pytest.raises(AssertionError, match="grows"):
        run(page_of(code + shown.format(101, "grows")), {})


def test_a_command_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    """Neither a sub-command nor an option is taken on trust."""
    for words in (["gradwatch", "cure"], ["gradwatch", "demo", "--often"]):
        with pytest.raises(Exception, match=r"No such (command|option)"):
            test_a_command_of_a_page_is_understood(words, tmp_path, monkeypatch)
