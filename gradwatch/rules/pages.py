"""The page of a rule, written from its docstring, its metadata and the settings.

`gradwatch explain CODE` shows the same text. ``python -m gradwatch.rules.pages
docs/rules`` writes all pages; a test checks that they are in step.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent

from gradwatch.rules import RULES, Rule
from gradwatch.settings import Settings

#: Headings that the docstring of every rule has, in this order.
HEADINGS: tuple[str, ...] = (
    "What it does",
    "Why it matters",
    "Evidence",
    "Remedies",
    "References",
)
_GENERATED = "<!-- Written by `python -m gradwatch.rules.pages docs/rules`. -->"


def sections(rule: Rule) -> dict[str, str]:
    """Return the docstring of a rule by heading.

    Args:
        rule: The rule.

    Returns:
        The first paragraph under an empty heading, then the text of each heading.
    """
    return by_heading(inspect.getdoc(type(rule)) or "", HEADINGS)


def by_heading(text: str, headings: Iterable[str]) -> dict[str, str]:
    """Return a docstring by heading.

    Args:
        text: The docstring, without indentation.
        headings: Lines that are headings, without their colon.

    Returns:
        The first paragraph under an empty heading, then the text of each heading.
    """
    wanted = set(headings)
    found: dict[str, list[str]] = {"": []}
    heading = ""
    for line in text.splitlines():
        title = line.removesuffix(":")
        if title in wanted and line.endswith(":"):
            heading = title
            found[heading] = []
        else:
            found[heading].append(line)
    return {name: dedent("\n".join(lines)).strip() for name, lines in found.items()}


def page(rule: Rule) -> str:
    """Return the page of a rule as Markdown.

    Args:
        rule: The rule.

    Returns:
        The text, ending with a newline.
    """
    parts = sections(rule)
    confirm = (
        "one look"
        if rule.confirm == 1
        else "`confirm_probes` of `confirm_window` probes"
    )
    free = "no verdict changes" if rule.scale_free else "the verdict may change"
    blocks = [
        _GENERATED,
        f"# {rule.code} {rule.name}",
        parts[""],
        "\n".join(
            [
                f"- **Says of a layer**: {rule.health.value}",
                f"- **Confirmed by**: {confirm}",
                f"- **If the loss is multiplied by a constant**: {free}",
            ]
        ),
    ]
    for heading in HEADINGS:
        if heading in parts:  # a plug-in's docstring may lack some
            blocks += [f"## {heading}", parts[heading]]
        if heading == "Evidence" and rule.settings_used:
            blocks.append(_settings_table(rule.settings_used))
        if heading == "Remedies" and rule.remedies:
            names = ", ".join(f"`{name}`" for name in rule.remedies)
            blocks.append(f"Considered, best first: {names}.")
    return "\n\n".join(blocks) + "\n"


def _settings_table(names: Iterable[str]) -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name in names:
        entry = Settings.model_fields[name]
        rows.append(f"| `{name}` | {entry.default} | {entry.description} |")
    return "\n".join(rows)


def index() -> str:
    """Return the catalogue of all rules as Markdown, ending with a newline."""
    rows = ["| code | name | what it says | health |", "|---|---|---|---|"]
    rows += [
        f"| {rule.code} | [{rule.name}]({rule.name}.md) | {rule.summary} | "
        f"{rule.health.value} |"
        for rule in RULES
    ]
    intro = (
        "A finding is confirmed when 2 of 3 probes agree. An alarm is a confirmed "
        "warning or critical finding; a note never is."
    )
    return "\n\n".join([_GENERATED, "# Rules", intro, "\n".join(rows)]) + "\n"


def pages() -> dict[str, str]:
    """Return every page by file name."""
    return {f"{rule.name}.md": page(rule) for rule in RULES} | {"index.md": index()}


def write_pages(folder: Path) -> None:
    """Write every page into a folder, which is made if it is missing.

    Args:
        folder: Where the pages go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/rules"))
