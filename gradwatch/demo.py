"""`gradwatch demo`: train sick and healthy networks on real data and diagnose each.

Nothing is prepared: each network is trained by a plain loop under `watch()`, and what
is said about it is what `Watch.report()` says. The demo knows what was done to a
network; gradwatch does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gradwatch.console_demo import DemoScreen
from gradwatch.demo_nets import NETS, PIXELS, DemoNet, Outcome, Pixels
from gradwatch.errors import GradWatchError
from gradwatch.session import watch

_BATCH = 64
_SEED = 0
#: Share of the steps that `quick` trains for.
_QUICK_SHARE = 0.25
#: A step of these networks takes 1 to 15 ms, so 1 % of it buys no late look within the
#: demo. With the budget lifted the probes do not depend on the speed of the machine.
_SETTINGS = {"budget": 1.0, "probe_every": 25}

#: Called after each step with its number from 1 and its loss.
OnStep = Callable[[int, float], None]


def main(
    quick: bool = False, only: Sequence[str] | None = None, width: int | None = None
) -> int:
    """Run the demo on standard output.

    Args:
        quick: Train for a quarter of the steps.
        only: Names of the networks to train; all if None.
        width: Width of the text; the terminal's, or 80, if None.

    Returns:
        0 if every verdict is as expected, else 1.

    Raises:
        GradWatchError: If `only` names no network, or scikit-learn is not installed.
    """  # noqa: DOC502 - raised by what it calls
    nets = choose(only)
    images, digits = load_digits()
    threads = torch.get_num_threads()
    # Layers this small gain nothing from a second thread; where the cores are busy, the
    # threads wait for each other (seen: 4 s became 180 s).
    torch.set_num_threads(1)
    outcomes = []
    try:
        with DemoScreen(nets, len(digits), width) as screen:
            for net in nets:
                steps = math.ceil(net.steps * _QUICK_SHARE) if quick else net.steps
                screen.start(net, steps)
                shown = prepare(images, net.pixels)
                outcomes.append(diagnose(net, shown, digits, steps, screen.step))
                screen.show(outcomes[-1])
            screen.summarise(outcomes)
    finally:
        torch.set_num_threads(threads)
    return 0 if all(outcome.as_expected for outcome in outcomes) else 1


def choose(only: Sequence[str] | None) -> list[DemoNet]:
    """Return the networks of these names, in the demo's order.

    Args:
        only: Names; all networks if None.

    Returns:
        The networks.

    Raises:
        GradWatchError: If there is none of a name.
    """
    known = [net.name for net in NETS]
    if only is None:
        return list(NETS)
    unknown = [name for name in only if name not in known]
    if unknown or not only:
        raise GradWatchError(
            f"`only` (={unknown[0] if unknown else ''!r}) must name networks of the "
            f"demo: {', '.join(known)}."
        )
    return [net for net in NETS if net.name in only]


def load_digits() -> tuple[Tensor, Tensor]:
    """Return the images `[1797, 64]`, from 0 to 16, and their digits `[1797]`.

    Raises:
        GradWatchError: If scikit-learn, which brings them, is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise GradWatchError(
            "the demo trains on the digits that scikit-learn bundles; install it with "
            "`pip install 'gradwatch[demo]'`."
        ) from None
    images, digits = datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(digits).long()


def prepare(images: Tensor, pixels: Pixels) -> Tensor:
    """Return the images as a network is shown them.

    Args:
        images: Images `[batch, 64]`, from 0 to 16. Not changed.
        pixels: What to do to them.

    Returns:
        Images of the same shape.
    """
    if pixels == "raw":
        return images
    shown = (images - images.mean()) / images.std()
    if pixels == "upper-half":
        shown[:, PIXELS // 2 :] = shown.min()
    return shown


def diagnose(
    net: DemoNet, images: Tensor, digits: Tensor, steps: int, on_step: OnStep
) -> Outcome:
    """Train one network under a watch and return what came of it.

    The seed is fixed; the caller's random numbers go on as if nothing had happened.

    Args:
        net: The network.
        images: What it is shown, `[batch, 64]`.
        digits: What it is to say, `[batch]`.
        steps: Optimizer steps.
        on_step: Told of each step.

    Returns:
        The outcome.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = net.build()
        optimizer = net.optimizer(model.parameters())
        losses = []
        start = time.perf_counter()
        with watch(model, console=None, settings=_SETTINGS) as watching:
            for step, batch in enumerate(batches(len(digits), steps), start=1):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(images[batch]), digits[batch])
                loss.backward()
                if net.max_norm is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), net.max_norm)
                optimizer.step()
                losses.append(loss.item())
                on_step(step, losses[-1])
        report = watching.report()
        seconds = time.perf_counter() - start
    last = losses[-math.ceil(len(digits) / _BATCH) :]
    model.eval()
    with torch.no_grad():
        right = model(images).argmax(1) == digits
    return Outcome(
        net=net,
        steps=steps,
        first_loss=losses[0],
        last_loss=sum(last) / len(last),
        accuracy=right.float().mean().item(),
        seconds=seconds,
        report=report,
    )


def batches(size: int, steps: int) -> Iterator[Tensor]:
    """Yield the indices of `steps` batches, shuffled anew at each pass.

    Args:
        size: Images.
        steps: Batches.

    Yields:
        Indices of at most 64 images.
    """
    left = steps
    while left:
        for batch in torch.randperm(size).split(_BATCH)[:left]:
            yield batch
            left -= 1
