"""The remedies, one file each; `REMEDIES` holds them in the order of the catalogue."""

from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.initialise_weights import InitialiseWeights
from gradwatch.remedies.swap_activation import SwapActivation

__all__ = ["REMEDIES", "Case", "Remedy"]

REMEDIES: tuple[Remedy, ...] = (SwapActivation(), InitialiseWeights())
