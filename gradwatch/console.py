"""What is printed while a network trains and when it ends. Never raises into training.

Everything is rendered into a string first and written at once, so that a line is never
torn; where tqdm draws bars, they are cleared and drawn again around it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TextIO

from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from gradwatch.console_live import LivePanel, can_be_live
from gradwatch.console_report import (
    SEVERITY_STYLES,
    markdown_text,
    render_report,
    report_html,
    report_text,
    to_text,
)
from gradwatch.console_text import inert, plain_for
from gradwatch.findings import Finding, Health
from gradwatch.history import History
from gradwatch.report import Report
from gradwatch.report_words import headline, in_words
from gradwatch.rules.wording import named

__all__ = [
    "ConsoleMode",
    "ConsoleView",
    "emit",
    "markdown_text",
    "render_alert",
    "render_report",
    "report_html",
    "report_text",
    "stream_format",
    "to_text",
]

ConsoleMode = Literal["live", "alerts", "end"]

_logger = logging.getLogger(__name__)
#: Lines of text wider than this are hard to read (chosen, not measured).
_MAX_WIDTH = 120
_LOG_WIDTH = 80


def render_alert(finding: Finding, name: str = "") -> str:
    """Return two lines that announce a confirmed finding, or one that it is gone.

    Args:
        finding: The finding.
        name: What the user calls the model, where there may be several.

    Returns:
        The lines.
    """
    who = f"gradwatch {inert(name)}" if name else "gradwatch"
    what = f"{inert(finding.code)} {inert(finding.name)}"
    if finding.cleared_step is not None:
        return (
            f"{who}: step {finding.cleared_step}: {what} is gone (it stood since "
            f"step {finding.since_step})"
        )
    text = headline(finding)
    where = in_words([inert(layer) for layer in finding.layers])
    if len(finding.layers) == 1 and _names(text, named(finding.layers[0])):
        where = ""
    # The number that decides may be of an earlier step than the one that confirmed it.
    last = max([finding.since_step, *(item.steps[1] for item in finding.evidence[:1])])
    return (
        f"{who}: step {last}: {finding.severity.name} {what}\n"
        f"  {where + ': ' if where else ''}{inert(text)} More: "
        f"gradwatch explain {inert(finding.code)}"
    )


def _names(text: str, layer: str) -> bool:
    """Whether a text names a layer, and not just another that begins like it."""
    return re.search(rf"(?<![\w.]){re.escape(layer)}(?!\w|\.\w)", text) is not None


def stream_format(stream: TextIO, width: int | None = None) -> tuple[int, bool]:
    """Return the width to render at for a stream, and whether it shows colour.

    Args:
        stream: Where the text goes.
        width: Width that was asked for.

    Returns:
        Cells, and whether escape codes are welcome: a terminal and no `NO_COLOR`.
    """
    console = Console(file=stream, force_jupyter=False)
    colour = console.is_terminal and console.color_system is not None
    colour = colour and not console.no_color
    if width is not None:
        return width, colour
    return min(console.width if console.is_terminal else _LOG_WIDTH, _MAX_WIDTH), colour


def emit(text: str, stream: TextIO) -> None:
    """Write a text and a line end at once, around tqdm's bars if there are any.

    Args:
        text: Lines to write.
        stream: Where to.
    """
    whole = plain_for(getattr(stream, "encoding", None), text) + "\n"
    with _beside_bars(stream):
        stream.write(whole)
        stream.flush()


@contextlib.contextmanager
def _beside_bars(stream: TextIO) -> Iterator[None]:
    """Clear tqdm's bars for a while; tqdm is not imported if nobody has."""
    bars: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if bars is None or not getattr(bars, "_instances", None):
        yield
        return
    with bars.external_write_mode(file=stream):
        yield


def _indented(line: str) -> Padding:
    return Padding(Text(line.strip()), (0, 0, 0, 2))


