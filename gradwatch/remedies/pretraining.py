"""Greedy layer-wise pre-training without labels, as before 2010.

Each layer learns, from the input end on, to keep what it is given: a linear decoder
must rebuild the layer's clean input from its activation of a corrupted one. Layers
below stay as they are meanwhile, and no gradient passes more than one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Makes a model read a batch; what it returns is not used.
Run = Callable[[nn.Module, Any], object]
#: Keeps a constant input from dividing by 0.
_TINY = 1e-12
_DECODERS: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


class _ReachedError(Exception):
    """Ends a forward pass at the layer whose input is wanted."""


def pretrain(
    model: nn.Module,
    batches: Iterable[Any],
    layers: Mapping[str, str | None],
    steps: int,
    *,
    lr: float = 1e-3,
    noise: float = 0.2,
    run: Run | None = None,
) -> dict[str, float]:
    """Pre-train the layers of a model one after the other, in place.

    A denoising autoencoder for each layer (Vincent et al. 2010, section 3), with a
    linear decoder and a squared error, trained by Adam. The random numbers are the
    global ones.

    Args:
        model: The model. Weights and biases of the layers change, nothing else does.
        batches: Inputs, taken in turn, again from the start at the end. Labels are not
            needed: of a tuple or list the first entry is taken.
        layers: Names of linear layers and convolutions from the input end on, each with
            the name of its activation as in `torch.nn.functional`; None for linear.
        steps: Optimizer steps, shared evenly among the layers.
        lr: Learning rate of Adam.
        noise: Share of a layer's inputs that is set to zero.
        run: Makes the model read a batch. By default a tensor or a list's first entry
            is the argument, a mapping the keyword arguments.

    Returns:
        For each layer the share of its input's variance over samples that its decoder
        could not rebuild at the last step: 1 is nothing kept.
    """
    feed = _cycle(batches)
    modes = {module: module.training for module in model.modules()}
    model.eval()  # no dropout, and no batch statistics, while layers learn
    try:
        return {
            name: _learn(model, feed, name, activation, (lr, noise), count, run or _run)
            for (name, activation), count in zip(
                layers.items(), _shares(steps, len(layers)), strict=True
            )
        }
    finally:
        for module, training in modes.items():
            module.training = training


def _learn(
    model: nn.Module,
    feed: Iterator[Any],
    name: str,
    activation: str | None,
    rates: tuple[float, float],
    steps: int,
    run: Run,
) -> float:
    layer = model.get_submodule(name)
    function = _function(activation)
    decoder = _decoder(layer, name)
    lr, noise = rates
    own = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([*own, *decoder.parameters()], lr=lr)
    left = 1.0
    for _ in range(steps):
        clean = _input_of(model, layer, name, next(feed), run)
        with torch.enable_grad():
            kept = (torch.rand_like(clean) >= noise).to(clean.dtype)
            hidden = function(layer(clean * kept))
            rebuilt = (
                decoder(hidden, output_size=clean.shape[2:])
                if isinstance(decoder, nn.modules.conv._ConvTransposeNd)
                else decoder(hidden)
            )
            loss = functional.mse_loss(rebuilt, _contrast(clean, decoder))
            gradients = torch.autograd.grad(loss, [*own, *decoder.parameters()])
        # The layers' own `grad` is the user's.
        saved = [p.grad for p in own]
        for parameter, gradient in zip(
            [*own, *decoder.parameters()], gradients, strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
        for parameter, old in zip(own, saved, strict=True):
            parameter.grad = old
        left = float(loss.detach())
    return left


def _contrast(clean: Tensor, decoder: nn.Module) -> Tensor:
    """Return what differs between samples, at deviation 1: what must be kept.

    What all samples share is the larger part behind sigmoids, and easy to rebuild.
    """
    unit = 1 if isinstance(decoder, nn.modules.conv._ConvTransposeNd) else -1
    axes = [axis for axis in range(clean.dim()) if axis != unit % clean.dim()]
    centred = clean - clean.mean(axes, keepdim=True)
    return centred / centred.pow(2).mean().sqrt().clamp_min(_TINY)


def _input_of(
    model: nn.Module, layer: nn.Module, name: str, batch: Any, run: Run
) -> Tensor:
    """Return what a layer reads of a batch, at its first call."""
    seen: list[Tensor] = []

    def look(values: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(values.detach())
        raise _ReachedError

    # Not a hook: those are for watching, and this must end the pass.
    own = layer.__dict__.get("forward")
    layer.__dict__["forward"] = look
    try:
        with torch.no_grad():
            run(model, batch)
    except _ReachedError:
        pass
    finally:
        if own is None:
            del layer.__dict__["forward"]
        else:
            layer.__dict__["forward"] = own
    if not seen:
        raise ValueError(
            f"`layers` (={name!r}, ...) must be layers that a batch reaches; {name} "
            "was not called. Leave it out."
        )
    return seen[0]


def _decoder(layer: nn.Module, name: str) -> nn.Module:
    """Return a fresh module that maps a layer's output back to its input's shape."""
    weight = getattr(layer, "weight", None)
    at = {"device": weight.device, "dtype": weight.dtype} if weight is not None else {}
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.out_features, layer.in_features, **at)
    if isinstance(layer, nn.modules.conv._ConvNd) and not layer.transposed:
        make = _DECODERS[len(layer.kernel_size)]
        if isinstance(layer.padding, str):
            padding: Any = [
                k // 2 if layer.padding == "same" else 0 for k in layer.kernel_size
            ]
        else:
            padding = layer.padding
        return make(
            layer.out_channels,
            layer.in_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=padding,
            dilation=layer.dilation,
            **at,
        )
    raise TypeError(
        f"`layers` (={name!r}, ...) must be linear layers and convolutions; {name} is "
        f"a {type(layer).__name__}. Leave it out."
    )


def _function(activation: str | None) -> Callable[[Tensor], Tensor]:
    if activation is None:
        return lambda values: values
    found = getattr(functional, activation, None)
    if found is None:
        raise ValueError(
            f"`layers` (=..., {activation!r}) must name activations of "
            "torch.nn.functional, such as 'relu', or None."
        )
    return found  # type: ignore[no-any-return]


def _cycle(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("`batches` (=empty) must hold at least one batch.")


def _run(model: nn.Module, batch: Any) -> object:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def _shares(steps: int, count: int) -> list[int]:
    """Return even shares of the steps; the first layers take what is left over."""
    if not count:
        return []
    share, rest = divmod(steps, count)
    return [share + (place < rest) for place in range(count)]
