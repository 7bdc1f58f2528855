"""Code in the user's terms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradwatch.remedies.initialisers import HE, XAVIER
from gradwatch.remedies.snippets import (
    drawn,
    each,
    keys_known,
    names,
    path,
    place_of,
    quoted,
    replaced,
)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("fc1", "model.fc1"),
        ("blocks.0.conv2", "model.blocks[0].conv2"),
        ("0", "model[0]"),
        ("", "model"),
        ("my-layer", 'model.get_submodule("my-layer")'),
        ("a.class", 'model.get_submodule("a.class")'),
        ("007", 'model.get_submodule("007")'),
        ('a"\n', "model.get_submodule('a\"\\n')"),
    ],
)
def test_a_path_is_written_as_a_user_would(layer, expected):
    """Numbers are indices."""
    assert path(layer) == expected


def test_a_number_that_is_a_key_is_written_as_one():
    """`model.d[0]` is an error where `d` is an `nn.ModuleDict`."""
    model = nn.Module()
    model.d = nn.ModuleDict({"0": nn.ModuleList([nn.ReLU(), nn.Linear(2, 2)])})
    with keys_known(["d.0"]):
        assert path("d.0.1") == 'model.d["0"][1]'
        assert eval(path("d.0.1")) is model.d["0"][1]
        exec(replaced(["d.0"], "nn.Identity()"))
    assert isinstance(model.d["0"], nn.Identity)
    assert path("d.0") == "model.d[0]"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["a", "b"], '["a", "b"]'),
        ([f"fc{i}" for i in range(1, 11)], '[f"fc{i}" for i in range(1, 11)]'),
        (["0", "2", "4", "6"], '[f"{i}" for i in range(0, 7, 2)]'),
        ([f"b.{i}.up" for i in range(4)], '[f"b.{i}.up" for i in range(4)]'),
    ],
)
def test_names_that_count_up_are_written_short(layers, expected):
    """A comprehension; other lists are spelled out."""
    assert names(layers) == expected


NAMES = st.lists(
    st.from_regex(r"[a-z]{1,3}[0-9]{0,2}(\.[0-9]{1,2})?", fullmatch=True), min_size=1
)


@given(NAMES)
def test_the_expression_of_names_is_the_list(layers):
    """Whatever the names are."""
    assert eval(names(layers)) == layers


@given(st.lists(st.text(), min_size=1, max_size=12) | st.just(["{x} y0" * 9] * 5))
def test_the_expression_of_odd_names_is_the_list(layers):
    """Quotes, braces, spaces, line breaks: the code holds them as text."""
    assert eval(names(layers)) == layers
    assert eval(quoted(layers[0])) == layers[0]
    assert "\n" not in place_of(layers[0])


@pytest.mark.parametrize("name", ["my-layer", "class", "it's", 'a"b', "two words"])
def test_a_module_of_any_name_is_replaced(name):
    """The code is Python and puts the module there."""
    model = nn.Module()
    model.inner = nn.ModuleDict({name: nn.Tanh()})
    exec(replaced([f"inner.{name}"], "nn.ReLU()"), {"model": model, "nn": nn})
    assert isinstance(model.inner[name], nn.ReLU)


@given(st.integers(0, 30), st.integers(1, 4), st.integers(4, 9))
def test_runs_of_names_are_the_list_too(first, step, count):
    """Written as a comprehension, in the middle of a name."""
    layers = [f"net.l{first + step * i}x.conv" for i in range(count)]
    text = names(layers)
    assert "range" in text
    assert eval(text) == layers


def test_one_layer_needs_no_loop():
    """Two lines, with the user's path."""
    text = each(["blocks.0.up"], ["nn.init.zeros_(layer.weight)"])
    assert text == "layer = model.blocks[0].up\nnn.init.zeros_(layer.weight)"
    assert replaced(["act"], "nn.ReLU()") == "model.act = nn.ReLU()"


def test_layers_are_grouped_by_what_draws_them():
    """One loop each; the code runs, layers without bias included."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=i > 1) for i in range(4)))
    code = drawn({"0": HE, "1": XAVIER, "2": HE, "3": XAVIER})
    assert code.count("for name in") == 2
    exec(code, {"model": model, "nn": nn})
    assert float(model[3].bias.detach().abs().max()) == 0.0
