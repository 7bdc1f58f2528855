"""The remedies, one file each; `REMEDIES` holds them in the order of the catalogue."""

from gradwatch.remedies.base import Case, Remedy

__all__ = ["REMEDIES", "Case", "Remedy"]

REMEDIES: tuple[Remedy, ...] = ()
