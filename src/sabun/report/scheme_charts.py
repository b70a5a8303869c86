"""Charts of one scheme, as altair charts: where it is stable, how its roots move, how fast it damps."""

from __future__ import annotations

import math

import altair as alt
import contourpy
import numpy as np
import numpy.typing as npt

from sabun.messages.languages import Language
from sabun.messages.sentences import Value, text
from sabun.report.altair_style import APART, BLUE, GREEN, GREY, INK, ORANGE, RED, Rows, label, styled, title
from sabun.report.look_ahead_plane import coordinates, look_ahead_plane
from sabun.schemes import LinearMultistep, analysis, certify, runge_kutta
from sabun.schemes.catalogue import Scheme

__all__ = ["amplification_curve", "explain", "root_locus", "stability_region"]


def _amplification(scheme: Scheme, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    if isinstance(scheme, LinearMultistep):
        return analysis.amplification(scheme, x)
    return runge_kutta.amplification(scheme, x)


def _reach(scheme: Scheme) -> float:
    """Return the largest hλ of the charts: a little beyond the interval, or 1 without one."""
    return 1.25 * scheme.stability_interval if scheme.stability_interval > 0 else 1.0


def stability_region(scheme: Scheme, lang: Language = "en", *, size: int = 280) -> alt.LayerChart:
    """Draw the set of complex hλ with |ζ|max ≤ 1, and the stability interval on the real axis."""
    reach = _reach(scheme)
    lines = _region(scheme, reach, 1.6 * reach, 90)
    heights = [float(np.abs(line[:, 1]).max()) for line in lines]
    height = 1.3 * max(heights) if heights else reach
    lines = _region(scheme, reach, min(height, 1.6 * reach), 240)
    rows: Rows = [
        {"x": float(x), "y": float(y), "i": i, "piece": piece}
        for piece, line in enumerate(lines)
        for i, (x, y) in enumerate(line)
    ]
    x = alt.X("x:Q", title=text("scheme_chart.re", lang), scale=alt.Scale(domain=[-0.12 * reach, reach], nice=False))
    y = alt.Y("y:Q", title=text("scheme_chart.im", lang), scale=alt.Scale(domain=[-height, height], nice=False))
    layers: list[alt.Chart] = []
    if rows:
        layers.append(
            alt.Chart(alt.Data(values=rows))
            .mark_line(filled=True, fill=BLUE, fillOpacity=0.18, stroke=BLUE, strokeWidth=1.6, clip=True)
            .encode(x, y, order="i:O", detail="piece:N")
        )
    interval = scheme.stability_interval
    name = text("scheme_chart.interval", lang, {"x": interval}) if interval else text("scheme_chart.none", lang)
    axis: Rows = [{"x": -0.12 * reach, "y": 0.0, "x2": reach}]
    layers.append(alt.Chart(alt.Data(values=axis)).mark_rule(color=GREY, strokeWidth=0.8).encode(x, y, x2="x2:Q"))
    if interval:
        bar: Rows = [{"x": 0.0, "y": 0.0, "x2": interval}]
        layers.append(alt.Chart(alt.Data(values=bar)).mark_rule(color=ORANGE, strokeWidth=4).encode(x, y, x2="x2:Q"))
    middle: dict[str, object] = {"x": (interval or reach) / 2, "y": 0.0, "name": name, "dx": 0, "dy": -14,
                                 "align": "center"}  # fmt: skip
    layers += label(middle, x, y, colour=RED, weight="bold")
    return alt.layer(*layers).properties(width=size, height=size, title=title(lang, "region"))


def _region(scheme: Scheme, reach: float, height: float, points: int) -> list[npt.NDArray[np.float64]]:
    """Return the closed curves |ζ|max = 1 in the frame, computed in the upper half plane and mirrored."""
    x = np.linspace(-0.12 * reach, 1.02 * reach, points)
    half = np.linspace(0.0, height, points // 2)
    upper = _amplification(scheme, x[None, :] + 1j * half[:, None])
    y = np.concatenate([-half[:0:-1], half])
    values = np.concatenate([upper[:0:-1], upper])
    # A frame of instability closes curves that would leave the picture.
    values = np.pad(np.minimum(values, 3.0), 1, constant_values=3.0)
    x = np.concatenate([[x[0] - 1e-9], x, [x[-1] + 1e-9]])
    y = np.concatenate([[y[0] - 1e-9], y, [y[-1] + 1e-9]])
    found = contourpy.contour_generator(x, y, values).lines(1.0)
    return [np.asarray(line) for line in found if len(line) > 8]


def root_locus(scheme: Scheme, lang: Language = "en", *, size: int = 280) -> alt.LayerChart:
    """Draw the roots ζ of ρ(ζ) + hλσ(ζ) for hλ from 0 to a little beyond the stability interval."""
    reach = _reach(scheme)
    rows: Rows = []
    for at in np.linspace(0.0, reach, 500):
        if isinstance(scheme, LinearMultistep):
            r = np.array([float(c) for c in analysis.rho(scheme)])
            s = np.array([float(c) for c in analysis.sigma(scheme)])
            r[len(r) - len(s) :] += at * s
            found = np.roots(r)
        else:
            polynomial = [float(c) for c in runge_kutta.stability_polynomial(scheme)]
            found = np.array([np.polyval(polynomial, -at)])
        rows += [{"re": float(z.real), "im": float(z.imag), "hl": float(at)} for z in found if abs(z) < 8]
    # Room for the roots of ρ, which lie outside where the scheme is refused.
    edge = max([1.25, *(1.1 * math.hypot(float(str(r["re"])), float(str(r["im"]))) for r in rows if r["hl"] == 0)])
    x = alt.X("re:Q", title=text("scheme_chart.re_root", lang), scale=alt.Scale(domain=[-edge, edge], nice=False))
    y = alt.Y("im:Q", title=text("scheme_chart.im_root", lang), scale=alt.Scale(domain=[-edge, edge], nice=False))
    circle: Rows = [
        {"re": math.cos(a), "im": math.sin(a), "i": i} for i, a in enumerate(np.linspace(0, 2 * math.pi, 121))
    ]
    starts: Rows = [row for row in rows if row["hl"] == 0]
    return alt.layer(
        alt.Chart(alt.Data(values=circle))
        .mark_line(filled=True, fill=GREEN, fillOpacity=0.07, stroke=GREY, strokeWidth=1.4)
        .encode(x, y, order="i:O"),
        alt.Chart(alt.Data(values=rows))
        .mark_circle(size=12, opacity=1, clip=True)
        .encode(
            x,
            y,
            color=alt.Color(
                "hl:Q",
                title=text("scheme_chart.hl", lang),
                scale=alt.Scale(scheme="viridis", reverse=True, domain=[0, reach], nice=False),
                legend=alt.Legend(gradientLength=size - 20, gradientThickness=10, tickCount=5),
            ),
        ),
        alt.Chart(alt.Data(values=starts))
        .mark_point(size=60, color=INK, filled=False, strokeWidth=1.5, clip=True)
        .encode(x, y),
    ).properties(width=size, height=size, title=title(lang, "locus"))


def amplification_curve(
    scheme: Scheme, lang: Language = "en", *, width: int = 320, height: int = 280
) -> alt.LayerChart:
    """Draw |ζ|max over real hλ, with Euler's |1 − hλ| and the exact flow's e^{−hλ} for comparison."""
    reach = _reach(scheme)
    at = np.linspace(0.0, reach, 401)
    top = 1.5 if scheme.is_usable else max(1.5, 1.05 * float(_amplification(scheme, [reach])[0]))
    curves = {"this": _amplification(scheme, at), "euler": np.abs(1 - at), "flow": np.exp(-at)}
    names = {key: text(f"scheme_chart.{key}", lang) for key in curves}
    rows: Rows = [
        {"x": float(a), "y": float(v), "curve": names[key]}
        for key, values in curves.items()
        for a, v in zip(at, values, strict=True)
        if v <= 1.3 * top
    ]
    x = alt.X("x:Q", title=text("scheme_chart.hl_long", lang), scale=alt.Scale(domain=[0, reach], nice=False))
    y = alt.Y("y:Q", title=text("scheme_chart.factor", lang), scale=alt.Scale(domain=[0, top], nice=False))
    order = list(names.values())
    line = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(clip=True)
        .encode(
            x,
            y,
            color=alt.Color(
                "curve:N",
                title=None,
                scale=alt.Scale(domain=order, range=[BLUE, GREY, INK]),
                legend=alt.Legend(orient="bottom", direction="horizontal", columns=3, labelLimit=260, symbolSize=260),
            ),
            strokeDash=alt.StrokeDash(
                "curve:N", title=None, scale=alt.Scale(domain=order, range=[[1, 0], [6, 3], [2, 3]])
            ),
            strokeWidth=alt.StrokeWidth("curve:N", title=None, scale=alt.Scale(domain=order, range=[3, 1.8, 1.8])),
        )
    )
    rule: Rows = [{"y": 1.0, "x": 0.0, "x2": reach}]
    layers = [
        alt.Chart(alt.Data(values=rule)).mark_rule(color=RED, strokeWidth=1).encode(x, y, x2="x2:Q"),
        line,
    ]
    interval = scheme.stability_interval
    if interval:
        edge: Rows = [{"x": interval, "y": 0.0, "y2": top}]
        name = text("scheme_chart.interval", lang, {"x": interval})
        layers += [
            alt.Chart(alt.Data(values=edge)).mark_rule(color=ORANGE, strokeWidth=1.6).encode(x, y, y2="y2:Q"),
            *label(
                {"x": interval, "y": 0.95 * top, "name": name, "dx": -6, "dy": 0, "align": "right"},
                x,
                y,
                size=12,
                colour=RED,
                weight="bold",
            ),
        ]
    return alt.layer(*layers).properties(width=width, height=height, title=title(lang, "curve"))


def explain(scheme: Scheme, lang: Language = "en", *, lr: float | None = None) -> alt.VConcatChart:
    """Draw all charts of a scheme on one page, with the look-ahead plane if the scheme is on it."""
    certificate = certify(scheme)
    facts = [text("scheme_chart.order", lang, {"order": certificate.order})]
    if not certificate.usable:
        facts.append(text("scheme_chart.refused", lang))
    elif lr is None:
        facts.append(text("scheme_chart.interval_at", lang, {"x": certificate.stability_interval}))
    else:
        values: dict[str, Value] = {"lr": lr, "curvature": certificate.largest_curvature(lr)}
        facts.append(text("scheme_chart.lr", lang, values))
    row = alt.hconcat(
        stability_region(scheme, lang),
        root_locus(scheme, lang),
        amplification_curve(scheme, lang),
        spacing=110,
        bounds="flush",
    ).resolve_scale(**APART)
    parts: list[alt.HConcatChart | alt.LayerChart] = [row]
    if coordinates(scheme) is not None:
        parts.append(look_ahead_plane(lang, highlight=scheme, width=1040, height=380, configured=False))
    page = alt.vconcat(*parts, spacing=30).resolve_scale(**APART)
    summary = certificate.summary.get(lang) or certificate.summary["en"]
    return styled(
        page.properties(
            title=alt.TitleParams(
                f"{scheme.name}   ·   {'   ·   '.join(facts)}",
                subtitle=summary,
                fontSize=20,
                subtitleFontSize=14,
                offset=16,
            )
        )
    )
