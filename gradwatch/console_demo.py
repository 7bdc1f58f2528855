"""What `gradwatch demo` shows: bars while it trains, a card a network, a table."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from gradwatch.console_cures import cure_rows, tally, treated_accuracy
from gradwatch.console_layers import health_style, table_rows
from gradwatch.console_report import SEVERITY_STYLES, limit_text, to_text
from gradwatch.console_text import (
    MISSING,
    decades,
    inert,
    measured,
    number,
    percent,
    plain_for,
)
from gradwatch.demo_nets import DemoNet, Outcome
from gradwatch.findings import Health
from gradwatch.report import Report
from gradwatch.report_words import count, name_layers
from gradwatch.settings import Settings

#: Lines of text wider than this are hard to read (chosen, not measured).
_MAX_WIDTH = 120
#: Steps between two updates of the bar (chosen: the eye sees no more).
_BAR_STEPS = 5
_INDENT = (0, 0, 0, 2)
#: Width from which the table has room for units, and the cell that holds one line else.
_WIDE = 110
_NARROW_CELL = 23


class _PlainStream:
    """A stream that is given only what its encoding can hold."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        return self._stream.write(plain_for(self.encoding, text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


class DemoScreen:
    """Shows the demo as it runs. A context: on leaving it the bars are gone.

    Args:
        nets: Networks that will be trained.
        num_images: Images that they learn.
        width: Width of the text; the terminal's, or 80, if None.
        stream: Where to print; standard output if None.
    """

    def __init__(
        self,
        nets: Sequence[DemoNet],
        num_images: int,
        width: int | None = None,
        stream: TextIO | None = None,
    ) -> None:
        plain = _PlainStream(stream if stream is not None else sys.stdout)
        self._console = Console(
            file=plain,  # type: ignore[arg-type]  # all that rich asks of a stream
            width=width,
            force_jupyter=False,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._console.width = min(self._console.width, _MAX_WIDTH)
        self._nets = list(nets)
        self._num_images = num_images
        self._started = time.perf_counter()
        # In a log a bar would be one line for each of its states.
        self._bars = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=max(10, self._console.width - 60)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all: TaskID | None = None
        self._net: TaskID | None = None

    def __enter__(self) -> DemoScreen:
        """Print what the demo is about and show the bars."""
        self._print(
            Rule(Text("gradwatch demo", style="bold"), align="left", style="cyan"),
            Text(_opening(self._nets, self._num_images)),
        )
        self._bars.start()
        self._all = self._bars.add_task(
            "networks", total=len(self._nets), what="diagnosed"
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        self._bars.stop()

    def start(self, net: DemoNet, steps: int, state: str = "") -> None:
        """Show the bar of the network that is trained now.

        Args:
            net: The network.
            steps: Optimizer steps that it will take.
            state: What was done to it, such as `treated`.
        """
        self._take_bar_away()
        name = f"{net.name}, {state}" if state else net.name
        self._net = self._bars.add_task(name, total=steps, what="")

    def step(self, step: int, loss: float) -> None:
        """Move the bar.

        Args:
            step: Steps done.
            loss: Loss of the last one.
        """
        if self._net is not None and step % _BAR_STEPS == 0:
            what = f"steps, loss {number(loss, 3)}"
            self._bars.update(self._net, completed=step, what=what)

    def show(self, outcome: Outcome) -> None:
        """Print what a network is, what came of it and what gradwatch says.

        Args:
            outcome: The outcome.
        """
        self._take_bar_away()
        if self._all is not None:
            self._bars.advance(self._all)
        place = self._nets.index(outcome.net) + 1
        self._print(Text(), *_card(outcome, f"{place}/{len(self._nets)}"))

    def show_cure(self, outcome: Outcome) -> None:
        """Print what a remedy did to the network that was shown last.

        Args:
            outcome: The outcome, with its cure.
        """
        self._take_bar_away()
        rows = _rows()
        treated = outcome.cure.treated if outcome.cure is not None else None
        trained = _trained(treated) if treated is not None else ""
        for label, text in cure_rows(outcome, trained):
            rows.add_row(label, text)
        self._print(Padding(rows, _INDENT))

    def _take_bar_away(self) -> None:
        if self._net is not None:
            self._bars.remove_task(self._net)
            self._net = None

    def summarise(self, outcomes: Sequence[Outcome]) -> None:
        """Print the table, whether all is as expected, and what to try next.

        Args:
            outcomes: What came of each network.
        """
        self._bars.stop()
        seconds = time.perf_counter() - self._started
        self._print(
            Text(),
            Rule(Text("summary", style="bold"), align="left", style="cyan"),
            _table(outcomes, self._console.width),
            Text(),
            *_verdict(outcomes, seconds),
        )

    def _print(self, *parts: RenderableType) -> None:
        # As text first: rich fills its lines with spaces, which a log need not hold.
        drawn = to_text(Group(*parts), self._console.width, colour=True)
        for line in Text.from_ansi(drawn).split(allow_blank=True):
            line.rstrip()
            self._console.print(line, soft_wrap=True)


def _opening(nets: Sequence[DemoNet], num_images: int) -> str:
    sick = sum(net.expected is not Health.HEALTHY for net in nets)
    well = len(nets) - sick
    return (
        f"{count(len(nets), 'small network')}, trained for real on {num_images:,} "
        f"handwritten digits of 8\u00d78 pixels, each under `gradwatch.watch(model)`. "
        f"{sick} made sick on purpose, {well} healthy; gradwatch is not told which. "
        "What it calls sick is treated: remedies are tried on copies until one helps, "
        "and with it the network is trained again."
    )


def _card(outcome: Outcome, place: str) -> list[RenderableType]:
    net, report, finding = outcome.net, outcome.report, outcome.finding
    style = health_style(report.health)
    verdict = Text.assemble((report.health.value.upper(), style))
    if outcome.as_expected:
        verdict.append(", as expected")
    else:
        verdict.append(f", but expected {_expected(net)}", style="bold red")
    rows = _rows()
    rows.add_row("trained", Text(_trained(outcome)))
    rows.add_row("verdict", verdict)
    if finding is None:
        rows.add_row("because", Text(inert(report.sentence)))
        rows.add_row("", Text("".join(_deciding(outcome))))
    else:
        named = Text.assemble(
            (finding.severity.name, SEVERITY_STYLES[finding.severity]),
            (f" {finding.code} {finding.name}", "bold"),
            f", since step {finding.since_step}",
        )
        order = {row.name: i for i, row in enumerate(table_rows(report))}
        rows.add_row("finding", named)
        rows.add_row("", Text(inert(finding.message)))
        rows.add_row("evidence", Text("".join(_deciding(outcome))))
        if finding.layers:
            rows.add_row("layers", Text(inert(name_layers(finding.layers, order))))
        if not report.recommendations:  # they say more, and follow
            rows.add_row("help", Text(inert(finding.help)))
    title = Text.assemble((f"{place} {net.name}", "bold"))
    return [
        Rule(title, align="left", style=style),
        Padding(Text(net.title), _INDENT),
        Padding(rows, _INDENT),
    ]


def _rows() -> Table:
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(width=9, style="dim", no_wrap=True)
    rows.add_column()
    return rows


def _expected(net: DemoNet) -> str:
    return f"{net.expected.value} ({net.rule})" if net.rule else net.expected.value


def _trained(outcome: Outcome) -> str:
    return (
        f"{count(outcome.steps, 'step')} in {outcome.seconds:.1f} s: loss "
        f"{_losses(outcome)}, train accuracy {percent(outcome.accuracy)}"
    )


def _losses(outcome: Outcome) -> str:
    return f"{_loss(outcome.first_loss)} → {_loss(outcome.last_loss)}"


def _loss(loss: float) -> str:
    if math.isfinite(loss) and 0.005 <= loss < 1000:
        return f"{loss:.2f}" if loss < 100 else f"{loss:.0f}"
    return number(loss)


def _deciding(outcome: Outcome) -> tuple[str, str, str]:
    """Return the number that decided, its unit, and its limit."""
    finding = outcome.finding
    if finding is None:
        return _depth(outcome.report)
    if not finding.evidence:
        return MISSING, "", ""
    item = finding.evidence[0]
    limit = f", limit {limit_text(item)}" if item.limit is not None else ""
    if item.unit in ("share", "step"):
        return f"{inert(item.quantity)} {measured(item.value, item.unit)}", "", limit
    value = inert(f"{item.quantity} {number(item.value, 3)}")
    return value, inert(f" {item.unit}" if item.unit else ""), limit


def _depth(report: Report) -> tuple[str, str, str]:
    """Return D of the main trunk with both limits; without a trunk, a dash."""
    limits = Settings(**report.settings)
    for chain in sorted(report.chains, key=lambda chain: not chain.main):
        if chain.decades is not None:
            low, high = limits.vanishing_decades, limits.exploding_decades
            limit = f", limits +{low:g} and -{high:g}"
            return f"D {decades(chain.decades)}", " decades", limit
    return MISSING, "", ""


def _table(outcomes: Sequence[Outcome], width: int) -> Table:
    wide = width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("network", no_wrap=True)
    table.add_column("expected", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("decided by")
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("treated", justify="right", no_wrap=True)
    for outcome in outcomes:
        health = outcome.report.health
        right = Text(health.value, style=health_style(health))
        if not outcome.as_expected:
            right.append(" (!)", style="bold red")
        table.add_row(
            Text(outcome.net.name, style="bold"),
            Text(outcome.net.expected.value),
            right,
            Text(_in_table(outcome, wide=wide)),
            Text(percent(outcome.accuracy)),
            Text(treated_accuracy(outcome), style="bold"),
        )
    return table


def _in_table(outcome: Outcome, *, wide: bool) -> str:
    """Return the number that decided; where it is long, the limit on its own line."""
    value, unit, limit = _deciding(outcome)
    if wide:
        return f"{value}{unit}{limit}"
    limit = limit.replace(" and ", "/")
    if len(value) + len(limit) <= _NARROW_CELL:
        return f"{value}{limit}"
    return f"{value}{limit.replace(', ', chr(10), 1)}"


def _verdict(outcomes: Sequence[Outcome], seconds: float) -> list[RenderableType]:
    wrong = [outcome for outcome in outcomes if not outcome.as_expected]
    total, right = len(outcomes), len(outcomes) - len(wrong)
    watched = list(outcomes)
    watched += [o.cure.treated for o in outcomes if o.cure and o.cure.treated]
    spent = sum(outcome.report.overhead.seconds for outcome in watched)
    words = (
        f"{right} of {count(total, 'verdict')} as expected; {seconds:.0f} s in all, "
        f"{spent:.1f} s of it gradwatch's own (its budget, 1 % of the time, is lifted "
        "here)."
    )
    lines: list[RenderableType] = [Text(words, style="bold red" if wrong else "bold")]
    lines += [Text(tally(outcomes))] if tally(outcomes) else []
    for outcome in wrong:
        found = outcome.finding.code if outcome.finding else "no alarm"
        lines.append(
            Text(
                f"(!) {outcome.net.name}: expected {_expected(outcome.net)}, got "
                f"{outcome.report.health.value} ({found}). "
                f"{inert(outcome.report.sentence)}"
            )
        )
    if not wrong:
        code = next((o.finding.code for o in outcomes if o.finding), None)
        more = f" `gradwatch explain {code}` explains a finding." if code else ""
        lines.append(
            Text(
                "Next: put `with gradwatch.watch(model) as watch:` around a training "
                f"loop of yours; `watch.trial()` tries what it recommends.{more}"
            )
        )
    return lines
