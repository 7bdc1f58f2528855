"""What a watch records of a run: every probe and pulse, findings as they come and go.

The recorder is called where the rules are, after a probe, so that its time counts as
gradwatch's own and the rhythm pays for it. Pulses come along with the next probe, or
when many have gathered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gradwatch.anatomy import Anatomy
from gradwatch.errors import SettingsError
from gradwatch.findings import Finding, Severity
from gradwatch.history import History
from gradwatch.ranks import is_first_process
from gradwatch.records import PulseRecord
from gradwatch.report import Report, RunFacts
from gradwatch.run_facts import Seen
from gradwatch.runlog_format import (
    ANATOMIES,
    EVENTS,
    FILE_NAME,
    PROBES,
    PULSES,
    STATES,
    FindingEvent,
    Header,
    Kind,
    State,
    dump_report,
    dump_structure,
    header_line,
    prepare_codecs,
)
from gradwatch.runlog_writing import Entry, Limits, RunWriter
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Pulses that are written without waiting for a probe; half of what the history keeps
#: by default, so that none is lost (chosen).
_MOST_WAITING = 256
_LONGEST_NAME = 40


class RecordedHistory(History):
    """A history that calls when many pulses wait to be recorded.

    Args:
        settings: Say how much it keeps.
        recorder: Records it.
    """

    def __init__(self, settings: Settings, recorder: Recorder) -> None:
        super().__init__(settings.max_probes, settings.max_pulses, settings.max_records)
        self._recorder = recorder
        self._most_waiting = min(_MOST_WAITING, settings.max_pulses)

    def add_pulse(self, record: PulseRecord) -> None:
        """Append a pulse."""
        super().add_pulse(record)
        if self.num_pulses - self._recorder.num_pulses >= self._most_waiting:
            self._recorder.on_pulses(self)


class Recorder:
    """Writes the record of one watch.

    Args:
        writer: Writes its file.

    Attributes:
        folder: Folder of the run.
        num_pulses: Pulses recorded so far.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self.folder = writer.path.parent
        self.num_pulses = 0
        self._structure: Structure | None = None
        self._shown: dict[str, Finding] = {}
        self._newest_cleared: Finding | None = None
        self._alarmed: set[str] = set()

    @property
    def failure(self) -> str:
        """Why nothing is recorded any more; empty while it is."""
        return self._writer.failure

    def on_pulses(self, history: History) -> None:
        """Record the pulses that are new."""
        self._write(lambda: self._pulses(history))

    def on_probe(
        self,
        history: History,
        structure: Structure,
        seen: Seen,
        anatomy: Callable[[], Anatomy],
    ) -> None:
        """Record the newest probe and what is known with it, in one write.

        Args:
            history: What was measured.
            structure: The network.
            seen: What observer and detector know.
            anatomy: Reads what code can change of the model; asked at a new alarm.
        """
        self._write(lambda: self._probe(history, structure, seen, anatomy))

    def finish(self, history: History, seen: Seen, report: Report) -> None:
        """Record what is left and the report, and close the file.

        Args:
            history: What was measured.
            seen: What observer and detector know.
            report: The report at the end.
        """
        step = max(history.last_step, 0)
        self._write(
            lambda: [
                *self._pulses(history),
                *self._events(seen, step),
                _state(seen, history, step),
                Entry(Kind.REPORT, step, dump_report(report)),
            ]
        )
        self._writer.close()

    def close(self) -> None:
        """Close the file, also without an end. Repeated calls do nothing."""
        self._writer.close()

    def revise(self, step: int, report: Report) -> None:
        """Record the report anew, of a watch that was closed: something was tried.

        Args:
            step: Last step of the run.
            report: The report as it is now.
        """
        entry = Entry(Kind.REPORT, max(step, 0), dump_report(report))
        self._writer.add_to_closed([entry])

    def _write(self, compose: Callable[[], list[Entry]]) -> None:
        if not self._writer.is_open:
            return
        try:
            entries = compose()
        except ValueError as error:  # a name that is no Unicode has no JSON
            self._writer.fail(error)
            return
        self._writer.write(entries)

    def _pulses(self, history: History) -> list[Entry]:
        new = min(history.num_pulses - self.num_pulses, history.num_kept_pulses)
        self.num_pulses = history.num_pulses
        if not new:
            return []
        pulses = history.pulses[-new:]
        data = PULSES.dump(*pulses)
        return [Entry(Kind.PULSES, pulses[-1].step, data, count=new)]

    def _probe(
        self,
        history: History,
        structure: Structure,
        seen: Seen,
        anatomy: Callable[[], Anatomy],
    ) -> list[Entry]:
        entries = self._pulses(history)
        record = history.latest
        step = record.step if record is not None else 0
        if record is not None:
            entries.append(Entry(Kind.PROBE, step, _first(PROBES.dump(record))))
        if structure is not self._structure:
            if structure != self._structure:
                data = _first(dump_structure(structure))
                entries.append(Entry(Kind.STRUCTURE, step, data))
            self._structure = structure
        entries += self._events(seen, step)
        alarms = {f.code for f in seen.standing if f.severity >= Severity.WARNING}
        if alarms - self._alarmed:
            self._alarmed |= alarms
            data = _first(ANATOMIES.dump(anatomy()))
            entries.append(Entry(Kind.ANATOMY, step, data))
        entries.append(_state(seen, history, step))
        return entries

    def _events(self, seen: Seen, step: int) -> list[Entry]:
        """Return what came, changed and went since the last probe."""
        cleared = list(_after(seen.cleared, self._newest_cleared))
        self._newest_cleared = seen.cleared[-1] if seen.cleared else None
        standing = {finding.code: finding for finding in seen.standing}
        events = [FindingEvent(step, "cleared", finding) for finding in cleared]
        gone = {finding.code for finding in cleared}
        for code, finding in self._shown.items():
            if code not in standing and code not in gone:
                events.append(FindingEvent(step, "withdrawn", finding))
        for code, finding in standing.items():
            old = self._shown.get(code)
            if old is None or code in gone:
                events.append(FindingEvent(step, "came", finding))
            elif _level(old) != _level(finding):
                events.append(FindingEvent(step, "changed", finding))
        self._shown = standing
        return [
            Entry(Kind.FINDING, step, _first(EVENTS.dump(event))) for event in events
        ]


