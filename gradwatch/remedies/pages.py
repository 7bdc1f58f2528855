"""The page of a remedy, written from its docstring and from the rules that name it.

`gradwatch remedies NAME` shows the same text. ``python -m gradwatch.remedies.pages
docs/remedies`` writes all pages; a test checks that they are in step.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from gradwatch.remedies import REMEDIES, Remedy
from gradwatch.rules import RULES, Rule
from gradwatch.rules.pages import by_heading

#: Headings that the docstring of every remedy has, in this order.
HEADINGS: tuple[str, ...] = (
    "When it applies",
    "When it never does",
    "What apply does",
    "Record",
    "Risk",
    "References",
)
_GENERATED = "<!-- Written by `python -m gradwatch.remedies.pages docs/remedies`. -->"


def sections(remedy: Remedy) -> dict[str, str]:
    """Return the docstring of a remedy by heading.

    Args:
        remedy: The remedy.

    Returns:
        The first paragraph under an empty heading, then the text of each heading.
    """
    return by_heading(inspect.getdoc(type(remedy)) or "", HEADINGS)


def answered(remedy: Remedy) -> tuple[str, ...]:
    """Return the codes of the rules that name a remedy."""
    return tuple(rule.code for rule in RULES if remedy.name in rule.remedies)


def page(remedy: Remedy, among: Sequence[Rule] = RULES) -> str:
    """Return the page of a remedy as Markdown.

    Args:
        remedy: The remedy.
        among: Rules that may name it; ours, unless plug-ins count as well.

    Returns:
        The text, ending with a newline.
    """
    parts = sections(remedy)
    rules = ", ".join(
        f"[{rule.code} {rule.name}](../rules/{rule.name}.md)"
        for rule in among
        if remedy.name in rule.remedies or rule.code in remedy.for_rules
    )
    blocks = [
        _GENERATED,
        f"# {remedy.name}",
        parts[""],
        "\n".join(
            [
                f"- **Risk**: {remedy.risk.value}",
                f"- **Considered for**: {rules or 'no rule by itself'}",
            ]
        ),
    ]
    for heading in HEADINGS:
        if heading in parts:  # a plug-in's docstring may lack some
            blocks += [f"## {heading}", parts[heading]]
    return "\n\n".join(blocks) + "\n"


def index() -> str:
    """Return the catalogue of all remedies as Markdown, ending with a newline."""
    rows = ["| name | what it does | risk | considered for |", "|---|---|---|---|"]
    rows += [
        f"| [{remedy.name}]({remedy.name}.md) | {remedy.summary} | {remedy.risk.value} "
        f"| {', '.join(answered(remedy))} |"
        for remedy in REMEDIES
    ]
    intro = (
        "What gradwatch recommends for a finding, or rejects with the reason. The risk "
        "is the worst of its variants; a trial measures what one does to your network."
    )
    return "\n\n".join([_GENERATED, "# Remedies", intro, "\n".join(rows)]) + "\n"


def pages() -> dict[str, str]:
    """Return every page by file name."""
    found = {f"{remedy.name}.md": page(remedy) for remedy in REMEDIES}
    return found | {"index.md": index()}


def write_pages(folder: Path) -> None:
    """Write every page into a folder, which is made if it is missing.

    Args:
        folder: Where the pages go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/remedies"))
