"""Alerts and report never tear Lightning's progress bars, in a log or a terminal."""

import os
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from tests.lightning_fits import callback, data, module_class, trainer_of

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_a_log_has_alerts_and_report_on_lines_of_their_own(tmp_path, capsys, bar):
    """What is redirected to a file is read line by line."""
    from lightning.pytorch import callbacks

    torch.manual_seed(0)
    both = [callback(console="alerts"), getattr(callbacks, bar)()]
    trainer = trainer_of(tmp_path, both, enable_progress_bar=True)
    trainer.fit(module_class()(), data())
    captured = capsys.readouterr()
    lines = (captured.err + captured.out).replace("\r", "\n").splitlines()
    told = [line for line in lines if "CRITICAL" in line and "GW101" in line]
    assert len(told) >= 2  # the alert, and the report's card
    assert all(line.startswith(("gradwatch", "CRITICAL")) for line in told)


SCRIPT = """
import time, torch
from lightning.pytorch import callbacks
from tests.lightning_fits import callback, data, module_class, trainer_of

class Slow(module_class()):
    def training_step(self, batch, batch_idx):
        time.sleep(0.05)  # so that the bar is drawn
        return super().training_step(batch, batch_idx)

bar = callbacks.{bar}()
both = [callback(console="alerts"), bar]
trainer_of({folder!r}, both, enable_progress_bar=True).fit(Slow(), data())
"""


def shown(written, width):
    """Return the lines that a terminal of unlimited height shows, without colour."""
    rows, row, column = [""], 0, 0
    position = 0
    while position < len(written):
        if escape := ESCAPES.match(written, position):
            position = escape.end()
            code, count = escape[0][-1], escape[0][2:-1]
            if code == "A":
                row = max(0, row - int(count or 1))
            elif code == "K" and count == "2":
                rows[row] = ""
            elif code == "K":
                rows[row] = rows[row][:column]
            continue
        character, position = written[position], position + 1
        if character == "\r":
            column = 0
            continue
        if character == "\n" or column >= width:
            row, column = row + 1, 0
            rows.extend([""] * (row + 1 - len(rows)))
            if character == "\n":
                continue
        line = rows[row].ljust(column)
        rows[row] = line[:column] + character + line[column + 1 :]
        column += 1
    return [line.rstrip() for line in rows]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_a_terminal_shows_whole_lines_and_whole_bars(tmp_path, bar):
    """The alert stands above the bar; nothing of the bar is left in it."""
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    width = 100
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    script = textwrap.dedent(SCRIPT).format(bar=bar, folder=str(tmp_path))
    sized = {"COLUMNS": str(width), "LINES": "50", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        env={
            **os.environ,
            **sized,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        },
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    written = b""
    try:
        while part := os.read(master, 65536):
            written += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0, written.decode()
    lines = shown(written.decode(), width)
    told = [line for line in lines if "GW101 vanishing-gradient" in line]
    assert told[0].startswith("gradwatch")
    assert told[0].endswith("GW101 vanishing-gradient")
    assert told[1].startswith("CRITICAL  GW101")
    # Every line with a bar is nothing but a bar, from its first word on.
    bars = [line for line in lines if re.search(r"\d/6 ", line)]
    assert bars
    assert all(re.match(r"Epoch \d", line) for line in bars)
    assert not any("gradwatch" in line for line in bars)
