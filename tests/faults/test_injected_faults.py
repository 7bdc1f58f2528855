"""Every function of gradwatch that a training reaches is made to raise, one by one."""

import logging
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.faults.checking import REFUSED, break_always, break_once, places
from tests.faults.injection import functions
from tests.faults.runs import RUNS
from tests.harmless import global_hooks, hooks_on, light_heap

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
PHASES = {
    "watch": "`watch()`, attaching",
    "loop": "hooks in the training loop",
    "end": "`report()` and `close()`",
}
if sys.version_info < (3, 11):
    pytest.skip("code objects have no qualified name yet", allow_module_level=True)

KINDS = ["first call", "middle call", "every call"]
#: Where the counts stand in the page.
HEADER = (
    "| fault | where it strikes | injected | refused by `watch()` | reached the user |"
)
END = "<!-- end of the counts -->"


@pytest.fixture(scope="module", autouse=True)
def _light_heap():
    """Run on a light heap, without a line in the log for each fault of a remedy."""
    places()
    functions()
    logging.disable(logging.ERROR)
    try:
        with light_heap():
            yield
    finally:
        logging.disable(logging.NOTSET)
    assert global_hooks() == []


def trouble(part):
    """Return what went wrong for each (place, run, result)."""
    return [
        f"{place} in run {run!r}: {wrong}"
        for place, run, wrong in part
        if wrong and wrong != [REFUSED]
    ]


def functions_once():
    """Return each function once, where its fault matters most: inside the loop."""
    once = {}
    for place, (run, calls) in places().items():
        key = place.module, place.name, place.line
        if key not in once or place.phase == "loop":
            once[key] = place, run, calls
    return list(once.values())


def test_the_runs_reach_what_they_are_meant_to():
    """Hooks, probes, pulses, rest, replay, rules, remedies, record, panel, report."""
    reached = {(place.module, place.name) for place in places()}
    for module, name in (
        ("probe", "Probe.leave"),
        ("pulse_taking", "PulseTaker.finish"),
        ("hooks", "HookManager._wake"),
        ("hooks", "HookManager.count_step"),
        ("nan_origin", "replay_forward"),
        ("capture", "Capture.complete"),
        ("detector", "Detector.update"),
        ("recommender", "recommend"),
        ("anatomy_reading", "read_anatomy"),
        ("runlog_writing", "RunWriter.write"),
        ("console", "ConsoleView.on_probe"),
        ("report_build", "build_report"),
    ):
        assert (f"gradwatch.{module}", name) in reached
    assert len(reached) > 1000


def test_a_function_that_raises_once_leaves_training_alone():
    """The same bits, one warning at most, no hook left, a report; nothing raised.

    One function in twelve; the slow test has them all.
    """
    part = [
        (place, run, break_once(place, run, 1))
        for place, run, _ in functions_once()[::12]
    ]
    assert len(part) > 100
    assert trouble(part) == []


@pytest.mark.parametrize("error", [MemoryError, RecursionError, AssertionError])
def test_other_errors_are_borne_as_well(error):
    """Whatever is no order to stop."""
    part = [
        (place, run, break_once(place, run, 1, error))
        for place, run, _ in functions_once()[3::90]
    ]
    assert len(part) > 12
    assert trouble(part) == []


def test_an_order_to_stop_reaches_the_user_and_leaves_nothing():
    """Ctrl-C inside a function of ours goes on to the user; hooks are gone."""
    tried = 0
    for place, (run, _) in list(places().items())[::60]:
        wrong = break_once(place, run, 1, KeyboardInterrupt)
        assert len(wrong) == 1, place
        assert "reached the user" in wrong[0] or wrong == [REFUSED], (place, wrong)
        assert "and left" not in wrong[0], (place, wrong)
        assert hooks_on(RUNS[run].model) == [], place
        tried += 1
    assert tried > 20


def faults(kind):
    """Yield each place with the fault of this kind that strikes there."""
    for place, (run, calls) in places().items():
        key = place.module, place.name, place.line
        if kind == "first call":
            yield place, run, partial(break_once, place, run, 1)
        elif kind == "middle call" and calls > 1:
            yield place, run, partial(break_once, place, run, (calls + 2) // 2)
        elif kind == "every call" and place.phase == "loop" and key in functions():
            yield place, run, partial(break_always, place, run)


@pytest.mark.slow
@pytest.mark.skipif(
    "GRADWATCH_ALL_FAULTS" not in os.environ,
    reason="takes ten minutes: GRADWATCH_ALL_FAULTS=1 runs it, before a release",
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_at_every_place_and_the_page_that_counts_them(kind):
    """With `GRADWATCH_WRITE_SNAPSHOTS=1`, `docs/faults.md` gets the counts."""
    struck = [(place, run, strike()) for place, run, strike in faults(kind)]
    assert len(struck) > 500
    assert trouble(struck) == []
    if os.environ.get("GRADWATCH_WRITE_SNAPSHOTS"):
        write(kind, struck)


def write(kind, struck):
    """Write the rows of one kind of fault into the page."""
    text = PAGE.read_text(encoding="utf-8")
    others = [row for row in rows_of(text) if row[0] not in {kind, "all"}]
    for phase, where in PHASES.items():
        part = [wrong for place, _, wrong in struck if place.phase == phase]
        refused = part.count([REFUSED])
        reached = sum(map(bool, part)) - refused
        if part:
            others.append([kind, where, len(part), refused, reached])
    others.sort(key=lambda row: KINDS.index(row[0]))
    sums = [sum(number(row[column]) for row in others) for column in (2, 3, 4)]
    cells = [[*row[:2], *(f"{number(cell):,}" for cell in row[2:])] for row in others]
    cells.append(["all", "", *(f"{total:,}" for total in sums)])
    lines = [f"| {' | '.join(row)} |" for row in cells]
    before, rest = text.split(HEADER)
    _, after = rest.split(END)
    table = "\n".join([HEADER, "| --- " * 5 + "|", *lines, "", END])
    PAGE.write_text(before + table + after, encoding="utf-8")


def rows_of(text):
    """Return the cells of the table."""
    table = text.split(HEADER)[1].split(END)[0].strip().splitlines()[1:]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in table]


def number(cell):
    """Return the number that a cell holds."""
    return int(str(cell).replace(",", ""))


def test_the_page_tells_of_no_fault_that_reached_the_user():
    """The last column of the table is zero in every row."""
    *rows, total = rows_of(PAGE.read_text(encoding="utf-8"))
    assert {row[0] for row in rows} == set(KINDS)
    assert {row[4] for row in (*rows, total)} == {"0"}
    injected = sum(number(row[2]) for row in rows)
    assert injected == number(total[2]) > 3000
    # Only the checks of arguments may refuse.
    assert number(total[3]) < 0.01 * injected
