"""Takes a pulse a step: at the end of backward, and again just before the update."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.deliveries import Deliveries, PendingPulse
from gradwatch.hooks import HookManager
from gradwatch.optimizer_roles import found_inf, largest_lr, unscales_inside
from gradwatch.pulse import PulseReader, PulseReading
from gradwatch.watched_model import WatchedModel

#: Parameters that are tried as the one whose gradient tells of the end of backward.
_MAX_TRIES = 4


class PulseTaker:
    """Reads the gradients of one watched model.

    Args:
        watched: Whose gradients.
        hooks: Tell of the end of backward.
        deliveries: Take the readings on.

    Attributes:
        wanted: Whether the step under way is to be read.
    """

    def __init__(
        self, watched: WatchedModel, hooks: HookManager, deliveries: Deliveries
    ) -> None:
        self.wanted = True
        self._watched = watched
        self._hooks = hooks
        self._deliveries = deliveries
        self._reader = PulseReader([])
        self._read: tuple[tuple[str, int], ...] = ()
        self._num_backwards = 0
        self._last_step: int | None = None
        self._tries = 0

    @property
    def zero_run(self) -> Tensor | None:
        """Steps in a row that each parameter's gradient has been zero, by `names`."""
        return self._reader.zero_run

    @property
    def names(self) -> list[str]:
        """Names of the parameters that are read."""
        return [name for name, _ in self._read]

    def resolve(self) -> None:
        """Read other parameters if some were unfrozen, replaced or materialised."""
        if self._watched.trained != self._read:
            self._read = self._watched.trained
            self._reader = PulseReader(self._watched.trainable())

    def follow(self) -> None:
        """Follow the backward pass through a parameter that gets gradients."""
        trainable = self._watched.trainable()
        if not trainable:
            self._hooks.follow_backward(None)
            return
        with_grad = [p for p in trainable if p.grad is not None] or trainable
        # One near the input: its gradient arrives last.
        self._hooks.follow_backward(with_grad[self._tries % len(with_grad)])

    def want(self, wanted: bool) -> None:
        """Say whether the step that begins is to be read."""
        self.wanted = wanted
        self._hooks.quiet = not wanted
        if not wanted:
            self._reader.drop()

    def drop(self) -> None:
        """Forget a reading that no step has used."""
        self._reader.drop()

    def end_backward(self) -> None:
        """Read the gradients before anybody clips them."""
        self._num_backwards += 1
        if self.wanted:
            self._reader.read_backward_end()

    def end_step(self) -> None:
        """Count the backward passes of the next step."""
        self._num_backwards = 0

    def finish(
        self,
        step: int,
        optimizer: Optimizer | None,
        loss: float | Tensor | None,
        scale: Tensor | None,
    ) -> PulseReading | None:
        """Read again just before the update, and hand the pulse on.

        Args:
            step: Optimizer step.
            optimizer: The optimizer; None if it is not one of torch's.
            loss: The loss of the step, where it is known.
            scale: The scaler's loss scale.

        Returns:
            What was read; None without any gradient.
        """
        if optimizer is not None and not self._reader.waiting:
            self._try_another()
        reading = self._reader.read_step(self._elapsed(step))
        if reading is None:
            return None
        rate = None
        if optimizer is not None:
            reading.scale = reading.ledger.add(scale)
            reading.found_inf = reading.ledger.add(found_inf(optimizer))
            reading.unscales_inside = unscales_inside(optimizer)
            reading.num_backwards = self._num_backwards
            rate = largest_lr(optimizer)
            if isinstance(loss, Tensor):
                reading.loss = reading.ledger.add(loss.double())
        reading.pending = reading.ledger.transfer()
        known = loss if isinstance(loss, float) else None
        self._deliveries.add_pulse(PendingPulse(step, reading, known, rate))
        return reading

    def finish_unseen(self, step: int) -> None:
        """Hand on the pulse of a step that is over: only backward's end was read."""
        reading = self._reader.read_backward_only(self._elapsed(step))
        if reading is not None:
            reading.pending = reading.ledger.transfer()
            self._deliveries.add_pulse(PendingPulse(step, reading, None, None))

    def _elapsed(self, step: int) -> int:
        """Return the steps since the last pulse; 1 for the first."""
        last, self._last_step = self._last_step, step
        return 1 if last is None else max(step - last, 1)

    def _try_another(self) -> None:
        """The followed parameter stayed silent: try another one."""
        if self._tries < _MAX_TRIES:
            self._tries += 1
            self.follow()
