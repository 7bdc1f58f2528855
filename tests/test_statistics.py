"""Norms, shares and samples: analytic values, traps of precision, odd layouts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch import statistics
from gradwatch.ledger import Ledger
from gradwatch.statistics import (
    active_units,
    applied_update,
    foreach_norms,
    l2_norm,
    plain,
    rescue,
    rms,
    sample_entries,
    sample_parameter,
    sample_signal,
    saturated_share,
    tensors_in,
    zero_share,
)

VALUES = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False, width=32), min_size=1, max_size=40
)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1e-25, torch.float32),
        (1e-38, torch.float32),
        (1e-44, torch.float32),  # a denormal
        (1e-22, torch.float32),
        (3e20, torch.float32),
        (1e17, torch.float32),
        (3e38, torch.float32),
        (1e-200, torch.float64),
        (1e200, torch.float64),
        (6e-8, torch.float16),
        (300.0, torch.float16),
        (60000.0, torch.float16),
        (1e-30, torch.bfloat16),
        (1e30, torch.bfloat16),
        (1.0, torch.bfloat16),
    ],
)
def test_norms_hold_where_squares_leave_the_range(value, dtype):
    """The norm of n equal entries is sqrt(n) times their magnitude."""
    tensor = torch.full((317, 315), value, dtype=dtype)
    exact = float(tensor[0, 0]) * math.sqrt(tensor.numel())
    kept = tensor.clone()
    assert float(l2_norm(tensor)) == pytest.approx(exact, rel=1e-4)
    (fused,) = foreach_norms([tensor])
    assert float(rescue(tensor, fused)) == pytest.approx(exact, rel=1e-4)
    assert float(rms(tensor)) == pytest.approx(float(tensor[0, 0]), rel=1e-4)
    assert torch.equal(tensor, kept)  # read, never changed


@given(VALUES, st.sampled_from([1e-30, 1e-10, 1.0, 1e10, 1e28]))
def test_norms_scale(values, factor):
    """The norm of c x is c times the norm of x, over sixty decades."""
    tensor = torch.tensor(values, dtype=torch.float64)
    scaled = (tensor * factor).float()
    expected = float(torch.linalg.vector_norm(scaled.double()))
    assert float(l2_norm(scaled)) == pytest.approx(expected, rel=1e-5, abs=1e-300)


@given(VALUES)
def test_norms_do_not_depend_on_layout(values):
    """Transposed, expanded, strided and contiguous tensors have one norm."""
    tensor = torch.tensor(values)
    twice = torch.stack([tensor, -tensor])
    expected = math.sqrt(2) * float(tensor.double().norm())
    for view in (twice, twice.t(), twice.t().contiguous(), twice.flip(0)):
        assert float(l2_norm(view)) == pytest.approx(expected, rel=1e-5, abs=1e-30)
    spread = tensor.unsqueeze(0).expand(9, -1)
    expected = 3.0 * float(tensor.double().norm())
    assert float(l2_norm(spread)) == pytest.approx(expected, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_is_not_finite_only_if_an_entry_is_not(bad):
    """NaN stays NaN, infinities stay infinite."""
    tensor = torch.ones(10)
    tensor[3] = bad
    assert not math.isfinite(float(l2_norm(tensor)))
    assert math.isnan(float(l2_norm(tensor))) == math.isnan(bad)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_sparse_complex_and_odd_tensors_become_plain():
    """What is stored is read: coalesced, real, local; the original stays."""
    sparse = torch.sparse_coo_tensor([[0, 0, 2]], [1.0, 2.0, 2.0], (3,))
    entries = plain(sparse)
    assert float(l2_norm(entries)) == pytest.approx(math.sqrt(13.0))
    assert not sparse.is_coalesced()
    rows = torch.eye(4).to_sparse_csr()
    assert float(l2_norm(plain(rows))) == 2.0
    number = torch.tensor([3.0 + 4.0j])
    assert float(l2_norm(plain(number))) == 5.0
    assert float(l2_norm(plain(number.conj()))) == 5.0
    assert float(l2_norm(plain(torch.tensor([1 + 2j]).conj().imag))) == 2.0
    tiny = torch.tensor([2.0, 4.0]).to(torch.float8_e4m3fn)
    assert float(l2_norm(plain(tiny))) == pytest.approx(math.sqrt(20.0))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0),
        torch.ones(3, dtype=torch.long),
        torch.ones(3, dtype=torch.bool),
        torch.empty(3, device="meta"),
        torch.nn.UninitializedParameter(),
    ],
    ids=["empty", "integers", "booleans", "meta", "lazy"],
)
def test_what_holds_no_floating_numbers_is_none(tensor):
    """Nothing to measure is None, not zero."""
    assert plain(tensor) is None


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
def test_nested_tensors_give_their_values():
    """Ragged rows are read through, in both layouts."""
    parts = [torch.ones(2, 3), 2.0 * torch.ones(4, 3)]
    for layout in (torch.jagged, torch.strided):
        nested = torch.nested.as_nested_tensor(parts, layout=layout)
        entries = plain(nested)
        assert float(l2_norm(entries)) == pytest.approx(math.sqrt(6 + 48))


def test_the_fused_norms_keep_the_order():
    """Mixed dtypes come back where they were."""
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16] * 3
    tensors = [torch.full((4,), float(n), dtype=d) for n, d in enumerate(dtypes)]
    norms = [float(norm) for norm in foreach_norms(tensors)]
    assert norms == [2.0 * n for n in range(12)]
    assert foreach_norms([]) == []


def test_the_fused_norms_are_the_plain_ones_where_torch_has_none(monkeypatch):
    """A torch without `_foreach_norm` is served by a loop."""
    tensors = [torch.randn(5), torch.randn(3, 3).bfloat16()]
    expected = [float(norm) for norm in foreach_norms(tensors)]
    monkeypatch.delattr(torch, "_foreach_norm")
    assert [float(n) for n in foreach_norms(tensors)] == pytest.approx(expected)


def test_sample_signal_has_its_analytic_values():
    """0 for equal samples, 1 for zero-mean free ones, in between by variance."""
    torch.manual_seed(0)
    equal = torch.randn(1, 500).expand(16, -1)
    assert float(sample_signal(equal, 16, 0)) == pytest.approx(0.0, abs=1e-3)
    free = torch.randn(64, 4000)
    assert float(sample_signal(free, 64, 0)) == pytest.approx(1.0, abs=0.02)
    mixed = free + 3.0  # variance 1, mean square 10
    assert float(sample_signal(mixed, 64, 0)) == pytest.approx(math.sqrt(0.1), abs=0.01)
    time_first = free.reshape(64, 40, 100).transpose(0, 1)
    assert float(sample_signal(time_first, 64, 1)) == pytest.approx(1.0, abs=0.02)
    flattened = free.reshape(640, 400)
    assert float(sample_signal(flattened, 64, 0)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("shape", "batch", "dim"), [((1, 5), 1, 0), ((5,), 5, 1), ((7, 5), 3, 0)]
)
def test_sample_signal_says_when_it_cannot_know(shape, batch, dim):
    """One sample, no such axis, no multiple of the batch."""
    assert sample_signal(torch.randn(shape), batch, dim) is None


@given(st.floats(1e-6, 1e6))
def test_sample_signal_is_free_of_scale(factor):
    """Multiplying all outputs changes nothing."""
    rows = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)) + 1.0
    expected = float(sample_signal(rows, 8, 0))
    assert float(sample_signal(rows * factor, 8, 0)) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize("shift", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sample_signal_is_the_one_of_its_definition(shift, dtype):
    """Variance over samples and mean square in float64, of the same numbers."""
    torch.manual_seed(0)
    out = (torch.randn(100, 7, 30) + shift).to(dtype)
    rows = out.double().reshape(100, -1)[:64]
    exact = (rows.var(0, correction=0).mean() / rows.square().mean()).sqrt()
    found = float(sample_signal(out, 100, 0))
    assert found == pytest.approx(float(exact), rel=1e-4)


def test_a_zero_output_has_no_sample_signal_left():
    """Neither a difference between samples nor a division by zero."""
    assert float(sample_signal(torch.zeros(4, 9), 4, 0)) == 0.0


@pytest.mark.parametrize("dim", range(-4, 4))
def test_units_are_active_if_any_entry_of_theirs_is(dim):
    """Against a loop, for every axis; a NaN is not activity."""
    torch.manual_seed(0)
    out = torch.relu(torch.randn(3, 4, 2, 5) - 1.5)
    rows = out.movedim(dim, 0)
    assert active_units(out, dim).tolist() == [bool((row > 0).any()) for row in rows]
    assert active_units(torch.tensor([0.0, 2.0, math.nan]), -1).tolist() == [
        False,
        True,
        False,
    ]


def test_shares_and_units_are_counted():
    """Zeros, saturated outputs, and units that were ever active."""
    out = torch.tensor([[0.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    assert float(zero_share(out)) == pytest.approx(4 / 6)
    odd = torch.tensor([0.0, -0.0, math.nan, -1e-45])
    assert float(zero_share(odd)) == pytest.approx(1 / 2)
    assert active_units(out, -1).tolist() == [False, True, True]
    assert active_units(out, 0).tolist() == [True, True]
    tanh = torch.tensor([0.5, -0.995, 0.999, -1.0])
    assert float(saturated_share(tanh, "tanh", 0.99, 0.01)) == 0.75
    sigmoid = torch.tensor([0.5, 0.001, 0.999, 0.02])
    assert float(saturated_share(sigmoid, "sigmoid", 0.99, 0.01)) == 0.5
    assert float(zero_share(torch.zeros(4).bfloat16())) == 1.0


@pytest.mark.parametrize(
    "shape", [(4097,), (8191,), (70, 128), (64, 64, 3), (513, 511)]
)
def test_a_sample_reaches_every_row_and_column(shape):
    """At most the limit, no entry twice, no row, column or end left out."""
    tensor = torch.arange(math.prod(shape)).reshape(shape).float()
    entries = sample_entries(tensor, 4096)
    assert 2048 <= entries.numel() <= 4096
    assert entries.unique().numel() == entries.numel()
    assert float(entries.max()) > 0.99 * tensor.numel()
    if len(shape) == 2:
        assert (entries % shape[1]).unique().numel() == shape[1]
        assert (entries // shape[1]).unique().numel() > 0.99 * shape[0]


def test_small_tensors_are_read_whole():
    """Up to the limit every entry counts, and nothing is copied."""
    tensor = torch.randn(64, 64)
    assert sample_entries(tensor, 4096).data_ptr() == tensor.data_ptr()


@given(st.floats(-0.5, 0.5), st.sampled_from([(10,), (100, 90)]))
def test_a_uniform_update_is_measured_exactly(rate, shape):
    """W -> (1 + r) W has the ratio |r|, sampled or not."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    before = sample_parameter(weight, 4096)
    after = weight * (1.0 + rate)
    ratio = float(applied_update(before, after, 4096).norm()) / float(before.norm)
    assert ratio == pytest.approx(abs(rate), rel=1e-9, abs=1e-12)


