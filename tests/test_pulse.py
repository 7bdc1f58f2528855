"""One cheap look at all gradients: norms, clip factor, zero runs."""

import math

import pytest
import torch
from torch import nn

from gradwatch.pulse import PulseReader


def parameters(*shapes):
    """Return parameters with random gradients."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return made


def read(reader, between=lambda: None):
    """Return the norms of one step."""
    reader.read_backward_end()
    between()
    reading = reader.read_step()
    reading.pending = reading.ledger.transfer()
    return reading.norms()


def total(made):
    """Return the global norm."""
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in made))


@pytest.mark.parametrize("factor", [1.0, 0.1, 1e-6, 65536.0])
def test_one_factor_for_all_is_the_clip_factor(factor):
    """Whatever was done to all gradients between backward and step."""
    made = parameters((3, 4), (5,), (2, 2), (7,))
    before = total(made)

    def clip():
        for parameter in made:
            parameter.grad.mul_(factor)

    first, after, found = read(PulseReader(made), clip)
    assert first == pytest.approx(before, rel=1e-6)
    assert after == pytest.approx(before * factor, rel=1e-5)
    assert found == pytest.approx(factor, rel=1e-5)


def test_clipping_by_value_is_not_called_a_factor():
    """Gradients that changed by several factors have none."""
    made = parameters((3, 4), (5,), (2, 2), (7,))

    def clip():
        made[0].grad.clamp_(-0.01, 0.01)

    assert read(PulseReader(made), clip)[2] is None


def test_without_an_end_of_backward_the_step_is_read():
    """Then the norm before clipping is not known to differ."""
    made = parameters((3, 4), (5,))
    reader = PulseReader(made)
    reading = reader.read_step()
    reading.pending = reading.ledger.transfer()
    first, after, factor = reading.norms()
    assert reading.at_step
    assert first == after == pytest.approx(total(made), rel=1e-6)
    assert factor is None


def test_no_gradient_no_pulse():
    """A step without gradients is none to speak of."""
    made = parameters((3, 4))
    made[0].grad = None
    reader = PulseReader(made)
    reader.read_backward_end()
    assert not reader.waiting
    assert reader.read_step() is None
    assert PulseReader([]).read_step() is None


@pytest.mark.parametrize("value", [1e-28, 1e-25, 1e25, 3e30])
def test_pulses_hold_where_squares_leave_the_range(value):
    """Tiny gradients are not zero, huge ones not infinite."""
    made = parameters((30, 40), (5,))
    for parameter in made:
        parameter.grad = torch.full_like(parameter, value)
    reader = PulseReader(made)
    first, _, factor = read(reader)
    assert first == pytest.approx(value * math.sqrt(1205), rel=1e-4)
    assert factor == pytest.approx(1.0, rel=1e-4)
    assert reader.zero_run.tolist() == [0, 0]


def test_steps_with_exactly_zero_gradients_are_counted():
    """In a row, per parameter; a missing gradient starts anew."""
    made = parameters((3,), (4,), (5,))
    reader = PulseReader(made)
    made[1].grad.zero_()
    for _ in range(3):
        read(reader)
    assert reader.zero_run.tolist() == [0, 3, 0]
    made[2].grad = None
    read(reader)
    assert reader.zero_run.tolist() == [0, 4, 0]
    made[1].grad = torch.ones(4)
    read(reader)
    assert reader.zero_run.tolist() == [0, 0, 0]


def test_steps_between_two_pulses_that_found_zero_count_too():
    """Those before the first one do not: nobody saw them."""
    made = parameters((3,), (4,), (5,))
    reader = PulseReader(made)
    made[1].grad.zero_()
    for elapsed in (10, 10, 7):
        reader.read_step(elapsed)
    assert reader.zero_run.tolist() == [0, 1 + 10 + 7, 0]
    made[2].grad = None
    reader.read_step(4)
    assert reader.zero_run.tolist() == [0, 22, 0]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_sparse_and_complex_gradients_count():
    """Uncoalesced rows are summed first."""
    table = nn.Parameter(torch.zeros(4, 2))
    table.grad = torch.sparse_coo_tensor([[1, 1]], [[3.0, 0.0], [0.0, 4.0]], (4, 2))
    number = nn.Parameter(torch.zeros(1, dtype=torch.cfloat))
    number.grad = torch.tensor([12.0j])
    assert read(PulseReader([table, number]))[0] == pytest.approx(13.0)


def test_a_reader_keeps_no_parameter_alive():
    """A parameter that is gone is no longer read."""
    made = parameters((3,), (4,))
    reader = PulseReader(made)
    expected = float(made[0].grad.norm())
    del made[1]
    assert read(reader)[0] == pytest.approx(expected)
