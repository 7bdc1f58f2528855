"""Break one function in one run and say whether the user noticed."""

import contextlib
import itertools
import traceback
import warnings
from functools import cache

import gradwatch
from gradwatch import step_hooks
from gradwatch.errors import DetachedWarning, RecordWarning
from tests.faults.injection import (
    ENTRY_POINTS,
    Place,
    Profiler,
    always_raising,
    functions,
    profiled,
)
from tests.faults.runs import RUNS
from tests.harmless import alike, hooks_on

#: Modules whose functions `watch()` calls to check its arguments, before all else.
CHECKS = {
    "gradwatch.watch_options",
    "gradwatch.settings",
    "gradwatch.settings_file",
}
#: An error of such a function: raised by `watch()` at once, with nothing attached.
REFUSED = "refused by watch() with nothing attached"

_TRIES = 3


class FaultError(RuntimeError):
    """What is injected."""


@cache
def expected(name):
    """Return the state that a run leaves without gradwatch."""
    return RUNS[name].unwatched()


@cache
def places():
    """Return every place that can be broken: its run, and its calls in that run."""
    found: dict[Place, tuple[str, int]] = {}
    for name, run in RUNS.items():
        run.watched(lambda phase: None)  # what is done once is done
        profiler = Profiler()
        with profiled(profiler):
            run.watched(lambda phase, p=profiler: setattr(p, "phase", phase))
        for place, calls in profiler.calls.items():
            if (place.module, place.name) not in ENTRY_POINTS:
                found.setdefault(place, (name, calls))
    return {place: found[place] for place in sorted(found) if place.phase != "over"}


def break_once(place, run, call, error=FaultError):
    """Let one call of a function raise.

    Args:
        place: The function and the phase.
        run: Name of the run.
        call: Which of its calls in that phase, from 1.
        error: What it raises.

    Returns:
        What went wrong for the user; empty if nothing did.
    """
    for _ in range(_TRIES):  # what a run does depends a little on the clock
        profiler = Profiler(place, call, error)
        with profiled(profiler):
            wrong = _watch(
                run, lambda phase, p=profiler: setattr(p, "phase", phase), error
            )
        if profiler.fired:
            return wrong
    return ["was not reached"]


def break_always(place, run):
    """Let a function raise at every call of the training loop; as `break_once`."""
    function = functions()[place.module, place.name, place.line]
    with contextlib.ExitStack() as broken:

        def enter(phase):
            if phase == "loop":
                broken.enter_context(always_raising(function, FaultError))
            else:
                broken.close()

        return _watch(run, enter, FaultError)


def _watch(name, enter, error):
    run, wrong = RUNS[name], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model, state, watch, report = run.watched(enter)
        except error as raised:
            enter("over")
            return [_reached(run, raised)]
    ours = [w for w in caught if w.category in {DetachedWarning, RecordWarning}]
    wrong += [
        f"{part} differ"
        for part, value in expected(name).items()
        if not alike(value, state[part])
    ]
    if len(ours) > 1:
        wrong.append(f"{len(ours)} warnings")
    wrong += [f"warned: {w.message}" for w in caught if w not in ours]
    wrong += _left(model)
    if not watch.closed:
        wrong.append("not closed")
    if not report.sentence:
        wrong.append("no report")
    return wrong


def _reached(run, raised):
    """Say by which way an error came to the user."""
    left = _left(run.model)
    if left:
        return f"reached the user and left {left}"
    frames = [frame for frame, _ in traceback.walk_tb(raised.__traceback__)]
    inner = next(
        (
            after
            for before, after in itertools.pairwise(frames)
            if before.f_code is gradwatch.watch.__code__
        ),
        None,
    )
    if inner is not None and (
        inner.f_globals["__name__"] in CHECKS
        or inner.f_code.co_qualname.startswith("watch.<locals>")
    ):
        return REFUSED
    return f"reached the user: {traceback.format_tb(raised.__traceback__)[-1]}"


def _left(model):
    """Return the hooks that a fault left, and take them off for the next one."""
    left = [str(hook) for hook in hooks_on(model)]
    for walk in (step_hooks._before, step_hooks._after):
        walk._call(())
    return [f"hooks left: {left}"] if left else []
