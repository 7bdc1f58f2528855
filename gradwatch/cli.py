"""The command line: reports read again, rules explained, the demo."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradwatch.errors import GradWatchError

if TYPE_CHECKING:
    from gradwatch.findings import Severity
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
        Path, typer.Argument(help="A .json file that a report was saved to.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON, checked and complete.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write the report's page to this file."),
    ] = None,
) -> None:
    """Show a saved report again."""
    from gradwatch.console import emit, report_text, stream_format
    from gradwatch.report import Report

    loaded = Report.load(path)
    if html is not None:
        typer.echo(f"{loaded.save(_as_html(html))} written.", err=True)
    elif as_json:
        typer.echo(loaded.to_json())
    else:
        width, colour = stream_format(sys.stdout)
        emit(report_text(loaded, width, colour=colour), sys.stdout)


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
    rule: Annotated[str, typer.Argument(help="Code or name, such as GW101.")],
) -> None:
    """Explain a rule: what it looks at, why, with which limit, and what may help."""
    from gradwatch.console import emit, markdown_text, stream_format
    from gradwatch.rules import pages

    page = pages.page(_find(rule))
    # The first line says to those who edit the files where they come from.
    source = "\n".join(x for x in page.splitlines() if not x.startswith("<!--"))
    width, colour = stream_format(sys.stdout)
    if sys.stdout.isatty():
        source = markdown_text(source, width, colour=colour)
    emit(source.strip("\n"), sys.stdout)


def _find(wanted: str) -> Rule:
    from gradwatch.rules import RULES

    for rule in RULES:
        if wanted.lower() in {rule.code.lower(), rule.name}:
            return rule
    names = [name for rule in RULES for name in (rule.code, rule.name)]
    near = difflib.get_close_matches(wanted, names, n=1) or difflib.get_close_matches(
        wanted.upper(), names, n=1
    )
    hint = f"did you mean {near[0]}?" if near else "`gradwatch rules` lists them."
    raise typer.BadParameter(
        f"{_one_line(wanted)!r} is no rule; {hint}", param_hint="RULE"
    )


@app.command()
def rules() -> None:
    """List the rules."""
    from gradwatch.console import emit
    from gradwatch.rules import RULES

    emit("\n".join(_lines(RULES)), sys.stdout)


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
    """Train sick and healthy networks on bundled data and diagnose each."""
    from gradwatch.demo import main as run_demo

    raise typer.Exit(run_demo(quick, only or None, width))
