"""A set of named figures that also says which pictures there are no data for."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Figures(dict[str, "Figure"]):
    """Figures by name; a notebook shows them one below the other.

    Args:
        figures: The figures, by name.
        missing: Why a picture is left out, by its name.

    Attributes:
        missing: Why a picture is left out, by its name.
    """

    def __init__(
        self, figures: Mapping[str, Figure], missing: Mapping[str, str]
    ) -> None:
        super().__init__(figures)
        self.missing = dict(missing)

    def __missing__(self, name: str) -> NoReturn:
        known = ", ".join(repr(key) for key in self) or "none"
        reason = self.missing.get(name, f"the figures here are: {known}")
        raise KeyError(f"{name!r}: {reason}")

    def __repr__(self) -> str:
        left_out = [f"{name!r}: {why}" for name, why in self.missing.items()]
        return f"<Figures {list(self)}; left out: {'; '.join(left_out) or 'none'}>"

    def _repr_html_(self) -> str:
        shown = [
            f'<img alt="{html.escape(name)}" style="max-width:100%" '
            f'src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'
            for name, figure in self.items()
        ]
        said = [
            f"<p>No {html.escape(name)}: {html.escape(why)}.</p>"
            for name, why in self.missing.items()
        ]
        return "\n".join([*shown, *said])


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file.

    Args:
        figure: The figure.

    Returns:
        The bytes of the file.
    """
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
