"""A small panel that lives below a user's own output, where it disturbs nobody."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

import rich
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gradwatch.console_layers import health_style
from gradwatch.console_text import MISSING, compact, decades, inert, number
from gradwatch.findings import Finding, Health
from gradwatch.history import History
from gradwatch.report_words import headline
from gradwatch.rules.loss_curve import last_loss

#: Seconds between two refreshes at least (chosen: faster than one can read).
_LEAST_GAP_S = 0.25
_MOST_WIDTH = 80
_MOST_FINDINGS = 3


class LivePanel:
    """A rich Live display without a thread: it is drawn when it is updated.

    Args:
        stream: A terminal.
        width: Width; the terminal's, up to 80, if None.
        name: What the user calls the model.
    """

    def __init__(
        self, stream: TextIO, width: int | None = None, name: str = ""
    ) -> None:
        console = Console(
            file=stream, width=width, force_jupyter=False, highlight=False
        )
        self._name = name
        self._width = min(console.width, _MOST_WIDTH)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._proxies: tuple[Any, ...] = ()
        self._drawn_at = -_LEAST_GAP_S

    @property
    def proxies(self) -> tuple[Any, ...]:
        """What stands for `sys.stdout` and `sys.stderr` while the panel lives."""
        return self._proxies

    def update(
        self,
        history: History,
        findings: Sequence[Finding],
        health: Health,
        overhead: float | None,
    ) -> None:
        """Draw the state, unless it was drawn a moment ago."""
        now = time.monotonic()
        if now - self._drawn_at < _LEAST_GAP_S:
            return
        self._drawn_at = now
        if not self._live.is_started:
            self._live.start()
            # If the program is killed, its terminal keeps its cursor.
            self._live.console.show_cursor(True)
            self._proxies = (sys.stdout, sys.stderr)
        panel = render_panel(
            history, findings, health, overhead, self._width, self._name
        )
        self._live.update(panel, refresh=True)

    def print(self, item: RenderableType) -> bool:
        """Print above the panel.

        Args:
            item: What to print.

        Returns:
            Whether the panel is drawn, so that it could.
        """
        if not self._live.is_started:
            return False
        self._live.console.print(item)
        return True

    def stop(self) -> None:
        """Take the panel away and give the standard streams back."""
        self._live.stop()
        self._proxies = ()


def can_be_live(stream: TextIO, panel: LivePanel | None) -> bool:
    """Whether a panel on this stream would disturb nobody.

    Args:
        stream: Where the panel is to be.
        panel: Our own, if it is drawn already.

    Returns:
        False if the stream is no terminal, tqdm draws bars, or another rich display
        lives.
    """
    own = panel.proxies if panel is not None else ()
    if not any(stream is proxy for proxy in own):
        if not getattr(stream, "isatty", bool)():
            return False
        if Console(file=stream, force_jupyter=False).is_dumb_terminal:
            return False
    return not (_tqdm_draws() or _other_display(own))


def _tqdm_draws() -> bool:
    bars: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return bool(getattr(bars, "_instances", None))


def _other_display(own: Sequence[Any]) -> bool:
    shared: Any = rich.get_console()
    # Rich 14.1 keeps a stack of displays, older ones keep one.
    if getattr(shared, "_live_stack", None) or getattr(shared, "_live", None):
        return True
    if any(map(_refreshes, threading.enumerate())):
        return True
    return any(
        isinstance(stream, FileProxy) and not any(stream is mine for mine in own)
        for stream in (sys.stdout, sys.stderr)
    )


def _refreshes(thread: threading.Thread) -> bool:
    """Whether a thread redraws a rich display, on whatever console."""
    done: Any = getattr(thread, "done", None)
    named = type(thread).__name__ == "_RefreshThread"
    return named and not (isinstance(done, threading.Event) and done.is_set())


def render_panel(
    history: History,
    findings: Sequence[Finding],
    health: Health,
    overhead: float | None,
    width: int,
    name: str = "",
) -> RenderableType:
    """Return the panel: step, loss, gradient, D, update, health and cost.

    Args:
        history: What was measured.
        findings: Findings that stand.
        health: Verdict on the network.
        overhead: Share of training time that gradwatch took, if known.
        width: Width of the panel.
        name: What the user calls the model.

    Returns:
        The panel.
    """
    loss = last_loss(history)
    norms = [p.grad_norm for p in history.pulses if p.grad_norm is not None]
    cost = f"{number(round(overhead * 100, 2))} %" if overhead is not None else MISSING
    numbers = Table.grid(padding=(0, 2, 0, 0))
    pairs = (
        ("step", str(history.last_step)),
        ("loss", number(loss, 4) if loss is not None else "not known"),
        ("grad norm", compact(norms[-1]) if norms else MISSING),
        ("D", decades(_largest_decades(history))),
        ("update", compact(_median_update(history))),
        ("cost", cost),
    )
    numbers.add_row(*(Text(label, style="dim") for label, _ in pairs))
    numbers.add_row(*(Text(value) for _, value in pairs))
    body = Table.grid()
    body.add_row(numbers)
    for finding in [f for f in findings if f.confirmed][:_MOST_FINDINGS]:
        line = f"{finding.code} {inert(headline(finding))}"
        body.add_row(Text(line, overflow="ellipsis", no_wrap=True))
    return Panel(
        body,
        title=Text.assemble(
            f"gradwatch {inert(name)} " if name else "gradwatch ",
            (health.name.replace("_", "-"), health_style(health)),
        ),
        title_align="left",
        width=width,
    )


def _largest_decades(history: History) -> float | None:
    if history.latest is None:
        return None
    known = [d for c in history.latest.chains if (d := c.decades()) is not None]
    return max(known, key=abs, default=None)


def _median_update(history: History) -> float | None:
    if history.latest is None:
        return None
    ratios = [
        p.update_ratio
        for p in history.latest.parameters
        if p.update_ratio is not None and p.ndim >= 2
    ]
    return statistics.median(ratios) if ratios else None
