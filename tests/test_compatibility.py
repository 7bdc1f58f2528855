"""What works with what: each row of docs/compatibility.md is run.

After a wanted change write the table anew with `GRADWATCH_WRITE_SNAPSHOTS=1` and read
it.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from gradwatch.captured_loss import CapturedLoss
from gradwatch.compiled_replay import READ_BY_REPLAY
from gradwatch.errors import ModelError
from gradwatch.records import Coverage
from gradwatch.twin import is_loss, make_twin, no_trace, probe_twin
from tests.compatibility_rows import FRAMEWORKS, PROCESSES, ROWS, run

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def pulse(watch):
    """The global norm at the end of backward, each step."""
    norms = [pulse.grad_norm for pulse in watch.history.pulses]
    if norms and all(norm is not None for norm in norms):
        return "works"
    return "at probes" if watch.history.num_probes else "no"


def clip_factor(watch):
    """Norm at the step over the norm at the end of backward."""
    factors = [pulse.clip_factor for pulse in watch.history.pulses]
    return "works" if factors and None not in factors else "no"


def parameters(watch):
    """Gradient norms of parameters."""
    record = watch.history.latest
    if record is None:
        return "no"
    found = [p.grad_norm is not None for p in record.parameters if p.trainable]
    return "works" if all(found) else "partly" if any(found) else "no"


def layers(watch):
    """Coverage of the layers with parameters."""
    record = watch.history.latest
    if record is None:
        return "no"
    states = [state for _, state in record.coverage]
    reasons = [why for _, why in record.coverage_reasons]
    if Coverage.NOT_SEEN in states:
        return "some not seen" if Coverage.OBSERVED in states else "not seen"
    return "by a replay" if any(READ_BY_REPLAY in why for why in reasons) else "works"


def trunk(watch):
    """D of the main chain."""
    record = watch.history.latest
    chains = record.chains if record is not None else ()
    if not chains or chains[0].decades() is None:
        return "no"
    return "works" if chains[0].structure_known else "by module order"


def updates(watch):
    """Applied update over weight."""
    record = watch.history.latest
    found = [p.update_ratio for p in record.parameters] if record is not None else []
    return "works" if any(ratio is not None for ratio in found) else "no"


def time_profile(watch):
    """Gradient by time step of the recurrent layer."""
    if not any(info.kind == "GRU" for info in watch.structure.layers.values()):
        kinds = {facts.kind for facts in watch._observer.watched.facts.values()}
        return "no" if "GRU" in kinds else "(not recurrent)"
    return "works" if watch.history.latest.time_profiles else "no"


def nan_origin(watch):
    """Where a NaN in the batch began."""
    skipped = watch.history.num_skipped
    probes = watch.history.probes
    found = [probe.non_finite for probe in probes if probe.non_finite is not None]
    origin = watch._observer.origin or (found[-1] if found else None)
    if origin is not None:
        return "works" if origin.layer is not None else f"only {origin.where}"
    return "step skipped" if skipped else "no"


def trials(watch, model):
    """Whether the watch captured what a trial needs."""
    batches = watch._observer.capture.batches
    if not batches or model is None:
        return "with `batches=`"
    try:
        make_twin(model, "a trial")
    except ModelError:
        return "refused"
    batch = batches[-1]
    with no_trace(batch.args, batch.kwargs):
        loss = CapturedLoss(batch)
        _, how = probe_twin(make_twin(model, "a trial"), watch._settings, loss.forward)
    return "works" if is_loss(how) else "replay only"


COLUMNS = {
    "pulse": pulse,
    "clip factor": clip_factor,
    "parameters": parameters,
    "layers": layers,
    "trunk, D": trunk,
    "updates": updates,
    "time profile": time_profile,
}


def cells(name):
    """Run a row and return its cells."""
    kept = []
    watch = run(name, False, kept)
    poisoned = run(name, True, [])
    if "clipping" in name:
        assert all(pulse.clip_factor < 0.9 for pulse in watch.history.pulses)
    found = [column(watch) for column in COLUMNS.values()]
    return [*found, nan_origin(poisoned), trials(watch, kept[0] if kept else None)]


def line_of(name, text):
    """Return the row of the table in the page."""
    start = f"| {name} |"
    return next((row for row in text.splitlines() if row.startswith(start)), None)


def compare(name):
    """Run a row and compare it with the page, or write it there."""
    compare_row(name, cells(name))


def compare_row(name, found):
    """Compare the cells of a row with the page, or write them there."""
    row = f"| {name} | {' | '.join(found)} |"
    text = PAGE.read_text("utf-8")
    old = line_of(name, text)
    assert old is not None, f"docs/compatibility.md has no row for {name}"
    if os.environ.get("GRADWATCH_WRITE_SNAPSHOTS"):
        PAGE.write_text(text.replace(old, row), "utf-8")
        return
    assert row == old


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_happens(name):
    """A loop of torch."""
    compare(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_row_of_a_framework_is_what_happens(name):
    """A loop of a framework."""
    wanted = "lightning" if name.startswith("Lightning") else "transformers"
    if find_spec(wanted) is None:
        pytest.skip(f"{wanted} is not installed")
    compare(name)


def test_the_page_has_all_columns_and_no_row_of_its_own():
    """Rows that are not run here say who runs them, or that nothing works."""
    text = PAGE.read_text("utf-8")
    heads = ["", *COLUMNS, "NaN origin", "trials"]
    assert f"| {' | '.join(heads).lstrip()} |".replace("|  |", "| |") in text
    names = [row.split(" | ")[0][2:] for row in text.splitlines() if row[:2] == "| "]
    listed = {name for name in names if name.strip("|- ")}
    assert listed - {"DeepSpeed"} == {*ROWS, *FRAMEWORKS, *PROCESSES}
