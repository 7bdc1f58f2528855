"""The fault bench keeps its promises: enough set-ups, all rows, labels in step."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

pytest.importorskip("sklearn")

from benchmarks.faults import labels
from benchmarks.faults.catalogue import FAMILIES, HELD_OUT_FAMILIES, SETUPS
from benchmarks.faults.labels import judge, label_all
from benchmarks.faults.scoring import Verdict, score, wilson
from benchmarks.faults.setups import HEALTHY, VANISHES, VANISHING, SetUp
from benchmarks.faults.training import rescale, train

# The rows of facts B2, "Where false positives arise", each by its own words.
ROWS = {
    "zero-init head",
    "zero-init residual branch",
    "scaled loss",
    "frozen prefix",
    "unused head or untouched experts",
    "sparse embedding",
    "converged net",
    "funnel",
    "long RNN",
    "unnormalised BN stream",
    "biases and norm gains",
    "separate q/k/v or encoder-decoder",
    "LayerScale or ReZero",
    "mean pool before the head",
    "norm-free U-Net",
    "sequence ends and cells",
    "Adam rescue",
    "warm-up",
    "tied or reused modules",
}


def test_there_are_enough_set_ups_in_each_of_eight_families():
    """At least 80 in all and 5 a family."""
    counts = Counter(setup.family for setup in SETUPS)
    assert len(SETUPS) >= 80
    assert len(counts) == 8
    assert min(counts.values()) >= 5


def test_names_are_unique():
    """A label belongs to one set-up."""
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)


def test_every_row_of_the_false_positive_table_has_a_set_up_that_trains():
    """All but `Adam rescue`, which is latent by definition, are labelled healthy."""
    known = labels.load()
    present = {setup.hard_negative for setup in SETUPS} - {None}
    trained = {s.hard_negative for s in SETUPS if known[s.name].label == "healthy"}
    assert present == ROWS
    assert trained - {None} == ROWS - {"Adam rescue"}


def test_labels_belong_to_the_set_ups_and_few_are_not_scored():
    """At most 15 % are borderline or latent."""
    known = labels.load()
    assert set(known) == {setup.name for setup in SETUPS}
    unscored = sum(not outcome.scored for outcome in known.values())
    assert unscored <= 0.15 * len(SETUPS)


def test_scored_set_ups_are_balanced():
    """Neither label is rarer than a third."""
    counts = Counter(outcome.label for outcome in labels.load().values())
    assert min(counts["sick"], counts["healthy"]) >= len(SETUPS) / 3


def test_a_third_of_the_set_ups_is_held_out_in_whole_families():
    """Held-out families exist and make up at least a third."""
    held_out = [setup for setup in SETUPS if setup.family in HELD_OUT_FAMILIES]
    assert set(FAMILIES) > HELD_OUT_FAMILIES
    assert len(held_out) >= len(SETUPS) / 3


@pytest.mark.parametrize(
    ("intended", "values", "label"),
    [
        (HEALTHY, (0.9, 0.8, 0.1), "healthy"),
        (HEALTHY, (0.9, 0.5, 0.5), "borderline"),
        (HEALTHY, (0.9, 0.2, 0.1), "latent"),
        (VANISHING, (0.2, 0.0, 0.9), "sick"),
        (VANISHING, (None, None, 0.9), "sick"),
        (VANISHING, (0.9, 0.8, 0.9), "latent"),
        (VANISHING, (0.2, 0.4, 0.4), "borderline"),
        (VANISHING, (-300.0, -2.0, 0.5), "sick"),
    ],
)
def test_the_label_follows_the_outcome_of_two_seeds_of_three(intended, values, label):
    """Sick below .3, healthy above .7, latent where theory says otherwise."""
    assert judge(intended, values, worst=1.0).label == label


def _set_up(name: str, intended: str = HEALTHY) -> SetUp:
    accepted = frozenset() if intended == HEALTHY else VANISHES
    return SetUp(name, "mlp", "digits", intended, accepted, SETUPS[0].build)


def test_progress_is_measured_from_chance_to_the_best_healthy_reference():
    """A sick set-up's low loss is no reference; the best healthy one's median is."""
    setups = [_set_up("mlp-a"), _set_up("mlp-b"), _set_up("mlp-c", VANISHING)]
    losses = {"mlp-a": [0.5, 0.4, 0.6], "mlp-b": [1.0] * 3, "mlp-c": [0.1] * 3}
    outcomes = label_all(setups, losses, {"digits": 2.5})
    assert outcomes["mlp-a"].progress == (1.0, 1.05, 0.95)
    assert outcomes["mlp-b"].progress == (0.75, 0.75, 0.75)
    assert outcomes["mlp-c"].label == "latent"


def test_the_final_loss_is_the_mean_of_the_last_twenty():
    """One NaN anywhere makes the run a broken one."""
    assert labels.final_loss([9.0] * 30 + [1.0, 3.0] * 10) == pytest.approx(2.0)
    assert labels.final_loss([1.0, float("nan"), 1.0]) is None


def test_a_seed_that_ends_against_its_label_is_not_scored():
    """It can be neither a miss nor a false alarm."""
    outcome = labels.Outcome("sick", "", (0.1, 0.2, 0.9), (2.0, 2.0, 0.3))
    setup = _set_up("mlp-a", VANISHING)
    verdicts = [Verdict(setup, s, outcome, frozenset({VANISHING})) for s in range(3)]
    counted = score(verdicts)
    assert (counted.sick, counted.found, counted.right, counted.false) == (2, 2, 2, 0)


def test_the_wilson_interval_has_its_published_values():
    """Of 10 in 10 and 0 in 10: 1 / (1 + z² / n) and its mirror image."""
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize("name", ["mlp-warm-up", "rnn-gru-rows", "moe-top-2-of-8"])
def test_a_scaled_loss_leaves_the_training_as_it_is(name):
    """Learning rate and epsilon make up for the factor; 1024 makes it exact."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    setup = next(setup for setup in SETUPS if setup.name == name)
    try:
        plain = train(setup.build(0), 12)
        scaled = train(rescale(setup.build(0), 1024.0), 12)
    finally:
        torch.set_num_threads(threads)
    assert scaled == pytest.approx(plain, rel=1e-4)