def start_record(
    record: str | Path | None,
    settings: Settings,
    *,
    model: str,
    name: str | None = None,
    ignore: Iterable[str] = (),
) -> Recorder | None:
    """Make the folder and the file of a new run.

    Args:
        record: Folder of runs; made if it is not there. None: nothing is recorded.
        settings: The limits in use.
        model: Class name of the model.
        name: What the user calls the model.
        ignore: What the user ignores.

    Returns:
        The recorder; None without a folder, and in every process of a distributed run
        but the first.

    Raises:
        SettingsError: If the folder or a file in it cannot be made.
    """
    if record is None:
        return None
    if not _is_path(record):
        raise SettingsError(
            f"`record` (={record!r:.60}) must be the path of a folder such as 'runs', "
            "or None."
        )
    if not is_first_process():
        return None
    prepare_codecs()
    now = datetime.now().astimezone()
    facts = RunFacts()
    header = Header(
        model=model,
        name=name or model,
        started=now.isoformat(timespec="seconds"),
        settings=settings.model_dump(),
        ignore=tuple(ignore),
        versions={key: getattr(facts, key) for key in ("gradwatch", "python", "torch")},
    )
    usual = Limits()
    limits = Limits(
        newest_probes=settings.max_probes,
        probes=max(usual.probes, 4 * settings.max_probes),
        newest_pulses=settings.max_pulses,
        pulses=max(usual.pulses, 4 * settings.max_pulses),
    )
    try:
        folder = _new_folder(Path(record).expanduser(), now, name or model)
        writer = RunWriter(folder / FILE_NAME, header_line(header), limits)
    except OSError as error:
        raise SettingsError(
            f"`record` (={str(record)!r}): no run can be recorded there: {error}. It "
            "must be a folder that can be written to, or be made."
        ) from None
    try:
        return Recorder(writer)
    except BaseException:  # nobody else can close the file
        writer.close()
        raise


def history_of(settings: Settings, recorder: Recorder | None) -> History:
    """Return the history of a watch, which tells its recorder of pulses if it has one.

    Args:
        settings: Say how much it keeps.
        recorder: Records it; None if nothing is recorded.

    Returns:
        The history.
    """
    if recorder is None:
        return History(settings.max_probes, settings.max_pulses, settings.max_records)
    return RecordedHistory(settings, recorder)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(str(value).strip())


def _new_folder(runs: Path, now: datetime, name: str) -> Path:
    """Make `runs/<time>_<name>`, numbered where it is there already."""
    runs.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:_LONGEST_NAME]
    stem = f"{now:%Y-%m-%d_%H-%M-%S}{'_' if plain else ''}{plain}"
    number = 1
    while True:
        folder = runs / (stem if number == 1 else f"{stem}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _after(findings: Iterable[Finding], last: Finding | None) -> list[Finding]:
    """Return the findings behind the one that was seen last."""
    new: list[Finding] = []
    for finding in findings:
        if finding is last:
            new.clear()
        else:
            new.append(finding)
    return new


def _level(finding: Finding) -> tuple[Severity, bool]:
    return finding.severity, finding.confirmed


def _state(seen: Seen, history: History, step: int) -> Entry:
    state = State(replace(seen, cleared=()), history.tally)
    return Entry(Kind.STATE, step, _first(STATES.dump(state)))


def _first(array: bytes) -> bytes:
    """Return the only item of a JSON array."""
    return array[1:-1]
