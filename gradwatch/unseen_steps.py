"""Notices updates that no optimizer told of: a compiled step, one written by hand."""

from __future__ import annotations

from torch import Tensor

#: Updates in a row without a word from an optimizer after which they count as steps.
#: One may be something else: SAM moves the weights between two backwards of one step.
_ENOUGH = 2


class UnseenSteps:
    """Follows the version counter of one parameter from a backward pass to the next.

    torch raises `Tensor._version` at every change in place, those of compiled code
    included. Steps that an optimizer announces end the search for good.

    Attributes:
        counts: Whether unseen updates count as steps.
    """

    def __init__(self) -> None:
        self.counts = False
        self._announced = False
        self._in_a_row = 0
        self._version: int | None = None

    def announce(self) -> None:
        """Note a step that an optimizer, or the user, told of."""
        self._announced = True
        self.counts = False
        self._version = None

    def note_backward(self, parameter: Tensor | None) -> None:
        """Note the state of the weights when gradients have arrived."""
        if not self._announced and parameter is not None:
            self._version = parameter._version

    def take(self, parameter: Tensor | None) -> int:
        """Return how many steps are to be counted before a forward.

        Args:
            parameter: The one given to `note_backward`.

        Returns:
            0 where the weights are as they were, or may be in the midst of a step; all
            of the first ones at once when they turn out to be steps.
        """
        noted, self._version = self._version, None
        if noted is None or parameter is None or parameter._version == noted:
            return 0
        if self.counts:
            return 1
        self._in_a_row += 1
        self.counts = self._in_a_row >= _ENOUGH
        return self._in_a_row if self.counts else 0
