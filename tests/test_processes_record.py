"""Records of several ranks become one: sums against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.processes_record import OwnPart, Terms, alike, layout_of, merge
from gradwatch.records import (
    ActivationRecord,
    ChainRecord,
    LayerRecord,
    ParameterRecord,
    PointRecord,
    StepRecord,
    TimeProfile,
)

numbers = st.floats(1e-20, 1e20)


def record(grad=1.0, **changes):
    """Return a record of one layer, with a gradient and an output."""
    layer = LayerRecord("a", 0, 0, grad_norm=grad, output_rms=2.0, **changes)
    return StepRecord(step=7, layers=(layer,), loss=1.0)


def joined(records, parts=None):
    """Return what each rank makes of the sums of all."""
    parts = parts or [OwnPart()] * len(records)
    collected = []
    for one, part in zip(records, parts, strict=True):
        terms = Terms()
        merge(one, part, terms, len(records))
        collected.append(terms.own)
    totals = [sum(column) for column in zip(*collected, strict=True)]
    return [
        merge(one, part, Terms(totals), len(records))
        for one, part in zip(records, parts, strict=True)
    ]


@given(st.lists(numbers, min_size=2, max_size=5))
def test_activation_gradients_are_those_of_the_mean_loss(norms):
    """Root of the sum of squares over the number of ranks, and the same on each."""
    wanted = math.hypot(*norms) / len(norms)
    for one in joined([record(norm) for norm in norms]):
        assert one.layers[0].grad_norm == pytest.approx(wanted, rel=1e-12)
        assert (one.local_rank, one.ranks) == (None, len(norms))


def test_means_are_weighted_by_samples():
    """A rank with three times the samples counts three times."""
    first, second = record(), record()
    second = replace(second, layers=(replace(second.layers[0], output_rms=4.0),))
    one, _ = joined([first, second], [OwnPart(samples=1.0), OwnPart(samples=3.0)])
    assert one.layers[0].output_rms == pytest.approx(math.sqrt((4 + 3 * 16) / 4))


def test_what_no_rank_knows_stays_unknown_and_what_one_knows_counts():
    """None is not zero."""
    nothing, something = record(None), record(3.0)
    assert joined([nothing, nothing])[0].layers[0].grad_norm is None
    assert joined([nothing, something])[0].layers[0].grad_norm == 1.5


def test_not_finite_on_any_rank_is_not_finite():
    """And the layer is named as its origin."""
    good = record(output_finite=True, input_finite=True)
    bad = record(output_finite=False, input_finite=True)
    for one in joined([good, bad]):
        assert one.layers[0].output_finite is False
        assert (one.non_finite.layer, one.non_finite.where) == ("a", "forward")
    assert joined([good, good])[0].non_finite is None


def test_a_unit_is_dead_if_no_rank_saw_it_active():
    """Masks are compared, not counts."""
    activation = ActivationRecord("a", "relu", num_units=3, dead_units=2)
    both = [StepRecord(7, activations=(activation,))] * 2
    idle = [(True, True, False), (True, False, True)]
    parts = [OwnPart(idle={("a", "relu", 0): mask}) for mask in idle]
    assert joined(both, parts)[0].activations[0].dead_units == 1


def test_shards_add_up_to_the_parameter():
    """Norms and means over all entries, also where a rank has none of them."""
    whole = ParameterRecord("w", "a", 2, 6)
    shards = [
        replace(whole, grad_norm=3.0, weight_rms=1.0, update_ratio=0.1),
        replace(whole, grad_norm=4.0, weight_rms=2.0, update_ratio=0.2),
        whole,
    ]
    records = [StepRecord(7, parameters=(shard,)) for shard in shards]
    parts = [OwnPart(shards={"w": entries}) for entries in (4, 2, 0)]
    for one in joined(records, parts):
        (parameter,) = one.parameters
        assert parameter.grad_norm == pytest.approx(5.0)
        assert parameter.weight_rms == pytest.approx(math.sqrt((4 * 1 + 2 * 4) / 6))
        change = 4 * 0.1**2 + 2 * 0.4**2
        assert parameter.update_ratio == pytest.approx(math.sqrt(change / (4 + 8)))


def test_reduced_parameters_are_taken_as_they_are():
    """DDP has averaged them: a second sum would be wrong."""
    parameter = ParameterRecord("w", "a", 2, 6, grad_norm=3.0)
    both = [StepRecord(7, parameters=(parameter,))] * 2
    assert joined(both)[0].parameters == (parameter,)


def test_chains_and_time_profiles_are_summed_like_layers():
    """They are gradients of activations too."""
    one = StepRecord(
        7,
        chains=(ChainRecord("a", (PointRecord("a", "a", 4.0),)),),
        time_profiles=(TimeProfile("r", "forward", (4.0, 0.0), "replay"),),
    )
    found = joined([one, one, one, one])[0]
    assert found.chains[0].points[0].grad_norm == pytest.approx(2.0)
    assert found.time_profiles[0].norms == pytest.approx((2.0, 0.0))


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=64))
def test_equal_integers_are_told_from_unequal_ones_exactly(values):
    """Every rank finds the same, without rounding."""
    collected = []
    for value in values:
        terms = Terms()
        alike(terms, float(value), 0.0)
        collected.append(terms.own)
    totals = [sum(column) for column in zip(*collected, strict=True)]
    told = {alike(Terms(totals), float(value), 0.0) for value in values}
    assert told == {len(set(values)) == 1}


def test_a_layer_more_is_another_layout():
    """So ranks that ran different layers do not add them up."""
    one, two = record(), record()
    two = replace(two, layers=(*two.layers, LayerRecord("b", 0, 1)))
    assert layout_of(one, OwnPart()) != layout_of(two, OwnPart())
    assert layout_of(one, OwnPart()) == layout_of(record(5.0), OwnPart())
