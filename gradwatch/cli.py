"""The command line: reports read again, rules explained, the demo."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradwatch.errors import GradWatchError

if TYPE_CHECKING:
    from gradwatch.findings import Severity
    from gradwatch.remedies import Remedy
    from gradwatch.rules import Rule

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # words of the user's are shown, not read as markup
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Names the sick layers of a PyTorch network, with evidence.",
)


def main() -> None:
    """Run the command line; what gradwatch refuses is one line, not a traceback."""
    try:
        app(prog_name="gradwatch")
    except GradWatchError as error:
        typer.echo(f"gradwatch: {_one_line(str(error))}", err=True)
        sys.exit(1)


def _one_line(text: str) -> str:
    from gradwatch.console_text import inert

    return inert(text)


def _show_version(wanted: bool) -> None:
    if wanted:
        from gradwatch._version import __version__

        typer.echo(f"gradwatch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version and leave.",
        ),
    ] = False,
) -> None:
    """Names the sick layers of a PyTorch network, with evidence."""


@app.command()
def report(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of a recorded run, also of one that runs or was killed; or a "
            ".json file that a report was saved to."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON, checked and complete.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write the report's page to this file."),
    ] = None,
) -> None:
    """Show the report of a recorded run, or a saved one."""
    from gradwatch.console import emit, report_text, stream_format
    from gradwatch.report import Report
    from gradwatch.runlog import is_record, read_run

    if is_record(path):
        run = read_run(path)
        loaded = run.report
        if run.finished:  # an unfinished one has them in its report
            for note in run.notes:
                typer.echo(f"gradwatch: {_one_line(note)}", err=True)
    else:
        loaded = Report.load(path)
    if html is not None:
        typer.echo(f"{loaded.save(_as_html(html))} written.", err=True)
    elif as_json:
        typer.echo(loaded.to_json())
    else:
        width, colour = stream_format(sys.stdout)
        emit(report_text(loaded, width, colour=colour), sys.stdout)


@app.command()
def compare(
    run_a: Annotated[
        Path, typer.Argument(help="The first run: a recorded one or a saved report.")
    ],
    run_b: Annotated[Path, typer.Argument(help="The run with the change.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as JSON.")
    ] = False,
) -> None:
    """Say what became of a run's findings in another: did the fix help?"""
    from gradwatch.comparison import compare as compare_runs
    from gradwatch.console import emit, stream_format
    from gradwatch.console_comparison import comparison_text

    comparison = compare_runs(run_a, run_b)
    if as_json:
        typer.echo(comparison.to_json())
        return
    width, colour = stream_format(sys.stdout)
    emit(comparison_text(comparison, width, colour=colour), sys.stdout)


@app.command()
def serve(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of a recorded run, also of one that goes on; or a folder of "
            "runs, of which the newest is shown."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; others need the token then.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")
    ] = 8017,
    token: Annotated[
        str | None,
        typer.Option(
            help="What must be in the address; drawn where others can reach it."
        ),
    ] = None,
) -> None:
    """Show the page of a run in the browser while training goes on. Ctrl-C ends it."""
    from gradwatch.serve import PageServer

    with PageServer(path, host, port, token) as server:
        typer.echo(f"gradwatch: {server.url} (Ctrl-C ends it)", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _as_html(path: Path) -> Path:
    if path.suffix.lower() not in {".html", ".htm"}:
        raise typer.BadParameter(f"{path} must end in .html.", param_hint="--html")
    return path


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,  # what follows the script is the script's
    }
)
def run(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A script; a module after -m.")
    ],
    module: Annotated[
        bool,
        typer.Option("-m", "--module", help="SCRIPT is a module, as in python -m."),
    ] = False,
    console: Annotated[
        str, typer.Option(help="alerts, live, end or none: what is printed.")
    ] = "alerts",
    settings: Annotated[
        Path | None, typer.Option(help="TOML or YAML file of settings.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder to keep the run's records in.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Share of training time it may take.")
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Probe every so many steps.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(help="warning or critical: exit with 3 if one is confirmed."),
    ] = None,
) -> None:
    """Run a training script with everything that it trains watched.

    No line of the script changes. The exit status is the script's own.

    Raises:
        Exit: Always, with that status.
    """
    from gradwatch import script

    options = {
        "console": None if console == "none" else console,
        "settings": None if settings is None else str(settings),
        "record": None if record is None else str(record),
        "budget": budget,
        "every": every,
    }
    given = {k: v for k, v in options.items() if v is not None or k == "console"}
    level = None if fail_on is None else _severity(fail_on)
    status = script.run(target, context.args, module=module, fail_on=level, **given)
    raise typer.Exit(status)


