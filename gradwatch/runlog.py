"""Read the record of a run: finished, running, killed or cut off. Executes nothing.

Every complete line counts. What a cut-off or damaged record lacks is said in its notes,
and the report is composed of what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from gradwatch.anatomy import Anatomy
from gradwatch.errors import ReportError, SettingsError
from gradwatch.findings import Finding
from gradwatch.history import History
from gradwatch.report import Report
from gradwatch.report_words import count
from gradwatch.run_facts import Seen, report_on
from gradwatch.runlog_format import (
    ANATOMIES,
    EVENTS,
    FILE_NAME,
    MAX_HEADER_BYTES,
    PROBES,
    PULSES,
    STATES,
    FindingEvent,
    Header,
    Kind,
    State,
    load_report,
    load_structure,
    read_header,
    split_line,
)
from gradwatch.settings import Settings
from gradwatch.structure import Structure

__all__ = ["FindingEvent", "Run", "is_record", "read_run"]

#: Cleared findings that a report shows at most: as many as the detector keeps.
_MOST_CLEARED = 100
#: A line longer than this is none of ours (a probe of 10,000 layers has about 10 MB).
_MAX_LINE_BYTES = 256_000_000
_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run.

    Attributes:
        path: The file that was read.
        name: What the user calls the model.
        started: When it began, ISO 8601.
        report: The report at its end; of an unfinished run, the one on what was
            recorded so far.
        history: Probes and pulses, all that the record holds: the newest in full, older
            ones thinned evenly over the run.
        structure: The network.
        settings: The limits in use.
        ignore: What its user ignores, as given to `watch()`.
        events: Findings as they came and went, oldest first.
        finished: Whether the watch was closed; else it still runs, or was killed.
        notes: What a reader must know of the record, one sentence each.
    """

    path: Path
    name: str
    started: str
    report: Report
    history: History
    structure: Structure
    settings: Settings
    ignore: tuple[str, ...]
    events: tuple[FindingEvent, ...]
    finished: bool
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Contents:
    """What the lines of a file say, as far as they were read."""

    ring: History
    """What the watch itself would remember: reports are composed of it."""
    whole: History
    structure: Structure = field(default_factory=Structure)
    anatomy: Anatomy | None = None
    state: State | None = None
    report: Report | None = None
    events: list[FindingEvent] = field(default_factory=list)
    num_damaged: int = 0
    num_strange: int = 0
    cut_off: bool = False

    def take(self, kind: Kind, data: bytes) -> None:
        """Take up the data of one line.

        Args:
            kind: What it holds.
            data: Its JSON.

        Raises:
            ValueError: If the data is cut off or does not fit.
        """  # noqa: DOC502 - raised by what it calls
        array = b"[" + data + b"]"
        if kind is Kind.PROBE:
            (probe,) = PROBES.load(array)
            self.ring.add_probe(probe)
            self.whole.add_probe(probe)
        elif kind is Kind.PULSES:
            for pulse in PULSES.load(data):
                self.ring.add_pulse(pulse)
                self.whole.add_pulse(pulse)
        elif kind is Kind.STATE:
            (self.state,) = STATES.load(array)
            # The record may hold fewer than there were.
            self.ring.resume(self.state.tally)
            self.whole.resume(self.state.tally)
        elif kind is Kind.STRUCTURE:
            self.structure = load_structure(array)
        elif kind is Kind.ANATOMY:
            (self.anatomy,) = ANATOMIES.load(array)
        elif kind is Kind.FINDING:
            self.events += EVENTS.load(array)
        else:
            self.report = load_report(data)


def is_record(path: str | Path) -> bool:
    """Whether a path is a folder, or a file that begins like a record."""
    place = Path(path)
    if place.is_dir():
        return True
    try:
        with place.open("rb") as file:
            start = file.read(64)
    except OSError:
        return False
    return place.suffix == ".jsonl" or start.startswith(b'{"format": "gradwatch-run"')


def read_run(path: str | Path) -> Run:
    """Read a record.

    Args:
        path: The folder of a run, its file, or a folder of runs, of which the newest is
            read.

    Returns:
        The run, with all that could be read.

    Raises:
        ReportError: If there is no record, or its first line is not that of one.
    """
    file, notes = _find(Path(path))
    try:
        with file.open("rb") as stream:
            header = read_header(stream.readline(MAX_HEADER_BYTES), str(file))
            settings = _settings(header, notes)
            contents = _read_lines(stream, settings)
    except OSError as error:
        reason = error.strerror or error
        raise ReportError(f"{file} cannot be read: {reason}.") from None
    finished = contents.report is not None
    notes += _shortcomings(contents)
    report = contents.report or _compose(contents, header, settings, notes)
    report._series = contents.whole.series()
    return Run(
        path=file,
        name=header.name,
        started=header.started,
        report=report,
        history=contents.whole,
        structure=contents.structure,
        settings=settings,
        ignore=header.ignore,
        events=tuple(contents.events),
        finished=finished,
        notes=tuple(notes),
    )


