"""Several processes: one rhythm, one record, no hang. Real ranks, by `torchrun`."""

import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("torch.distributed", reason="torch without torch.distributed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

from tests.processes_nets import net, numbers, train

ROOT = Path(__file__).resolve().parent.parent
#: Scenarios of two ranks, in one launch.
NAMES = (
    *("ddp", "static", "view", "accumulated", "inner", "sharded"),
    *("rank 0", "rank 1", "rank 0 sharded", "short", "late", "two models"),
    *("apart", "drifting", "leaving", "uneven", "poisoned", "quiet", "rhythm"),
    *("counted", "scaled", "recurrent", "never came", "stays away"),
    *("fully sharded", "split"),
)
#: What a scenario wrote of each probe.
KEYS = ("loss", "layers", "points", "shares", "parameters")
ELSEWHERE = "not every rank watches this model from the same step on"


def launch(folder, ranks, *arguments, script=("-m", "tests.processes_runs")):
    """Run `torchrun` as users do, and return how it ended."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    command += ["--standalone", "--nproc-per-node", str(ranks), *script, *arguments]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def read(folder, name, ranks):
    """Return what each rank wrote of a scenario; None of one that did not get there."""
    files = [folder / f"{name}-{ranks}-{rank}.json" for rank in range(ranks)]
    return [json.loads(f.read_text("utf-8")) if f.exists() else None for f in files]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return what each of two ranks saw, by scenario."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(folder, 2, str(folder), *NAMES)
    assert done.returncode == 0, done.stderr[-5000:]
    return partial(read, folder, ranks=2)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Return what each of four ranks saw, by scenario."""
    folder = tmp_path_factory.mktemp("four")
    done = launch(folder, 4, str(folder), "ddp", "sharded", "some", "hybrid", "halves")
    assert done.returncode == 0, done.stderr[-5000:]
    return partial(read, folder, ranks=4)


@pytest.fixture(scope="module")
def single():
    """Return what a single process measures on the whole batches, by micro-batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            parts: numbers(train(net(), watched={}, parts=parts)) for parts in (1, 2)
        }
    finally:
        torch.set_num_threads(threads)


def plain_names(values):
    """Return a dict without the prefix of DDP's wrapper."""
    return {name.removeprefix("module."): value for name, value in values.items()}


def same(found, wanted):
    """Whether two trees of numbers are equal to float32 rounding."""
    if isinstance(wanted, dict):
        found = plain_names(found)
        wanted = plain_names(wanted)
        return found.keys() == wanted.keys() and all(
            same(found[key], wanted[key]) for key in wanted
        )
    if isinstance(wanted, list):
        pairs = zip(found, wanted, strict=True)
        return len(found) == len(wanted) and all(same(a, b) for a, b in pairs)
    if wanted is None or found is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=1e-5, abs_tol=1e-9)


def common(found):
    """Return the probes that all ranks took together."""
    return [probe for probe in found["probes"] if probe["rank"] is None]


def assert_global(ranks, wanted, keys=KEYS):
    """What the ranks measured together is what one process measures."""
    for found in ranks:
        assert found["failure"] is None
        assert (found["rank"], found["ranks"]) == (None, len(ranks))
        probes = common(found)
        assert [p["step"] for p in probes[-3:]] == [6, 7, 8]
        by_step = {probe["step"]: probe for probe in wanted["probes"]}
        for probe in probes:
            assert probe["ranks"] == len(ranks)
            for key in keys:
                assert same(probe[key], by_step[probe["step"]][key]), key
    first = [p["step"] for p in ranks[0]["probes"] if p["rank"] is None]
    assert all([p["step"] for p in common(found)] == first for found in ranks)


def alone(found):
    """Whose statistics every probe of a run says it has."""
    return {(probe["rank"], probe["ranks"]) for probe in found["probes"]}


# -- numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddp", "static", "view", "inner", "sharded"])
def test_statistics_are_those_of_one_process(two, single, name):
    """Each rank has the numbers of the whole batch, to rounding, and says so."""
    assert_global(two(name), single[1])


