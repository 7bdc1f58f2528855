"""How rules put numbers and layers into words."""

import math

import pytest

from gradwatch.rules.wording import (
    amount,
    because,
    joined,
    named,
    only,
    relative,
    share_left,
    some,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (5.12e-6, "5.12e-6"),
        (0.0512, "0.0512"),
        (12.34, "12.3"),
        (1234.0, "1,230"),
        (99_960.0, "100,000"),
        (1.01e22, "1.01e22"),
        (math.inf, "inf"),
    ],
)
def test_numbers_stay_short(value, text):
    """No digits that nobody reads, and no plus in the exponent."""
    assert amount(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(378.0, 2, "380"), (99.6, 2, "100"), (38.4, 1, "40"), (3.78, 2, "3.8")],
)
def test_ordinary_numbers_are_no_powers_of_ten(value, digits, text):
    """However few of their digits count."""
    assert amount(value, digits) == text


def test_ratios_are_shares_or_multiples():
    """From ten times on nobody wants percent."""
    assert relative(0.2, "its size") == "20% of its size"
    assert relative(9.5, "its size") == "950% of its size"
    assert relative(1e22, "its size") == "1e22 times its size"


def test_small_shares_are_not_rounded_to_nothing():
    """Only an exact zero is zero."""
    assert [only(s) for s in (0.0, 5.9e-8, 0.004)] == [
        "0%",
        "less than 0.1%",
        "only 0.4%",
    ]


def test_names_that_are_numbers_read_as_layers():
    """As in a Sequential, also one in another, and its joins."""
    assert [named(n) for n in ("22", "0.2", "3 (sum)", "fc1", "net.0")] == [
        "layer 22",
        "layer 0.2",
        "layer 3 (sum)",
        "fc1",
        "net.0",
    ]


def test_the_root_module_has_a_name_too():
    """PyTorch calls it by the empty string, which no sentence can hold."""
    assert named("") == "(model)"
    assert some(["", "fc"]) == "(model) and fc"


def test_a_horizon_is_said_in_whole_steps_and_never_none():
    """Small shares keep their digits, and less than one step is one with less left."""
    assert share_left(0.01, 8.81) == ("1%", 9)
    assert share_left(0.001, 1.2) == ("0.1%", 1)
    assert share_left(0.01, 0.4) == ("less than 1%", 1)


def test_lists_read_as_in_a_sentence():
    """Commas, and one `and`."""
    assert [joined(list("abc")[:n]) for n in range(4)] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert some(["0", "2", "4", "6", "8"]) == "layer 0, layer 2, layer 4 and 2 more"
    assert some([]) == "no layer"
    assert because(["it rains", "it snows"]) == "; it rains and it snows"
    assert because([]) == ""
