"""The zoo of published architectures: what it holds, and that it trains."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.published.architecture import Architecture
from benchmarks.published.data import label_entropy
from benchmarks.published.rates import ADAMW_RATES, SGD_RATES
from benchmarks.published.run import run_one, summary, table
from benchmarks.published.training import Run, differing_entries, train, trains
from benchmarks.published.zoo import ZOO, by_name

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed",
)
# One a modality, the cheapest to import and train.
SAMPLE = ("bert", "gpt2", "vit", "wav2vec2")


def test_the_zoo_is_large_enough_and_names_are_unique() -> None:
    """At least 40 architectures with distinct, well-formed names."""
    names = [architecture.name for architecture in ZOO]
    assert len(names) >= 40
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_text_vision_and_audio_are_all_represented() -> None:
    """Every modality that the issue asks for has several architectures."""
    for modality in ("text-encoder", "decoder", "moe", "seq2seq", "vision", "audio"):
        assert sum(a.modality == modality for a in ZOO) >= 4, modality


def test_every_learning_rate_belongs_to_an_architecture() -> None:
    """A renamed architecture must not silently lose its learning rate."""
    names = {architecture.name for architecture in ZOO}
    assert set(ADAMW_RATES) <= names
    assert set(SGD_RATES) <= names


def test_an_unknown_name_is_refused() -> None:
    """The message names what is not in the zoo."""
    with pytest.raises(ValueError, match="no-such-net"):
        by_name(["no-such-net"])


@pytest.mark.parametrize("architecture", ZOO, ids=lambda a: a.name)
def test_batches_repeat_and_leave_the_global_generator_alone(
    architecture: Architecture,
) -> None:
    """The same seed and step give the same batch; torch's generator is not drawn."""
    before = torch.get_rng_state()
    first, again = architecture.batch(3, 5), architecture.batch(3, 5)
    assert torch.equal(before, torch.get_rng_state())
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again[key])
            assert len(value) >= 8
        else:
            assert value == again[key]


@needs_transformers
@pytest.mark.parametrize("name", SAMPLE)
def test_it_builds_and_back_propagates(name: str) -> None:
    """Two steps change weights and give finite losses; a second run repeats them."""
    (architecture,) = by_name([name])
    run = train(architecture, "adamw", num_steps=2)
    assert len(run.losses) == 2
    assert all(map(math.isfinite, run.losses))
    assert any(p.grad is not None and p.grad.any() for p in run.model.parameters())
    again = train(architecture, "adamw", num_steps=2)
    assert differing_entries(run.state, again.state) == ()


def _run(*losses: float, state: dict[str, object] | None = None) -> Run:
    """Return a run by hand."""
    return Run(losses, state or {}, 0.0, torch.nn.Identity())


@pytest.mark.parametrize(
    ("run", "chance", "expected"),
    [
        pytest.param(_run(*[2.0] * 4, *[1.0] * 4), 1.4, True, id="falls"),
        pytest.param(_run(*[2.0] * 4, *[1.95] * 4), 9.0, False, id="flat"),
        pytest.param(_run(*[2.0] * 4, *[1.38] * 4), 1.386, False, id="collapsed"),
        pytest.param(_run(*[2.0] * 4, *[1.38] * 4), math.inf, True, id="unknown"),
        pytest.param(_run(2.0, math.nan, *[1.0] * 6), 1.4, False, id="nan"),
        pytest.param(
            _run(
                *[2.0] * 4,
                *[1.0] * 4,
                state={"parameter w": torch.tensor([math.inf])},
            ),
            1.4,
            False,
            id="infinite-weight",
        ),
    ],
)
def test_a_run_trains_if_its_loss_falls_below_the_first_and_below_chance(
    run: Run, chance: float, expected: bool
) -> None:
    """Both limits count, and everything must be finite."""
    assert trains(run, chance) is expected


def test_states_differ_by_one_bit_but_not_by_a_shared_nan() -> None:
    """The comparison is exact, yet takes NaN for equal to NaN."""
    value = torch.tensor([1.0, math.nan])
    other = torch.tensor([math.nextafter(1.0, 2.0), 1.0], dtype=torch.float64)
    assert differing_entries({"a": value}, {"a": value.clone()}) == ()
    assert differing_entries({"a": other}, {"a": other.round()}) == ("a",)
    assert differing_entries({"a": value}, {}) == ("a",)


def test_chance_is_the_entropy_of_integer_labels() -> None:
    """Four balanced classes: log 4; ignored labels do not count; floats: unknown."""
    labels = torch.tensor([0, 1, 2, 3, -100])
    assert label_entropy([{"labels": labels}]) == pytest.approx(math.log(4))
    assert label_entropy([{"labels": labels.float()}]) is None


def _fake_gradwatch(*, disturb: bool) -> ModuleType:
    """Return a stand-in that raises one alarm and may draw from torch's generator."""
    evidence = SimpleNamespace(
        quantity="D", value=4.0, unit="decades", limit=2.0, steps=(0, 2)
    )
    finding = SimpleNamespace(
        code="GW101",
        severity=2,
        confidence=2,
        layers=("bert",),
        evidence=(evidence,),
        message="",
    )

    @contextlib.contextmanager
    def watch(model: torch.nn.Module, console: str | None) -> Iterator[Any]:
        if disturb:
            torch.rand(1)
        layers = [
            SimpleNamespace(name=name, coverage="observed")
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        report = SimpleNamespace(
            health="vanishing",
            findings=(finding,),
            cleared=(finding,),
            layers=layers,
            chains=[
                SimpleNamespace(decades=decades, structure_known=True)
                for decades in (1.0, None, -4.0)
            ],
            overhead=SimpleNamespace(share=None),
            run=SimpleNamespace(notes=()),
        )
        yield SimpleNamespace(report=lambda: report)

    module = ModuleType("gradwatch")
    module.watch = watch  # type: ignore[attr-defined]
    return module


@needs_transformers
@pytest.mark.parametrize("disturb", [False, True], ids=["harmless", "draws"])
def test_the_runner_reports_alarms_coverage_and_any_disturbance(
    monkeypatch: pytest.MonkeyPatch, disturb: bool
) -> None:
    """With a stand-in for gradwatch that alarms, and draws a random number or not."""
    monkeypatch.setitem(sys.modules, "gradwatch", _fake_gradwatch(disturb=disturb))
    result = run_one("bert", "adamw", 0, plain=False)
    assert result.error == ""
    assert result.trains
    assert result.alarms == ("GW101",)
    assert result.notes == ("(GW101)",)
    assert result.failed
    assert bool(result.differing) is disturb
    assert result.reading is not None
    assert result.reading.observed_weight_layers == result.reading.weight_layers > 18
    assert result.reading.decades == -4.0
    assert "| GW101 | (GW101) | -4.00 |" in table([result])
    assert "Alarms on scored runs that train: 1 of 1" in summary([result], 1.0)
