"""How a run's record is written: one JSON object a line, with a kind, a step, its data.

The first line is a header with the format's name and version; every other line stands
for itself. A line that was cut off is no JSON, so a reader knows it, and loses nothing
but that line. Only numbers, words and lists are written: reading executes nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gradwatch._version import __version__
from gradwatch.anatomy import Anatomy
from gradwatch.errors import ReportError
from gradwatch.findings import Finding
from gradwatch.history import Tally
from gradwatch.records import PulseRecord, StepRecord
from gradwatch.report import Report
from gradwatch.run_facts import Seen
from gradwatch.structure import Structure

Item = TypeVar("Item")

FORMAT = "gradwatch-run"
#: Grows when a field changes its meaning, its default or goes; a new field or a new
#: kind of line does not change it.
SCHEMA_VERSION = 1
#: Name of the record in the folder of its run.
FILE_NAME = "run.jsonl"
#: Bytes of the first line that are looked at: a header is far shorter.
MAX_HEADER_BYTES = 1_000_000
_LINE = re.compile(
    rb'\s*\{"kind":"([a-z]+)","step":(-?\d{1,18}),"data":(.*)\}\s*', re.DOTALL
)
#: Of a dataclass itself pydantic takes no configuration, of a tuple of them it does.
_CONFIG = ConfigDict(ser_json_inf_nan="strings")


class Kind(str, Enum):
    """What a line holds."""

    STRUCTURE = "structure"
    """The network, whenever it is understood anew; the newest counts."""
    ANATOMY = "anatomy"
    """What code can change of the model, at each new alarm; the newest counts."""
    PULSES = "pulses"
    PROBE = "probe"
    FINDING = "finding"
    STATE = "state"
    """What else is known after a probe; the newest counts."""
    REPORT = "report"
    """The report at the end, and again after later trials; the newest counts. A run
    without it still runs or was killed."""


#: Kinds of which only the newest line counts.
SUPERSEDED = frozenset({Kind.STRUCTURE, Kind.ANATOMY, Kind.STATE, Kind.REPORT})


@dataclass(frozen=True, slots=True)
class Header:
    """The first line.

    Attributes:
        model: Class name of the model.
        name: What the user calls it.
        started: When the run began, ISO 8601 with the offset to UTC.
        settings: All settings.
        ignore: What the user ignores.
        versions: Versions of gradwatch, python and torch.
    """

    model: str
    name: str
    started: str
    settings: dict[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FindingEvent:
    """A finding that comes, changes or goes.

    Attributes:
        step: Step of the probe.
        what: `came` (seen for the first time), `changed` (its severity or whether it is
            confirmed), `cleared` (it was confirmed and is gone) or `withdrawn` (no
            longer shown: never confirmed, or a consequence of another finding).
        finding: As it was then.
    """

    step: int
    what: Literal["came", "changed", "cleared", "withdrawn"]
    finding: Finding


@dataclass(frozen=True, slots=True)
class State:
    """What is known after a probe beside probes, pulses and structure.

    Attributes:
        seen: What observer and detector knew, without the cleared findings, which
            have lines of their own.
        tally: What the history knows of records it may have dropped.
    """

    seen: Seen
    tally: Tally


class Codec(Generic[Item]):
    """Writes and reads the data of one kind of line.

    Args:
        kind: Class of the data.
    """

    def __init__(self, kind: type[Item]) -> None:
        self._kind = kind
        self._adapter: TypeAdapter[tuple[Item, ...]] | None = None

    @property
    def _made(self) -> TypeAdapter[tuple[Item, ...]]:
        # Made when first used: a watch that records nothing does not pay for it.
        if self._adapter is None:
            made: Any = tuple[self._kind, ...]  # type: ignore[name-defined]
            self._adapter = TypeAdapter(made, config=_CONFIG)
        return self._adapter

    def prepare(self) -> None:
        """Make what writes and reads, before it is needed."""
        _ = self._made

    def dump(self, *items: Item) -> bytes:
        """Return the items as a JSON array; fields at their default are left out."""
        return self._made.dump_json(items, exclude_defaults=True)

    def load(self, data: bytes) -> tuple[Item, ...]:
        """Return the items of a JSON array.

        Args:
            data: JSON.

        Returns:
            The items.

        Raises:
            ValueError: If the data is no JSON or does not fit.
        """  # noqa: DOC502 - raised by pydantic
        return self._made.validate_json(data)


PROBES = Codec(StepRecord)
PULSES = Codec(PulseRecord)
EVENTS = Codec(FindingEvent)
STATES = Codec(State)
_STRUCTURES = Codec(Structure)
ANATOMIES = Codec(Anatomy)
_HEADERS = Codec(Header)


def prepare_codecs() -> None:
    """Make all codecs now (some 50 ms), so that no step of the training waits."""
    for codec in (PROBES, PULSES, EVENTS, STATES, _STRUCTURES, ANATOMIES):
        codec.prepare()


def line(kind: Kind, step: int, data: bytes) -> bytes:
    """Return one line of a record.

    Args:
        kind: What it holds.
        step: Step it belongs to.
        data: JSON on one line.

    Returns:
        The line, with its end.
    """
    head = f'{{"kind":"{kind.value}","step":{step},"data":'
    return b"".join((head.encode(), data, b"}\n"))


def split_line(text: bytes) -> tuple[str, int, bytes] | None:
    """Return kind, step and data of a line; None if it is none or was cut off."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    return match[1].decode(), int(match[2]), match[3]


