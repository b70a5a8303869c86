"""Pictures of the benchmark and of the thesis, as altair charts. Colours are those of Okabe and Ito.

A log axis cannot hold zero or infinity; what is not finite is left out here and stands in the page's tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from comparison.scores import Estimate

__all__ = ["lines", "profile_chart", "ratio_chart", "save"]

OURS, OTHER, GREY, INK = "#D55E00", "#0072B2", "#8A8F98", "#22262B"
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A8F98", "#7A5C00", "#000000", "#5B3A8E", "#A0522D",
           "#CC3311", "#117733", "#999933"]  # fmt: skip
FONT = "DejaVu Sans, Verdana, sans-serif"


def save(chart: Any, path: Path) -> None:
    """As SVG, with the page's fonts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    styled = chart.configure(font=FONT, background="white").configure_axis(
        labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=INK, gridColor="#E6E8EB"
    ).configure_view(stroke=None).configure_title(fontSize=14, anchor="start", subtitleColor=GREY)  # fmt: skip
    styled.save(str(path))


def ratio_chart(rows: Mapping[str, Estimate], *, title: str, subtitle: str, axis: str) -> Any:
    """One line an arm: the mean ratio, its interval over tasks (thick: over families), and each task as a small dot."""
    means, dots = [], []
    for order, (name, estimate) in enumerate(rows.items()):
        base = {"name": name, "order": order}
        if math.isfinite(estimate.value):
            low, high = estimate.over_tasks or (estimate.value, estimate.value)
            near, far = estimate.over_families or (estimate.value, estimate.value)
            means.append({**base, "value": estimate.value, "low": low, "high": high, "near": near, "far": far})
        dots += [
            {**base, "value": value, "task": task} for task, value in estimate.by_task.items() if 0 < value < math.inf
        ]
    y = alt.Y("name:N", sort=list(rows), title=None, axis=alt.Axis(labelLimit=260, grid=True, ticks=False))
    scale = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X("value:Q", scale=scale, title=axis, axis=alt.Axis(tickCount=8, format="~g"))
    span = alt.Chart(alt.Data(values=means))
    layers = [
        alt.Chart(alt.Data(values=[{"value": 1.0}])).mark_rule(color=INK, strokeDash=[4, 4]).encode(x=x),
        alt.Chart(alt.Data(values=dots)).mark_circle(size=34, color=GREY, opacity=0.75).encode(
            x=x, y=y, tooltip=["name:N", "task:N", alt.Tooltip("value:Q", format=".3f")]
        ),
        span.mark_rule(color=OURS, strokeWidth=1.6).encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y),
        span.mark_rule(color=OURS, strokeWidth=5, opacity=0.55).encode(x=alt.X("near:Q", scale=scale), x2="far:Q", y=y),
        span.mark_point(color=OURS, filled=True, size=90).encode(
            x=x, y=y, tooltip=["name:N", alt.Tooltip("value:Q", format=".3f")]
        ),
    ]  # fmt: skip
    height = 28 * max(len(rows), 2)
    return alt.layer(*layers).properties(width=460, height=height, title={"text": title, "subtitle": subtitle})


def profile_chart(multiples: Mapping[str, Sequence[float]], *, ours: Sequence[str], title: str, subtitle: str) -> Any:
    """Share of (task, seed) pairs in which an arm is at most τ times slower than the fastest."""
    rows = []
    widest = max((m for values in multiples.values() for m in values if math.isfinite(m)), default=2.0)
    for name, values in multiples.items():
        if not values:
            continue
        rows.append({"name": name, "tau": 1.0, "share": sum(m <= 1.0 for m in values) / len(values)})
        rows += [
            {"name": name, "tau": tau, "share": sum(m <= tau for m in values) / len(values)}
            for tau in sorted({m for m in values if math.isfinite(m)})
        ]
        rows.append({"name": name, "tau": widest * 1.02, "share": sum(map(math.isfinite, values)) / len(values)})
    names = list(multiples)
    others = iter(PALETTE)

    def dash(n: int, name: str) -> list[int]:
        whole = name == ours[0] if name in ours else n % 2 == 1
        return [1, 0] if whole else [5, 3]

    colours = [OURS if name in ours else next(others) for name in names]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("tau:Q", scale=alt.Scale(type="log", nice=False), title="τ: times the fastest arm's time"),
            y=alt.Y(
                "share:Q", scale=alt.Scale(domain=[0, 1]), title="share of tasks × seeds", axis=alt.Axis(format="%")
            ),
            color=alt.Color("name:N", sort=names, scale=alt.Scale(domain=names, range=colours), title=None),
            strokeDash=alt.StrokeDash("name:N", sort=names, scale=alt.Scale(
                domain=names, range=[dash(n, name) for n, name in enumerate(names)]
            ), title=None),
            strokeWidth=alt.condition(alt.FieldOneOfPredicate("name", list(ours)), alt.value(3.2), alt.value(1.6)),
        )
        .properties(width=460, height=300, title={"text": title, "subtitle": subtitle})
    )  # fmt: skip


def lines(
    rows: Sequence[Mapping[str, Any]], *, x: str, y: str, colour: str, title: str, subtitle: str = "",
    x_title: str = "", y_title: str = "", log_x: bool = True, log_y: bool = False, order: Sequence[str] = (),
    width: int = 420, height: int = 260,
) -> Any:  # fmt: skip
    """Lines with points, one a value of ``colour``."""
    names = list(order) or list(dict.fromkeys(str(row[colour]) for row in rows))
    return (
        alt.Chart(alt.Data(values=[dict(row) for row in rows]))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X(f"{x}:Q", title=x_title or x, scale=alt.Scale(type="log" if log_x else "linear", nice=False)),
            y=alt.Y(f"{y}:Q", title=y_title or y, scale=alt.Scale(type="log" if log_y else "linear", zero=False)),
            color=alt.Color(
                f"{colour}:N", sort=names, title=None, scale=alt.Scale(domain=names, range=PALETTE[: len(names)])
            ),
            tooltip=[f"{colour}:N", f"{x}:Q", alt.Tooltip(f"{y}:Q", format=".4f")],
        )
        .properties(width=width, height=height, title={"text": title, "subtitle": subtitle})
    )
