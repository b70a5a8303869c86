"""The look-ahead plane: first-order optimizers on one map, memory β to the right, look-ahead γ upwards.

Known optimizers are dots, contours give the stability interval, and one curve marks second-order accuracy.
"""

from __future__ import annotations

import math

import altair as alt
import contourpy
import numpy as np

from sabun import schemes
from sabun.errors import SchemeError
from sabun.messages.languages import Language
from sabun.messages.sentences import text
from sabun.report.altair_style import BLUE, ORANGE, RED, Rows, label, styled, title
from sabun.schemes import LinearMultistep
from sabun.schemes.catalogue import Scheme

__all__ = ["coordinates", "look_ahead_plane"]

# name on the map, scheme, where the label goes from the dot: dx, dy, alignment
_DOTS: tuple[tuple[str, str, int, int, str], ...] = (
    ("SGD (Euler)", "euler", 10, 0, "left"),
    ("Adams–Bashforth 2", "adams-bashforth-2", 10, 0, "left"),
    ("SGD momentum 0.9 · Adam · AdamW", "heavy-ball(0.9)", 4, 17, "right"),
    ("SOAP", "heavy-ball(0.95)", 10, 6, "left"),
    ("Nesterov 0.9 · NAdam", "nesterov(0.9)", -14, 0, "right"),
    ("Muon (Nesterov 0.95)", "nesterov(0.95)", 10, -2, "left"),
    ("MARS", "look-ahead(0.95, 0.475)", 10, 2, "left"),
    ("Lion", "lion(0.9, 0.99)", 11, 0, "left"),
    ("QHM", "quasi-hyperbolic(0.7, 0.999)", 8, 17, "right"),
    ("sabun look-ahead (0.9, 2)", "look-ahead(0.9, 2)", 11, 0, "left"),
    ("order-two (0.9)", "order-two(0.9)", -14, -4, "right"),
)
_BETAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
_LEVELS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def coordinates(scheme: Scheme) -> tuple[float, float] | None:
    """Return (β, γ) of a scheme on the look-ahead plane; None if it is not on it."""
    if not isinstance(scheme, LinearMultistep):
        return None
    f = scheme.to_filter()
    if len(f.a) > 2 or len(f.b) > 2:
        return None
    beta = -f.a[1] if len(f.a) == 2 else 0
    gamma = -(f.b[1] if len(f.b) == 2 else 0) / (1 - beta)
    return float(beta), float(gamma)


