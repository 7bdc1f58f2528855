"""The zoo of image models: it back-propagates, and its trunks are what they should."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

import gradwatch
from benchmarks.images.run import Result, run_one, summary, table
from benchmarks.images.zoo import MODELS, Model, by_name
from gradwatch.records import ChainRecord
from gradwatch.structure import Role, Structure

DENSE = [
    ["features.conv0"],
    *([f"features.denseblock{n}", f"features.transition{n}.conv"] for n in range(1, 4)),
    ["features.denseblock4"],
]
VGG = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
STAGES = [(0, 4), (1, 8), (2, 4)]

#: Every trunk by name, source first; `(sum)` marks a join without a module's name.
TRUNKS = {
    # Each layer of a plain chain. The pooling is to the size the tensor already has.
    "vgg16": [*(f"features.{n}" for n in VGG), "classifier.0", "classifier.3"],
    # The residual stream.
    "resnet18": ["conv1", *(f"layer{s}.{n}" for s in range(1, 5) for n in range(2))],
    # Block outputs: within a block every layer is bypassed by a concatenation.
    "densenet121": list(itertools.chain(*DENSE)),
    # What no skip connection bypasses.
    "unet": [
        "inc.double_conv.0",
        "inc.double_conv.2",
        "up3 (sum)",
        "conv3.double_conv.0",
        "conv3.double_conv.2",
    ],
    "vit": [
        "conv_proj",
        *itertools.chain(
            *([f"encoder.{n}.self_attention (sum)", f"encoder.{n}"] for n in range(6))
        ),
    ],
    # Concatenation, then shuffled channels: the unit's output is the join.
    "shufflenet-v2": [
        "conv1.0",
        *(f"stages.{stage}.{n}" for stage, count in STAGES for n in range(count)),
        "conv5.0",
    ],
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _watched(name: str, steps: int = 1) -> tuple[list[ChainRecord], Structure]:
    """Train a few steps; return the chains of the first probe and the structure."""
    (model,) = by_name([name])
    torch.manual_seed(0)
    net = model.build().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    with gradwatch.watch(net, console=None) as watch:
        for step in range(steps):
            inputs, target = model.batch(step)
            optimizer.zero_grad()
            model.loss(net(*inputs), target).backward()
            optimizer.step()
    return list(watch.history.probes[0].chains), watch.structure


def _labels(chain: ChainRecord) -> list[str]:
    return [point.label for point in chain.points]


def test_names_are_unique_and_there_are_many() -> None:
    """A hundred runs and more: every model with both optimizers."""
    names = [model.name for model in MODELS]
    assert len(names) == len(set(names)) >= 70


def test_an_unknown_name_is_refused() -> None:
    """The message names what is not in the zoo."""
    with pytest.raises(ValueError, match="no-such-net"):
        by_name(["no-such-net"])


@pytest.mark.parametrize("name", TRUNKS)
def test_the_trunk_is_what_every_gradient_path_passes(name: str) -> None:
    """Point by point, by name; every weight layer called is observed."""
    chains, structure = _watched(name)
    assert [_labels(chain) for chain in chains] == [TRUNKS[name]]
    roles = {n: structure.role(n) for n in TRUNKS[name] if n in structure.layers}
    assert set(roles.values()) == {Role.TRUNK}


def test_each_output_has_a_stretch_of_its_own() -> None:
    """Auxiliary heads cut the trunk; what stands above them is not lost."""
    chains, structure = _watched("googlenet")
    assert [_labels(chain) for chain in chains] == [
        [
            "conv1.conv",
            "conv2.conv",
            "conv3.conv",
            "inception3a",
            "inception3b",
            "inception4a",
        ],
        ["inception4b", "inception4c", "inception4d"],
        ["inception4e", "inception5a", "inception5b"],
    ]
    assert set(structure.heads) == {"aux1.fc2", "aux2.fc2", "fc"}


def test_two_encoders_of_one_image_are_two_streams() -> None:
    """They exchange tokens, so that they share no point."""
    chains, _ = _watched("crossvit")
    assert {chain.source for chain in chains} == {
        "patch_embed.0.proj",
        "patch_embed.1.proj",
    }


@pytest.mark.parametrize("name", ["beit", "swin-torchvision"])
def test_weights_handed_to_a_function_are_observed(name: str) -> None:
    """`F.linear(x, self.qkv.weight)` calls no module; a bias table is no weight."""
    _, structure = _watched(name)
    projections = [n for n in structure.layers if n.endswith("attn.qkv")]
    assert projections
    assert all(structure.role(n) is Role.BRANCH for n in projections)
    assert all(structure.layers[n].order >= 0 for n in projections)
    assert not any(
        info.is_weight for info in structure.layers.values() if "Attention" in info.kind
    )


def test_a_net_that_trains_raises_no_alarm_and_is_not_disturbed() -> None:
    """Thirty steps with and without, down to the last bit."""
    (model,) = by_name(["vit-gap"])
    result = run_one(model, "adamw")
    assert result.error == ""
    assert result.trains
    assert result.identical
    assert result.alarms == []
    assert result.observed[0] == result.observed[1] > 20


def test_the_table_and_its_summary_count_alarms_of_nets_that_train() -> None:
    """Only those are false; an alarm on a net that does not train is not."""
    runs = [
        Result("a", "sgd", trains=True, alarms=["GW101"]),
        Result("b", "sgd", trains=False, alarms=["GW205"]),
    ]
    assert "| GW101 |" in table(runs)
    assert "1 of 1 ({'GW101': 1}): a (sgd)" in summary(runs)


def test_every_batch_repeats_and_leaves_the_global_generator_alone() -> None:
    """Else runs with and without gradwatch would differ for a reason of their own."""
    for batch in {model.batch for model in _one_a_loss()}:
        before = torch.get_rng_state()
        (first, *_), target = batch(1)
        (again, *_), same = batch(5)
        assert torch.equal(first, again)
        assert torch.equal(target, same)
        assert torch.equal(before, torch.get_rng_state())


def _one_a_loss() -> list[Model]:
    return list({model.loss: model for model in MODELS}.values())
