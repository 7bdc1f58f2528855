"""Every module of torch computes the same with gradwatch, bit by bit."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import module_db

from gradwatch.statistics import tensors_in
from tests.harmless import Gain, alike, hooks_on, random_scalar, watched

#: Samples of an info and mode; some have hundreds.
SAMPLES = 8


def copied(value):
    """Return fresh leaves with the same entries."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, PackedSequence):
        return value._replace(data=copied(value.data))
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return value


def run(info, sample, training, *, watch):
    """Return outputs, gradients and weights after one step, and the probe's record."""
    torch.manual_seed(0)
    built = sample.constructor_input
    model = Gain(info.module_cls(*built.args, **built.kwargs))
    model = model.to(torch.float32).train(training)
    args = copied(sample.forward_input.args)
    kwargs = copied(sample.forward_input.kwargs)
    record = None
    if watch:
        with watched(model, every=1) as watching:
            result = step(model, args, kwargs)
        record = watching.history.first_probe
        assert hooks_on(model) == []
    else:
        result = step(model, args, kwargs)
    grads = [t.grad for t in tensors_in((args, kwargs)) if t.is_leaf]
    weights = [p.detach() for p in model.parameters()]
    buffers = [b.detach() for b in model.buffers()]
    return [result, grads, weights, buffers, torch.get_rng_state()], record


def step(model, args, kwargs):
    """Run forward, backward and one optimizer step; return the outputs."""
    output = model(*args, **kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = random_scalar(output)
    if loss is not None:
        loss.backward()
    optimizer.step()
    return [t.detach() for t in tensors_in(output)]


@pytest.mark.parametrize("info", module_db, ids=lambda info: info.name)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own samples warn
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_module_of_torch_computes_the_same(info):
    """Outputs, gradients, weights, buffers and random state are equal; it was seen."""
    for training in (True, False):
        samples = info.module_inputs_func(
            info,
            device="cpu",
            dtype=torch.float32,
            requires_grad=True,
            training=training,
        )
        stride = max(1, len(samples) // SAMPLES)
        for sample in itertools.islice(samples, 0, None, stride):
            expected, _ = run(info, sample, training, watch=False)
            result, record = run(info, sample, training, watch=True)
            assert alike(expected, result), f"{info.name}, training={training}"
            assert record is not None
            # This one hands its child's weights to a function: it is no layer.
            if info.name != "nn.LinearCrossEntropyLoss":
                assert any(layer.layer.startswith("inner") for layer in record.layers)