def _find(path: Path) -> tuple[Path, list[str]]:
    """Return the file of a run, and how it was chosen if there was a choice."""
    if not path.is_dir():
        return path, []
    if (path / FILE_NAME).is_file():
        return path / FILE_NAME, []
    try:
        runs = [(_begun(file), str(file), file) for file in path.glob(f"*/{FILE_NAME}")]
    except OSError as error:
        reason = error.strerror or error
        raise ReportError(f"{path} cannot be read: {reason}.") from None
    if not runs:
        raise ReportError(
            f"{path} holds no run: neither {FILE_NAME} nor folders with one. Pass the "
            "folder that `gradwatch.watch(model, record=...)` was given, or one in it."
        )
    file = max(runs)[2]
    if len(runs) == 1:
        return file, []
    return file, [f"{file.parent.name} is the newest of {len(runs)} runs there."]


def _begun(file: Path) -> str:
    """Return what orders runs by their beginning: the folder's name says it."""
    name = file.parent.name
    return name if name[:1].isdigit() else ""


def _settings(header: Header, notes: list[str]) -> Settings:
    """Return the settings of the run; what this version does not know is left out."""
    known = {k: v for k, v in header.settings.items() if k in Settings.model_fields}
    strange = sorted(header.settings.keys() - known)
    try:
        settings = Settings.from_mapping(known, origin="the record")
    except SettingsError as error:
        notes.append(f"Its settings cannot be used, the defaults count: {error}")
        return Settings()
    if strange:
        notes.append(
            "It was recorded by another version of gradwatch; these settings of it are "
            f"not known here: {', '.join(strange)}."
        )
    return settings


def _read_lines(stream: BinaryIO, settings: Settings) -> _Contents:
    contents = _Contents(
        ring=History(settings.max_probes, settings.max_pulses, settings.max_records),
        whole=_unbounded_history(),
    )
    for text in _lines(stream):
        found = split_line(text)
        contents.cut_off = False
        if found is None:
            if text.strip(b"\0 \r\n\t"):
                contents.cut_off = not text.endswith(b"\n")
                contents.num_damaged += not contents.cut_off
            continue
        word, _, data = found
        if word not in _KINDS:
            contents.num_strange += 1
            continue
        try:
            contents.take(_KINDS[word], data)
        except ValueError:
            contents.cut_off = not text.endswith(b"\n")
            contents.num_damaged += not contents.cut_off
    return contents


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while text := stream.readline(_MAX_LINE_BYTES):
        yield text


def _unbounded_history() -> History:
    """Return a history for all that a file holds, which is bounded itself."""
    return History(1_000_000, 10_000_000, 10**12)


def _shortcomings(contents: _Contents) -> list[str]:
    """Say what the record lacks."""
    notes = []
    history = contents.whole
    kept = len(history.probes)
    if contents.report is None:
        last = max([history.last_step, *(probe.step for probe in history.probes[-1:])])
        upto = f"it was recorded up to step {last:,}" if last >= 0 else "no step yet"
        notes.append(f"This run has no end: it still runs, or was killed; {upto}.")
    if contents.cut_off:
        notes.append("The record's last line is cut off; all before it was read.")
    if contents.num_damaged:
        lines = count(contents.num_damaged, "line")
        notes.append(f"{lines} of the record could not be read and were left out.")
    if contents.num_strange:
        lines = count(contents.num_strange, "line")
        notes.append(f"{lines} of a kind that this gradwatch does not know: left out.")
    if kept < history.num_probes:
        notes.append(
            f"The record keeps {kept} of {history.num_probes:,} probes, older ones "
            "thinned evenly."
        )
    return notes


def _compose(
    contents: _Contents, header: Header, settings: Settings, notes: list[str]
) -> Report:
    """Compose the report on an unfinished run as the watch would have."""
    cleared = [event.finding for event in contents.events if event.what == "cleared"]
    if contents.state is not None:
        seen = contents.state.seen
    else:
        seen = Seen(header.model, header.name, standing=_standing(contents.events))
    seen = replace(
        seen,
        cleared=tuple(cleared[-_MOST_CLEARED:]),
        notes=(*seen.notes, *notes),
    )
    return report_on(
        seen,
        contents.ring,
        contents.structure,
        settings,
        contents.anatomy,
        header.versions,
    )


def _standing(events: list[FindingEvent]) -> tuple[Finding, ...]:
    """Return the findings that came and did not go, where nothing else says it."""
    standing: dict[str, Finding] = {}
    for event in events:
        standing.pop(event.finding.code, None)
        if event.what in {"came", "changed"}:
            standing[event.finding.code] = event.finding
    return tuple(standing.values())
