"""A record on disk while the run goes on: appended to, thinned, never in the way.

Each batch of lines is one write at the end of the file. What was written survives the
death of the process. When the file holds too much it is copied, thinner, beside itself
and put in its own place in one move, so that a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradwatch.errors import RecordWarning
from gradwatch.runlog_format import SUPERSEDED, Kind, line

_OTHER_FILE = "another file has taken its place"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a record may hold. All of them are chosen, not measured.

    Attributes:
        probes: Probes at most.
        newest_probes: Newest ones that are never thinned: the rules look at them.
        pulses: Pulses at most.
        newest_pulses: The same of pulses.
        size_bytes: Bytes from which it is thinned further, the newest too.
        waste_bytes: Superseded lines that are carried along before they are dropped.
    """

    probes: int = 256
    newest_probes: int = 64
    pulses: int = 8192
    newest_pulses: int = 512
    size_bytes: int = 64_000_000
    waste_bytes: int = 2_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A line to write, or one that was written.

    Attributes:
        kind: What it holds.
        step: Its step.
        data: Its JSON; empty once it is written.
        count: Pulses in it, 1 for other kinds.
        number: Running number of its (first) probe or pulse.
        stride: Distance between the numbers of its pulses; of a probe, to which it
            was thinned.
        offset: Where it starts in the file.
        size: Its bytes.
    """

    kind: Kind
    step: int
    data: bytes
    count: int = 1
    number: int = 0
    stride: int = 1
    offset: int = 0
    size: int = 0


class RunWriter:
    """Writes one file; its first error ends the recording, with one warning.

    Args:
        path: The file; it must not exist.
        header: Its first line.
        limits: How much it may hold.

    Attributes:
        path: The file.
        failure: Why nothing is written any more; empty while it is.

    Raises:
        OSError: If the file cannot be made.
    """

    def __init__(self, path: Path, header: bytes, limits: Limits | None = None) -> None:
        self.path = path
        self.failure = ""
        self._limits = limits or Limits()
        self._pid = os.getpid()
        self._header_size = len(header)
        self._thinned_size = 0
        self._book([])
        self._numbers = {Kind.PROBE: 0, Kind.PULSES: 0}
        self._torn = False
        self._closed_as: tuple[int, int] | None = None
        # Unbuffered: what is written is the system's, whatever becomes of us.
        self._file = path.open("xb", buffering=0)
        try:
            self._put(header)
        except BaseException:
            self._file.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether something can be written: not after an error, nor in a fork."""
        return not self._file.closed and os.getpid() == self._pid

    def write(self, entries: Iterable[Entry]) -> None:
        """Append lines at once; thin the file if it has grown too large."""
        if not self.is_open:
            return
        try:
            self._check_place()
            self._append(list(entries))
            if self._is_full():
                self._thin()
        except (OSError, ValueError) as error:
            self.fail(error)

    def add_to_closed(self, entries: Iterable[Entry]) -> None:
        """Append lines to a file that was closed, unless an error closed it."""
        if self.failure or os.getpid() != self._pid:
            return
        try:
            self._reopen()
        except OSError as error:
            self.fail(error)
            return
        self.write(entries)
        self.close()

    def _reopen(self) -> None:
        self._file = self.path.open("r+b", buffering=0)  # makes no new file
        if self._identity() != self._closed_as:
            raise OSError(_OTHER_FILE)

    def close(self) -> None:
        """Close the file. Repeated calls do nothing."""
        if self.is_open:
            with contextlib.suppress(OSError):
                self._closed_as = self._identity()
            self._file.close()

    def fail(self, error: Exception) -> None:
        """End the recording and say so once; training goes on."""
        self.failure = str(error) or type(error).__name__
        with contextlib.suppress(OSError):  # a network drive may refuse once more
            self._file.close()
        with warnings.catch_warnings():
            # A user's `-W error` must not turn a full disk into the end of the run.
            warnings.simplefilter("default", RecordWarning)
            warnings.warn(
                f"gradwatch records nothing more in {self.path}: {self.failure}. "
                "Training and the watch go on; what was written can be read.",
                RecordWarning,
                stacklevel=2,
            )

    # -- appending ----------------------------------------------------------------

    def _check_place(self) -> None:
        """Notice a file that was deleted: writing to it would succeed."""
        there = os.stat(self.path)
        if self._identity() != (there.st_ino, there.st_dev):
            raise OSError(_OTHER_FILE)

    def _identity(self) -> tuple[int, int]:
        """Return what tells the open file from another of its name."""
        here = os.fstat(self._file.fileno())
        return here.st_ino, here.st_dev

    def _append(self, entries: Sequence[Entry]) -> None:
        texts = [line(entry.kind, entry.step, entry.data) for entry in entries]
        start = os.lseek(self._file.fileno(), 0, os.SEEK_END)
        if self._torn:  # an interrupt left half a line behind
            texts.insert(0, b"\n")
            start += 1
        self._put(b"".join(texts))
        for entry, text in zip(entries, texts[-len(entries) :], strict=True):
            self._add(self._placed(entry, start, len(text)))
            start += len(text)

    def _placed(self, entry: Entry, offset: int, size: int) -> Entry:
        number = self._numbers.get(entry.kind, 0)
        if entry.kind in self._numbers:
            self._numbers[entry.kind] = number + entry.count
        return replace(entry, data=b"", number=number, offset=offset, size=size)

    def _put(self, text: bytes) -> None:
        """Write all of it; a raw file may take less at a time."""
        self._torn = True
        view = memoryview(text)
        while view:
            view = view[self._file.write(view) or 0 :]
        self._torn = False

    # -- thinning -----------------------------------------------------------------

    def _book(self, entries: Sequence[Entry]) -> None:
        """Take these as what the file holds."""
        self._entries: list[Entry] = []
        self._counts: Counter[Kind] = Counter()
        self._newest: dict[Kind, Entry] = {}
        self._size, self._waste = self._header_size, 0
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._counts[entry.kind] += entry.count
        self._size += entry.size
        if entry.kind in SUPERSEDED:
            old = self._newest.get(entry.kind)
            self._waste += old.size if old is not None else 0
            self._newest[entry.kind] = entry

    def _is_full(self) -> bool:
        limits = self._limits
        # Findings are never dropped: where they alone fill the file it may grow, and
        # is not copied again before it has.
        too_large = self._size > max(limits.size_bytes, 1.25 * self._thinned_size)
        return (
            too_large
            or self._waste > limits.waste_bytes
            or self._counts[Kind.PROBE] > limits.probes
            or self._counts[Kind.PULSES] > limits.pulses
        )

    def _thin(self) -> None:
        """Copy what is to be kept beside the file, and move it into its place."""
        limits = self._limits
        probes = [e for e in self._entries if e.kind is Kind.PROBE]
        fixed = self._size - self._waste - sum(entry.size for entry in probes)
        kept = thinned(probes, limits.probes, limits.newest_probes)
        if self._size > limits.size_bytes:
            # A model so large that even the newest must go: half of what is left.
            room = 0.75 * limits.size_bytes - fixed
            while len(kept) > 2 and sum(entry.size for entry in kept) > room:
                kept = thinned(kept, len(kept) - 1, min(3, len(kept) // 2))
        chosen = {entry.number: entry for entry in kept}
        pulses = self._thinned_pulses()
        entries: list[Entry] = []
        for entry in self._entries:
            if entry.kind is Kind.PULSES:
                entries.extend(pulses)
                pulses = []
            elif entry.kind is Kind.PROBE:
                entries += [chosen[entry.number]] if entry.number in chosen else []
            elif self._newest.get(entry.kind, entry) is entry:
                entries.append(entry)
        self._rewrite(entries)

    def _thinned_pulses(self) -> list[Entry]:
        """Return the lines of pulses, the older ones joined and thinned evenly."""
        lines = [e for e in self._entries if e.kind is Kind.PULSES]
        total, limits = self._counts[Kind.PULSES], self._limits
        if total <= limits.pulses:
            return lines
        newest = 0
        while lines and newest < limits.newest_pulses:
            newest += lines.pop().count
        recent = [e for e in self._entries if e.kind is Kind.PULSES][len(lines) :]
        room = max(1, (limits.pulses - newest) // 2)
        stride = max((entry.stride for entry in lines), default=1)
        while sum(_kept(entry, stride) for entry in lines) > room:
            stride *= 2
        items: list[tuple[int, object]] = []
        for entry in lines:
            numbers = range(entry.number, self._numbers[Kind.PULSES], entry.stride)
            found = json.loads(self._read(entry))["data"]
            items += [
                (number, item)
                for number, item in zip(numbers, found, strict=False)
                if number % stride == 0
            ]
        joined = []
        for start in range(0, len(items), limits.newest_pulses):
            part = items[start : start + limits.newest_pulses]
            data = json.dumps([item for _, item in part], separators=(",", ":"))
            number = part[0][0]
            joined.append(
                Entry(
                    Kind.PULSES,
                    _step_of(part[-1][1]),
                    data.encode(),
                    count=len(part),
                    number=number,
                    stride=stride,
                )
            )
        return joined + recent

    def _read(self, entry: Entry) -> bytes:
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)

    def _rewrite(self, entries: Sequence[Entry]) -> None:
        beside = self.path.with_name(self.path.name + ".new")
        try:
            placed = self._copy(entries, beside)
            self._file.close()  # Windows moves no file over an open one
            with contextlib.suppress(PermissionError):
                # Windows, while somebody reads: the next batch tries again.
                beside.replace(self.path)
                self._book(placed)
                self._thinned_size = self._size
            self._file = self.path.open("ab", buffering=0)
        finally:
            beside.unlink(missing_ok=True)

    def _copy(self, entries: Sequence[Entry], beside: Path) -> list[Entry]:
        """Write a thinner copy; return its lines with their places."""
        placed: list[Entry] = []
        with self.path.open("rb") as old, beside.open("wb") as new:
            new.write(old.read(self._header_size))
            for entry in entries:
                if entry.data:
                    text = line(entry.kind, entry.step, entry.data)
                else:
                    old.seek(entry.offset)
                    text = old.read(entry.size)
                start = new.tell()
                new.write(text)
                placed.append(replace(entry, data=b"", offset=start, size=len(text)))
        return placed


def thinned(entries: Sequence[Entry], most: int, newest: int) -> list[Entry]:
    """Return entries of which the older ones are thinned evenly.

    Args:
        entries: By number.
        most: Entries at most; above it, the older ones go down to half of the room.
        newest: How many of the newest stay in any case.

    Returns:
        What is kept. The first always stays, and of the others those whose number is a
        multiple of a power of two, so that they lie evenly over the whole run however
        often it is thinned.
    """
    if len(entries) <= most:
        return list(entries)
    newest = min(newest, len(entries) - 1)
    old, recent = entries[: len(entries) - newest], entries[len(entries) - newest :]
    room = max(1, (most - newest) // 2)
    # What was thinned before is wider apart: the newer must not stay denser than that.
    stride = max(entry.stride for entry in old)
    kept = [entry for entry in old if entry.number % stride == 0]
    while len(kept) > room and stride <= old[-1].number:
        stride *= 2
        kept = [entry for entry in old if entry.number % stride == 0]
    if not kept or kept[0] is not old[0]:
        kept.insert(0, old[0])
    return [*(replace(entry, stride=stride) for entry in kept), *recent]


def _kept(entry: Entry, stride: int) -> int:
    """Count the numbers of a line of pulses that a stride keeps."""
    last = entry.number + (entry.count - 1) * entry.stride
    first = -(-entry.number // stride) * stride
    # Strides are powers of two: each multiple of the larger is one of the smaller.
    return max(0, (last - first) // stride + 1)


def _step_of(pulse: object) -> int:
    step = pulse.get("step") if isinstance(pulse, dict) else None
    return step if isinstance(step, int) else 0
