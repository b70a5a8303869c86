"""The common look of the charts of schemes: colours, labels, titles, and the PNG file.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from sabun import _files
from sabun.errors import SchemeError
from sabun.messages.languages import Language
from sabun.messages.sentences import text

__all__ = ["APART", "BLUE", "GREEN", "GREY", "INK", "ORANGE", "RED", "Rows", "label", "save_png", "styled", "title"]

Rows = list[dict[str, object]]
"""The data of a layer."""
BLUE = "#0072B2"
"""Filled regions and the first series."""
ORANGE = "#D55E00"
"""The second series."""
GREEN = "#009E73"
"""The third series."""
GREY = "#8A8F98"
"""Grid lines and reference curves."""
INK = "#22262B"
"""Text."""
RED = "#C2410C"
"""The highlighted scheme."""
FONT = "DejaVu Sans, Verdana, IPAexGothic, Noto Sans CJK JP, sans-serif"
APART: Any = {"color": "independent", "strokeDash": "independent", "strokeWidth": "independent"}
"""Charts side by side keep their own colours and dashes."""


def title(lang: Language, key: str) -> alt.TitleParams:
    """Title and subtitle of a chart: the texts ``scheme_chart.KEY`` and ``scheme_chart.KEY_sub``."""
    return alt.TitleParams(text(f"scheme_chart.{key}", lang), subtitle=text(f"scheme_chart.{key}_sub", lang))


def label(
    row: dict[str, object],
    x: alt.X,
    y: alt.Y,
    *,
    size: float = 13,
    colour: str = INK,
    weight: str = "normal",
    halo: bool = True,
) -> list[alt.Chart]:
    """A text at a point, with a white halo that keeps it readable on lines."""

    def drawn(**style: Any) -> alt.Chart:
        mark = {"align": row["align"], "dx": row["dx"], "dy": row["dy"], "fontSize": size, "fontWeight": weight,
                "baseline": "middle", **style}  # fmt: skip
        return alt.Chart(alt.Data(values=[row])).mark_text(**mark).encode(x, y, text="name:N")

    under = [drawn(color="white", stroke="white", strokeWidth=4, strokeJoin="round")] if halo else []
    return [*under, drawn(color=colour)]


def styled(chart: Any) -> Any:
    """One look for all: white ground, light frame, one font."""
    return (
        chart.configure(background="white", font=FONT, padding=18)
        .configure_title(fontSize=15, anchor="start", color=INK, subtitleColor="#5B6470", subtitleFontSize=12,
                         offset=10)
        .configure_axis(labelFontSize=11.5, titleFontSize=12.5, labelColor=INK, titleColor=INK, gridColor="#E6E9ED",
                        domainColor="#9AA3AD", tickColor="#9AA3AD", titleFontWeight="normal")
        .configure_legend(labelFontSize=12, titleFontSize=12.5, labelColor=INK)
        .configure_view(stroke="#D4D9DF")
    )  # fmt: skip


def save_png(chart: Any, path: Path, *, scale: float = 2.0) -> None:
    """Write the chart as a PNG file at ``scale`` pixels a point, whole or not at all.

    Raises SchemeError when the folder does not exist or cannot be written.
    """
    import vl_convert

    picture: bytes = vl_convert.vegalite_to_png(chart.to_dict(), scale=scale)
    try:
        _files.replace(path, picture)
    except OSError as error:
        raise SchemeError(
            f"cannot write {path}: {error.strerror}.", fix="Give a file in a folder that exists and can be written."
        ) from error
