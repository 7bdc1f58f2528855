"""A progress bar for trials that train."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from gradwatch.late_import import draws_kept


@contextlib.contextmanager
def trial_bar(title: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how far a trial is, on standard error; it vanishes at the end.

    Nothing is drawn where standard error is no terminal, such as a log file.

    Args:
        title: What stands before the bar.
        shown: Whether to show it at all.

    Yields:
        What to call after every step, with the steps done and the steps wanted.
    """
    with draws_kept():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    console = Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task(title, total=None)
        yield lambda done, steps: bar.update(task, completed=done, total=steps)