def header_line(header: Header) -> bytes:
    """Return the first line of a record."""
    fields = json.loads(_HEADERS.dump(header))[0]
    marks = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    return json.dumps(marks | fields).encode() + b"\n"


def read_header(text: bytes, source: str) -> Header:
    """Return the header that the first line of a file holds.

    Args:
        text: The line, cut after `MAX_HEADER_BYTES`.
        source: What the messages call the file.

    Returns:
        The header.

    Raises:
        ReportError: If it is none, was cut off, or is of a newer gradwatch.
    """
    if not text.strip(b"\0 \r\n\t"):
        raise ReportError(f"{source} is empty: nothing of the run was recorded.")
    mark = f'{{"format": "{FORMAT}"'.encode()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith(mark) or mark.startswith(text):
            raise ReportError(
                f"{source} is cut off inside its first line: nothing can be read of it."
            ) from None
        fields = None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ReportError(
            f"{source} is not a record of gradwatch: its first line does not say "
            f'"format": "{FORMAT}". Pass the folder that `record=` made, or a file '
            "that `report.save(...)` wrote."
        )
    version = fields.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ReportError(
            f"{source} was written by a newer gradwatch (schema {version}; this is "
            f"gradwatch {__version__}, schema {SCHEMA_VERSION}): update gradwatch to "
            "read it."
        )
    try:
        return _HEADERS.load(json.dumps([fields]).encode())[0]
    except (ValidationError, RecursionError) as error:
        first = str(error).splitlines()[:3]
        raise ReportError(
            f"{source} has a damaged first line: {' '.join(first)}."
        ) from None


def dump_structure(structure: Structure) -> bytes:
    """Return a structure as JSON: its read-only mapping has none."""
    return _STRUCTURES.dump(replace(structure, layers=dict(structure.layers)))


def load_structure(data: bytes) -> Structure:
    """Return the structure that `dump_structure` wrote."""
    (structure,) = _STRUCTURES.load(data)
    return replace(structure, layers=MappingProxyType(dict(structure.layers)))


def dump_report(report: Report) -> bytes:
    """Return a report as JSON on one line."""
    return report.model_dump_json().encode()


def load_report(data: bytes) -> Report:
    """Return the report that `dump_report` wrote."""
    return Report.from_json(data.decode())