def _severity(word: str) -> Severity:
    from gradwatch.findings import Severity

    if word.upper() not in ("WARNING", "CRITICAL"):
        raise typer.BadParameter(
            f"{_one_line(word)!r} must be warning or critical.", param_hint="--fail-on"
        )
    return Severity[word.upper()]


@app.command()
def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RULE|REMEDY", help="GW101, vanishing-gradient or gated-cell."
        ),
    ],
) -> None:
    """Explain a rule or a remedy: what it looks at, why, and what it is worth."""
    from gradwatch.remedy_plugins import all_remedies
    from gradwatch.rule_plugins import all_rules

    names: dict[str, Rule | Remedy] = {}
    for rule in all_rules():
        names |= {rule.code.lower(): rule, rule.name: rule}
    names |= {remedy.name: remedy for remedy in all_remedies()}
    hint = "`gradwatch rules` lists them, `gradwatch remedies` the remedies."
    _show_page(names[_known(name, names, "rule and no remedy", hint)])


def _known(wanted: str, names: Iterable[str], what: str, hint: str) -> str:
    """Return a name as it is written in the catalogue, or refuse it with the nearest.

    Raises:
        BadParameter: If there is no such name.
    """
    names = list(names)
    if wanted.lower() in names:
        return wanted.lower()
    near = difflib.get_close_matches(wanted.lower(), names, n=1)
    if near:
        code = near[0].upper() if near[0].startswith("gw") else near[0]
        hint = f"did you mean {code}?"
    raise typer.BadParameter(
        f"{_one_line(wanted)!r} is no {what}; {hint}", param_hint="NAME"
    )


def _show_page(what: Rule | Remedy) -> None:
    """Print the page of a rule or a remedy."""
    from gradwatch.console import emit, markdown_text, stream_format
    from gradwatch.remedies import pages as remedy_pages
    from gradwatch.rule_plugins import all_rules
    from gradwatch.rules import Rule
    from gradwatch.rules import pages as rule_pages

    if isinstance(what, Rule):
        page = rule_pages.page(what)
    else:
        page = remedy_pages.page(what, all_rules())
    # The first line says to those who edit the files where they come from.
    lines = page.splitlines()
    source = "\n".join(line for line in lines if not line.startswith("<!--"))
    width, colour = stream_format(sys.stdout)
    if sys.stdout.isatty():
        source = markdown_text(source, width, colour=colour)
    emit(source.strip("\n"), sys.stdout)


@app.command()
def remedies(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[REMEDY]", help="Show the page of this remedy."),
    ] = None,
) -> None:
    """List the remedies, or show the page of one."""
    from gradwatch.console import emit
    from gradwatch.remedy_plugins import all_remedies

    known = {remedy.name: remedy for remedy in all_remedies()}
    if name is None:
        rows = [
            f"{remedy.name:23}  {remedy.risk.value:13}  {remedy.summary}"
            for remedy in known.values()
        ]
        emit("\n".join(rows), sys.stdout)
        return
    hint = "`gradwatch remedies` lists them."
    _show_page(known[_known(name, known, "remedy", hint)])


@app.command()
def rules() -> None:
    """List the rules."""
    from gradwatch.console import emit
    from gradwatch.rule_plugins import all_rules

    emit("\n".join(_lines(all_rules())), sys.stdout)


def _lines(found: Iterable[Rule]) -> Iterable[str]:
    for rule in found:
        yield f"{rule.code}  {rule.name:24} {rule.summary}"


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for a quarter of the steps.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Train this network; may be repeated."),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=40, help="Width of the text.")
    ] = None,
) -> None:
    """Train sick and healthy networks on bundled data, diagnose and treat each."""
    from gradwatch.demo import main as run_demo

    raise typer.Exit(run_demo(quick, only or None, width))