def test_accumulation_gives_the_statistics_of_one_process(two, single):
    """Micro-batches under `no_sync`: only the last one reduces.

    The loss is that of the last micro-batch, which holds other samples here and there.
    """
    assert_global(two("accumulated"), single[2], KEYS[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "sharded"])
def test_statistics_of_four_ranks_are_those_of_one_process(four, single, name):
    """As of two."""
    assert_global(four(name), single[1])


def test_probes_before_the_ranks_met_are_a_rank_s_own(two, single):
    """They say so, and their activation gradients are those of half a batch."""
    for rank, found in enumerate(two("ddp")):
        first = found["probes"][0]
        assert (first["step"], first["rank"], first["ranks"]) == (0, rank, 1)
        assert not same(first["layers"], single[1]["probes"][0]["layers"])
        assert same(first["parameters"], single[1]["probes"][0]["parameters"])


def test_the_comparison_with_one_process_can_fail(single):
    """A number that is off by a thousandth is another number."""
    probe = single[1]["probes"][7]
    off = {name: [grad * 1.001, rms] for name, (grad, rms) in probe["layers"].items()}
    assert same(probe["layers"], probe["layers"])
    assert not same(off, probe["layers"])


@pytest.mark.parametrize(
    "name", ["ddp", "static", "view", "accumulated", "sharded", "rank 0", "rank 1"]
)
def test_training_is_bit_by_bit_the_same(two, name):
    """On every rank, watched or not."""
    assert [found["same"] for found in two(name)] == [True, True]


# -- rhythm ---------------------------------------------------------------------------


def test_there_is_one_collective_a_common_probe(two):
    """No more on any rank."""
    for found in two("counted"):
        assert found["collectives"] == len(common(found)) > 0


def test_ranks_of_different_cost_probe_the_same_steps(two):
    """Rank 0's costs decide for all."""
    first, second = two("rhythm")
    steps = [probe["step"] for probe in common(first)]
    assert steps == [probe["step"] for probe in common(second)]
    assert len(steps) >= 4


def test_a_step_that_the_scaler_skips_is_skipped_by_all(two):
    """An overflow on one rank: the ranks go on together."""
    for found in two("scaled"):
        assert found["failure"] is None
        assert [probe["step"] for probe in common(found)][-4:] == [9, 10, 11, 12]


# -- some ranks only ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rank"), [("rank 0", 0), ("rank 1", 1), ("rank 0 sharded", 0)]
)
def test_one_rank_alone_says_whose_statistics_they_are(two, name, rank):
    """The others neither watch nor wait."""
    found = two(name)[rank]
    assert found["failure"] is None
    assert alone(found) == {(rank, 1)}
    assert ELSEWHERE in found["notes"][0]
    assert "probes" not in two(name)[1 - rank]


@pytest.mark.slow
def test_some_ranks_stay_alone(four):
    """Three of four watch: none of them sums anything."""
    for rank, found in enumerate(four("some")):
        assert found["same"]
        if rank != 1:
            assert alone(found) == {(rank, 1)}
            assert ELSEWHERE in found["notes"][0]


def test_ranks_that_begin_at_different_steps_stay_alone(two):
    """Their clocks differ, so they would wait for each other."""
    for rank, found in enumerate(two("late")):
        assert alone(found) == {(rank, 1)}
        assert len(found["notes"]) == 1


def test_a_run_too_short_to_meet_says_so(two):
    """Three steps."""
    for rank, found in enumerate(two("short")):
        assert alone(found) == {(rank, 1)}
        assert "too short" in found["notes"][0]


def test_a_watch_on_rank_0_does_not_keep_another_from_joining(two):
    """Watches are told apart by what they watch."""
    first, second = two("two models")
    assert (first["first"], first["second"]) == (1, 2)
    assert (second["first"], second["second"]) == (None, 2)


