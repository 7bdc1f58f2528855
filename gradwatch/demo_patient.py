"""One network of the demo: trained under a watch, diagnosed, treated, trained again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from gradwatch.demo_nets import Cure, DemoNet, Outcome
from gradwatch.errors import GradWatchError
from gradwatch.prescription import treat, treat_optimizer
from gradwatch.recommendations import Recommendation, TrialResult, Verdict
from gradwatch.session import Watch, watch

_BATCH = 64
_SEED = 0
_TRIAL_STEPS = 100
#: Remedies tried until one helps: as many as a report shows.
_MOST_TRIED = 3
#: A step of these networks takes 1 to 15 ms, so 1 % of it buys no late look within the
#: demo. With the budget lifted the probes do not depend on the speed of the machine.
_SETTINGS = {"budget": 1.0, "probe_every": 25}

#: Called after each step with its number from 1 and its loss.
OnStep = Callable[[int, float], None]


class Patient:
    """A network of the demo and what it learns.

    The seed is fixed; the caller's random numbers go on as if nothing had happened.

    Args:
        net: The network.
        images: What it is shown, `[batch, 64]`.
        digits: What it is to say, `[batch]`.
        steps: Optimizer steps of a training.
    """

    def __init__(
        self, net: DemoNet, images: Tensor, digits: Tensor, steps: int
    ) -> None:
        self._net = net
        self._images = images
        self._digits = digits
        self._steps = steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self._model = net.build()
            #: Where the order of the batches begins: the same for every training.
            self._random_state = torch.get_rng_state()
        self._untrained = copy.deepcopy(self._model)
        self._optimizer = net.optimizer(self._model.parameters())
        self._watching: Watch | None = None

    def diagnose(self, on_step: OnStep) -> Outcome:
        """Train the network under a watch.

        Args:
            on_step: Told of each step.

        Returns:
            What came of it.
        """
        self._watching, outcome = self._train(self._model, self._optimizer, on_step)
        return outcome

    def treat(self, outcome: Outcome, on_step: OnStep) -> Outcome:
        """Try remedies until one helps; train a network so treated as before.

        A trial starts from the weights of the beginning, and so does the treated
        network: a user who has read the report would begin again.

        Args:
            outcome: What `diagnose` returned.
            on_step: Told of each step.

        Returns:
            The outcome with what came of the remedies.
        """
        tried: list[Recommendation] = []
        for chosen in _best(outcome.report.recommendations):
            result = self._try(chosen)
            tried.append(replace(chosen, trial=result))
            if result.verdict is Verdict.HELPED:
                cured = self._train_treated(chosen, on_step)
                return replace(outcome, cure=Cure(tuple(tried), cured))
        return replace(outcome, cure=Cure(tuple(tried))) if tried else outcome

    def _try(self, chosen: Recommendation) -> TrialResult:
        """Return what a trial says; optimizer, clipping and weights are the watch's."""
        if self._watching is None:
            raise GradWatchError("`treat` tries what `diagnose` recommended: call it.")
        batches = [
            (self._images[batch], self._digits[batch])
            for batch in self._batches(_TRIAL_STEPS)
        ]
        return self._watching.trial(
            chosen,
            batches=batches,
            loss_fn=_loss,
            steps=_TRIAL_STEPS,
            progress=False,
        )

    def _train_treated(self, chosen: Recommendation, on_step: OnStep) -> Outcome:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            treated = treat(self._untrained, chosen)
        optimizer = treat_optimizer(
            self._optimizer, chosen, model=self._model, treated=treated
        )
        return self._train(treated, optimizer, on_step)[1]

    def _train(
        self, model: nn.Module, optimizer: Optimizer, on_step: OnStep
    ) -> tuple[Watch, Outcome]:
        limit = self._net.max_norm
        losses = []
        start = time.perf_counter()
        with watch(model, console=None, settings=_SETTINGS) as watching:
            for step, batch in enumerate(self._batches(self._steps), start=1):
                optimizer.zero_grad()
                loss = _loss(model, (self._images[batch], self._digits[batch]))
                loss.backward()
                if limit is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), limit)
                optimizer.step()
                losses.append(loss.item())
                on_step(step, losses[-1])
        report = watching.report()
        seconds = time.perf_counter() - start
        last = losses[-math.ceil(len(self._digits) / _BATCH) :]
        return watching, Outcome(
            net=self._net,
            steps=self._steps,
            first_loss=losses[0],
            last_loss=sum(last) / len(last),
            accuracy=self._accuracy(model),
            seconds=seconds,
            report=report,
        )

    def _accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            right = model(self._images).argmax(1) == self._digits
        model.train()
        return float(right.float().mean())

    def _batches(self, steps: int) -> Iterator[Tensor]:
        """Yield the indices of batches of 64 images, shuffled anew at each pass."""
        shuffle = torch.Generator()
        shuffle.set_state(self._random_state)
        left = steps
        while left:
            order = torch.randperm(len(self._digits), generator=shuffle)
            for batch in order.split(_BATCH)[:left]:
                yield batch
                left -= 1


def _best(recommended: Sequence[Recommendation]) -> list[Recommendation]:
    """Return the first variant of each of the best remedies that code can apply."""
    usable = [item for item in recommended if item.can_apply]
    firsts = {item.remedy: item for item in reversed(usable)}
    return [item for item in usable if firsts[item.remedy] is item][:_MOST_TRIED]


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, digits = batch
    return functional.cross_entropy(model(images), digits)