class ConsoleView:
    """Tells a user on a stream what the watch finds.

    Args:
        mode: `alerts`: each alarm once, and the report at the end; `live`: a panel as
            well, where the stream is a terminal of its own; `end`: the report only;
            None: nothing.
        stream: Where to print; `sys.stderr` as it is at the time if None.
        width: Width of the text; the terminal's, or 80, if None.
        name: What the user calls the model; empty without a name of its own.
    """

    def __init__(
        self,
        mode: ConsoleMode | None,
        stream: TextIO | None = None,
        width: int | None = None,
        name: str = "",
    ) -> None:
        self._name = name
        self._mode = mode
        self._stream = stream
        self._width = width
        self._told: dict[str, Finding] = {}
        self._cleared: set[str] = set()
        self._panel: LivePanel | None = None
        self._panel_done = False
        self._broken = False
        self._closed = False

    def on_finding(self, finding: Finding) -> None:
        """Announce a finding, if it is a confirmed alarm that was not told yet.

        Args:
            finding: A finding, also one that has cleared.
        """
        if self._mode not in {"alerts", "live"}:
            return
        code = finding.code
        if finding.cleared_step is not None:
            if code in self._told and code not in self._cleared:
                self._cleared.add(code)
                self._print(render_alert(finding, self._name))
        elif finding.is_alarm and self._is_worse(finding):
            self._told[code] = finding
            style = SEVERITY_STYLES[finding.severity]
            self._print(render_alert(finding, self._name), style)

    def on_probe(
        self,
        history: History,
        findings: Sequence[Finding],
        health: Health,
        overhead: float | None = None,
    ) -> None:
        """Look at the state after a probe: tell what is gone, refresh the panel.

        Args:
            history: What was measured.
            findings: Findings that stand.
            health: Verdict on the network.
            overhead: Share of training time that gradwatch took, if known.
        """
        if self._mode not in {"alerts", "live"}:
            return
        standing = {finding.code for finding in findings}
        for code in self._told:
            if code not in standing and code not in self._cleared:
                self._cleared.add(code)
                gone = replace(self._told[code], cleared_step=history.last_step)
                self._print(render_alert(gone, self._name))
        if self._mode == "live":
            self._refresh(history, findings, health, overhead)

    def on_close(self, report: Report) -> None:
        """Print the report. Repeated calls print nothing.

        Args:
            report: The report.
        """
        if self._closed:
            return
        self._closed = True
        self._stop_panel()
        stream = self._target()
        if self._mode is None or self._broken or stream is None:
            return
        with self._guard():
            width, colour = stream_format(stream, self._width)
            emit(report_text(report, width, colour=colour), stream)

    def _is_worse(self, finding: Finding) -> bool:
        told = self._told.get(finding.code)
        return told is None or finding.severity > told.severity

    def _target(self) -> TextIO | None:
        # None in a process without a console (pythonw, some services).
        return self._stream if self._stream is not None else sys.stderr

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Let no error of printing reach training; after one, stay silent."""
        try:
            yield
        except Exception:
            # A stream of the user's may raise anything.
            self._broken = True
            _logger.debug("gradwatch cannot print; it stays silent", exc_info=True)

    def _print(self, text: str, style: str = "bold") -> None:
        stream = self._target()
        if self._broken or stream is None:
            return
        with self._guard():
            first, _, rest = text.partition("\n")
            item = Group(Text(first, style=style), *map(_indented, rest.splitlines()))
            if self._panel is not None and self._panel.print(item):
                return
            width, colour = stream_format(stream, self._width)
            # A log keeps one line a line: it is searched, not read at a width.
            wrapped = to_text(item, width, colour=True) if colour else text
            emit(wrapped, stream)

    def _refresh(
        self,
        history: History,
        findings: Sequence[Finding],
        health: Health,
        overhead: float | None,
    ) -> None:
        stream = self._target()
        if self._panel_done or self._broken or stream is None:
            return
        with self._guard():
            if not can_be_live(stream, self._panel):
                self._stop_panel()
                self._panel_done = True
                return
            if self._panel is None:
                self._panel = LivePanel(stream, self._width, self._name)
            self._panel.update(history, findings, health, overhead)

    def _stop_panel(self) -> None:
        panel, self._panel = self._panel, None
        if panel is not None:
            with self._guard():
                panel.stop()