def test_a_sharded_recurrent_net_is_read_on_one_rank(two):
    """No arithmetic with a sharded weight, which the other ranks would have to join."""
    found = two("recurrent")[0]
    assert found["failure"] is None
    assert len(found["probes"]) == 4


# -- ranks that differ ----------------------------------------------------------------


def test_ranks_that_train_models_of_their_own_stay_alone(two):
    """Their gradients differ, so nothing is summed."""
    for rank, found in enumerate(two("apart")):
        assert alone(found) == {(rank, 1)}


@pytest.mark.parametrize("name", ["fully sharded", "split"])
def test_other_ways_to_share_a_model_stay_a_rank_s_own(two, name):
    """What a sum over their ranks would mean is not known."""
    for rank, found in enumerate(two(name)):
        assert found["failure"] is None
        assert alone(found) == {(rank, 1)}
        assert len(found["notes"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "halves"])
def test_a_model_of_a_part_of_the_ranks_stays_a_rank_s_own(four, name):
    """The ranks of the store are not those of the model."""
    for rank, found in enumerate(four(name)):
        assert found["failure"] is None
        assert alone(found) == {(rank, 1)}


def test_ranks_that_stop_reducing_part(two):
    """From the probe on at which their gradients differ."""
    for rank, found in enumerate(two("drifting")):
        assert [p["step"] for p in common(found)][-1] == 11
        assert {p["rank"] for p in found["probes"] if p["step"] >= 12} == {rank}
        assert "gradients differ" in found["notes"][0]


def test_layers_that_ran_on_one_rank_only_are_not_summed(two):
    """Those probes stay a rank's own; the next ones are global again."""
    for rank, found in enumerate(two("uneven")):
        by_step = {probe["step"]: probe["rank"] for probe in found["probes"]}
        assert [by_step[step] for step in range(8, 14)] == [
            *(None, rank, rank),
            *(None, None, None),
        ]


def test_a_nan_on_another_rank_is_found(two):
    """Rank 0's own forward was finite."""
    for found in two("poisoned"):
        assert found["origin"] == ["module.4", "input"]


def test_a_nan_between_probes_is_not_replayed(two):
    """A copy might wait for the other ranks: the report says that it is unknown."""
    for found in two("quiet"):
        where, why = found["origin"]
        assert where == "unknown"
        assert "not replayed" in why


# -- ranks that go --------------------------------------------------------------------


def test_a_watch_that_closes_lets_the_others_go_on(two):
    """At once: they need not wait for the time limit."""
    stays, leaves = two("leaving")
    assert [p["step"] for p in common(leaves)][-1] == 11
    assert {p["rank"] for p in stays["probes"] if p["step"] >= 12} == {0}
    assert "did not come to the probe of step 12" in stays["notes"][0]
    assert stays["seconds"] < 10


@pytest.mark.parametrize(("name", "step"), [("never came", 0), ("stays away", 9)])
def test_a_rank_that_stays_away_ends_only_the_sums(two, name, step):
    """After the time limit, once; two seconds here."""
    waits, _ = two(name)
    assert waits["failure"] is None
    assert 1.5 < waits["seconds"] < 15
    assert {p["rank"] for p in waits["probes"] if p["step"] >= max(step, 7)} == {0}
    assert "nothing came for 2 s" in waits["notes"][0]
    assert waits["probes"][-1]["step"] == 15


def test_a_killed_rank_is_torch_s_own_error_to_the_others(tmp_path):
    """Nothing of ours hangs or hides it."""
    done = launch(tmp_path, 2, str(tmp_path), "die")
    assert done.returncode != 0
    survivor, killed = read(tmp_path, "die", 2)
    assert killed is None
    if survivor is not None:  # else the launcher was quicker
        assert re.search("(?i)connection|peer|gloo", survivor["error"])
        assert survivor["took"] < 30


# -- in a single process --------------------------------------------------------------


def test_a_single_process_asks_for_no_store(single):
    """No world, no handshake, no label."""
    assert alone(single[1]) == {(None, 1)}
    assert single[1]["notes"] == []