def look_ahead_plane(
    lang: Language = "en",
    *,
    highlight: Scheme | None = None,
    width: int = 900,
    height: int = 520,
    configured: bool = True,
) -> alt.LayerChart:
    """Draw the plane with contours of the stability interval, the curve of order 2, and known optimizers as dots.

    The scale of β is that of its memory 1/(1−β), logarithmic; that of γ is linear near 0 and logarithmic far from it.
    ``highlight`` marks one scheme; raises SchemeError if it is not on the plane.
    """
    low, high = 0.87, 1300.0
    bottom, top = -0.24, 900.0
    x = alt.X(
        "memory:Q",
        title=text("scheme_chart.beta", lang),
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=[1 / (1 - b) for b in _BETAS],
            labelExpr="format(round((1 - 1/datum.value)*1000)/1000, '')",
            grid=False,
        ),
    )
    y = alt.Y(
        "gamma:Q",
        title=text("scheme_chart.gamma", lang),
        scale=alt.Scale(type="symlog", constant=0.35, domain=[bottom, top], nice=False),
        axis=alt.Axis(values=list(_GAMMAS), grid=False, labelExpr="datum.value"),
    )
    contours, labels = _contours(high, top)
    betas = 1 - 1 / np.geomspace(1.0, high, 200)
    curve: Rows = [{"memory": float(1 / (1 - b)), "gamma": float((1 + b) / (2 * (1 - b))), "i": i}
                   for i, b in enumerate(betas)]  # fmt: skip
    dots: Rows = []
    for name, spec, dx, dy, align in _DOTS:
        place = coordinates(schemes.get(spec))
        if place is not None:
            ours = name.startswith(("sabun", "order-two"))
            name = text("scheme_chart.default_of_paper", lang, {"name": name}) if name == "QHM" else name
            dots.append({"memory": 1 / (1 - place[0]), "gamma": place[1], "name": name, "dx": dx, "dy": dy,
                         "align": align, "colour": ORANGE if ours else BLUE})  # fmt: skip
    shade = [
        {"memory": row["memory"], "gamma": row["gamma"], "top": top} for row in curve if float(str(row["gamma"])) <= top
    ]
    layers: list[alt.Chart] = [
        alt.Chart(alt.Data(values=shade)).mark_area(color=ORANGE, opacity=0.06, clip=True).encode(x, y, y2="top:Q"),
        alt.Chart(alt.Data(values=contours))
        .mark_line(strokeWidth=1, clip=True)
        .encode(
            x,
            y,
            order="i:O",
            detail="piece:N",
            color=alt.Color(
                "level:Q",
                scale=alt.Scale(type="log", range=["#B9C4CE", "#3F6F8F"], domain=[2, 1024]),
                legend=None,
            ),
        ),
        alt.Chart(alt.Data(values=curve))
        .mark_line(color=ORANGE, strokeWidth=2.4, strokeDash=[7, 4], clip=True)
        .encode(x, y, order="i:O"),
        *(part for row in labels for part in label(row, x, y, size=11.5, colour="#3F5F78", halo=False)),
        *label(
            {
                "memory": 26.0,
                "gamma": 25.5,
                "name": text("scheme_chart.order2", lang),
                "dx": -14,
                "dy": -8,
                "align": "right",
            },
            x,
            y,
            colour=RED,
            weight="bold",
        ),
        *label(
            {
                "memory": 1.06,
                "gamma": 420.0,
                "name": text("scheme_chart.above", lang),
                "dx": 0,
                "dy": 0,
                "align": "left",
            },
            x,
            y,
            colour=RED,
            halo=False,
        ),
    ]
    if highlight is not None:
        place = coordinates(highlight)
        if place is None:
            raise SchemeError(
                f"{highlight.name!r} is not on the look-ahead plane.",
                fix="The plane holds schemes with one pole and two gradient weights.",
            )
        ring: Rows = [{"memory": 1 / (1 - place[0]), "gamma": place[1]}]
        layers.append(
            alt.Chart(alt.Data(values=ring)).mark_point(size=420, color=RED, strokeWidth=3, filled=False).encode(x, y)
        )
    for dot in dots:
        layers += label(dot, x, y)
    colour = alt.Color("colour:N", scale=None)
    layers.append(
        alt.Chart(alt.Data(values=dots))
        .mark_circle(size=110, opacity=1, stroke="white", strokeWidth=1.2)
        .encode(x, y, color=colour)
    )
    chart = alt.layer(*layers).properties(width=width, height=height, title=title(lang, "plane"))
    return styled(chart) if configured else chart


def _contours(high: float, top: float) -> tuple[Rows, Rows]:
    """Return lines of equal stability interval 2(1+β)/((1−β)(1+2γ)), γ ≥ 0, and their labels at the edge."""
    memory = np.geomspace(1.0, high, 160)
    # Even on the screen: linear near 0, logarithmic beyond.
    gamma = np.concatenate([np.linspace(0.0, 1.0, 40)[:-1], np.geomspace(1.0, top, 100)])
    b = 1 - 1 / memory[None, :]
    reach = 2 * (1 + b) / ((1 - b) * (1 + 2 * gamma[:, None]))
    generator = contourpy.contour_generator(np.log(memory), gamma, np.log(reach))
    lines: Rows = []
    labels: Rows = []
    for level in _LEVELS:
        for piece, line in enumerate(generator.lines(math.log(level))):
            lines += [
                {"memory": math.exp(u), "gamma": float(v), "i": i, "level": level, "piece": f"{level}/{piece}"}
                for i, (u, v) in enumerate(np.asarray(line))
            ]
        # On the right edge β ≈ 1, so the interval is 4·memory/(1 + 2γ).
        leaves = (2 * (2 * high - 1) / level - 1) / 2
        if leaves <= top:
            name = f"hλ = {level}" if level == 4 else str(level)
            labels.append({"memory": high, "gamma": leaves, "name": name, "dx": 6, "dy": 0, "align": "left"})
    return lines, labels