def test_an_update_of_a_replaced_parameter_is_not_measured():
    """Another shape, or nothing to read, gives None."""
    before = sample_parameter(torch.ones(10), 4096)
    assert applied_update(before, torch.ones(11), 4096) is None
    assert applied_update(before, torch.empty(0), 4096) is None
    assert sample_parameter(torch.ones(3, dtype=torch.long), 4096) is None


def test_a_ledger_returns_what_was_booked():
    """Vectors and scalars of any dtype, in one transfer; None stays None."""
    ledger = Ledger()
    first = ledger.add(torch.tensor(1.5))
    nothing = ledger.add(None)
    second = ledger.add(torch.tensor([2, 3], dtype=torch.int32))
    third = ledger.add(torch.tensor(True))
    empty = ledger.add(torch.empty(0))
    pending = ledger.transfer()
    assert pending.ready()
    assert pending.get(first) == 1.5
    assert nothing is None
    assert pending.get(nothing) is None
    assert pending.get_all(second) == [2.0, 3.0]
    assert pending.get(third) == 1.0
    assert pending.get(empty) is None
    assert Ledger().transfer().get(None) is None


def test_tensors_are_found_in_what_modules_return():
    """Tuples, mappings, dataclasses and packed sequences, not endlessly deep."""
    a, b = torch.ones(1), torch.zeros(2)
    packed = torch.nn.utils.rnn.pack_sequence([b])
    value = (a, {"x": [b, None, "text"]}, packed, statistics.Sampled(a, b), 3)
    assert len(list(tensors_in(value))) == 5
    deep = [a]
    for _ in range(6):
        deep = [deep]
    assert list(tensors_in(deep)) == []
