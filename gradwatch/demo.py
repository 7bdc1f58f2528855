"""`gradwatch demo`: train sick and healthy networks, diagnose each, treat the sick.

Nothing is prepared: each network is trained by a plain loop under `watch()`, what is
said about it is what `Watch.report()` says, and the remedies of that report are tried
by `Watch.trial()`. The demo knows what was done to a network; gradwatch does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradwatch.console_demo import DemoScreen
from gradwatch.demo_nets import NETS, PIXELS, DemoNet, Pixels
from gradwatch.demo_patient import Patient
from gradwatch.errors import GradWatchError

#: Share of the steps that `quick` trains for.
_QUICK_SHARE = 0.25


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
                patient = Patient(net, prepare(images, net.pixels), digits, steps)
                screen.start(net, steps)
                outcome = patient.diagnose(screen.step)
                screen.show(outcome)
                if not outcome.well:
                    screen.start(net, steps, "treated")
                    outcome = patient.treat(outcome, screen.step)
                    screen.show_cure(outcome)
                outcomes.append(outcome)
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
            "`pip install scikit-learn`."
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
