"""Losses recognised from output and gradient, and those that must not be."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gradwatch.losses import recognise_loss


def recognised(output, loss_of):
    """Return the recognised loss as a float, None or NaN."""
    output = output.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(output), output)
    kept = output.detach().clone(), grad.clone()
    value = recognise_loss(output.detach(), grad)
    assert torch.equal(kept[0], output.detach())
    assert torch.equal(kept[1], grad)
    return None if value is None else float(value)


def logits(*shape, seed=0):
    """Return logits with some spread."""
    return 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 3, 1, 1, 4, 2])
BINARY = (logits(6, 5, seed=1) > 0).float()


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e3, 65536.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_recognised(reduction, factor):
    """Mean or sum, whatever it was multiplied by: the mean loss comes back."""
    z = logits(6, 5)
    value = recognised(
        z, lambda z: factor * F.cross_entropy(z, LABELS, reduction=reduction)
    )
    assert value == pytest.approx(float(F.cross_entropy(z, LABELS)), rel=1e-5)


def test_language_and_segmentation_shapes_are_recognised():
    """`[batch, time, classes]` and `[batch, classes, height, width]`."""
    z = logits(3, 4, 5)
    y = torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(2))
    value = recognised(z, lambda z: F.cross_entropy(z.flatten(0, 1), y.flatten()))
    assert value == pytest.approx(float(F.cross_entropy(z.flatten(0, 1), y.flatten())))
    z = logits(2, 5, 3, 3)
    y = torch.randint(5, (2, 3, 3), generator=torch.Generator().manual_seed(3))
    value = recognised(z, lambda z: F.cross_entropy(z, y))
    assert value == pytest.approx(float(F.cross_entropy(z, y)), rel=1e-5)


def test_log_probabilities_are_recognised():
    """`nll_loss` behind a model that ends in `log_softmax`."""
    z = logits(6, 5).log_softmax(-1)
    value = recognised(z, lambda z: F.nll_loss(z, LABELS))
    assert value == pytest.approx(float(F.nll_loss(z, LABELS)), rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 1), (30,)])
def test_binary_cross_entropy_is_recognised(shape):
    """Single and many labels."""
    z = logits(*shape)
    y = (logits(*shape, seed=4) > 0).float()
    value = recognised(z, lambda z: F.binary_cross_entropy_with_logits(z, y))
    expected = float(F.binary_cross_entropy_with_logits(z, y))
    assert value == pytest.approx(expected, rel=1e-5)


def test_ignored_rows_are_left_out():
    """Rows of the ignored index have no gradient and do not count."""
    z, labels = logits(6, 5), LABELS.clone()
    labels[2] = -100
    value = recognised(z, lambda z: F.cross_entropy(z, labels))
    assert value == pytest.approx(float(F.cross_entropy(z, labels)), rel=1e-5)


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda z: F.mse_loss(z, BINARY),
        lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.1),
        lambda z: F.cross_entropy(z, BINARY.softmax(-1)),
        lambda z: F.smooth_l1_loss(z, 3.0 * BINARY),
        lambda z: z.square().mean(),
        lambda z: z.sum(),
        lambda z: (z.sigmoid() - BINARY).square().mean(),
        lambda z: F.cross_entropy(z, LABELS) + 0.1 * z.square().mean(),
        lambda z: F.multi_margin_loss(z, LABELS),
        lambda z: F.kl_div(z.log_softmax(-1), BINARY.softmax(-1), reduction="sum"),
    ],
    ids=[
        "mse",
        "smooth",
        "soft",
        "l1",
        "square",
        "sum",
        "brier",
        "sum2",
        "hinge",
        "kl",
    ],
)
def test_other_losses_are_not_claimed(loss_of):
    """What is no cross-entropy is NaN: "loss not known", never a wrong number."""
    assert torch.isnan(torch.tensor(recognised(logits(6, 5), loss_of)))


def test_shapes_that_no_cross_entropy_has():
    """Scalars, empty outputs and gradients of another shape."""
    assert recognise_loss(torch.tensor(1.0), torch.tensor(1.0)) is None
    assert recognise_loss(torch.ones(0, 3), torch.ones(0, 3)) is None
    assert recognise_loss(torch.ones(2, 3), torch.ones(3, 2)) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_gradients_without_information_are_not_claimed(bad):
    """NaN, infinite and zero gradients say nothing of the loss."""
    value = recognise_loss(logits(6, 5), torch.full((6, 5), bad))
    assert torch.isnan(value)
