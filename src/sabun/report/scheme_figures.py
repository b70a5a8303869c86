"""Pictures of a scheme: where it is stable, how its roots move, how fast it damps; and the look-ahead plane.

Every function returns an altair chart; :func:`save_png` writes one. The plane is the map of first-order optimizers:
memory β to the right, look-ahead γ upwards. Known optimizers are single dots on it, contours say how far each is
stable, and one curve marks second-order accuracy. Colours are those of Okabe and Ito, which colour-blind readers can
tell apart.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import altair as alt
import contourpy
import numpy as np
import numpy.typing as npt

from sabun import schemes
from sabun.errors import SchemeError
from sabun.schemes import ButcherTableau, LinearMultistep, analysis, runge_kutta
from sabun.schemes.numbers import short

__all__ = [
    "amplification_curve",
    "coordinates",
    "explain",
    "look_ahead_plane",
    "root_locus",
    "save_png",
    "stability_region",
]

Scheme = LinearMultistep | ButcherTableau
Rows = list[dict[str, object]]

BLUE, ORANGE, GREEN, GREY, INK, RED = "#0072B2", "#D55E00", "#009E73", "#8A8F98", "#22262B", "#C2410C"
FONT = "DejaVu Sans, Verdana, IPAexGothic, Noto Sans CJK JP, sans-serif"

_TEXT: dict[str, dict[str, str]] = {
    "en": {
        "region": "Where a step is stable",
        "region_sub": "shaded: all complex hλ for which errors decay",
        "re": "Re hλ   (learning rate × curvature)",
        "im": "Im hλ",
        "locus": "How the roots move as hλ grows",
        "locus_sub": "inside the circle a mode decays, outside it grows",
        "re_root": "Re ζ",
        "im_root": "Im ζ",
        "hl": "hλ",
        "curve": "How much of an error survives a step",
        "curve_sub": "below 1 it decays; the exact flow is the ideal",
        "hl_long": "hλ   (learning rate × curvature)",
        "factor": "|ζ| max",
        "this": "this scheme",
        "euler": "Euler (plain SGD)",
        "flow": "exact flow e^(−hλ)",
        "interval": "stable up to {x}",
        "none": "stable nowhere",
        "plane": "The look-ahead plane: first-order optimizers on one map",
        "plane_sub": "Thin lines: stability interval. Nearer the dashed line: more accurate. "
        "Further right and down: more stable.",
        "beta": "β   (memory of the momentum)",
        "gamma": "γ   (weight of the gradient's last change)",
        "order2": "order 2: γ = (1+β)/(2(1−β))",
        "above": "above the dashed line: less stable than plain SGD",
        "refused": "not usable for training",
        "order": "order {order}",
        "lr": "learning rate {lr}: stable for curvatures up to {curvature}",
    },
    "ja": {
        "region": "安定な領域",
        "region_sub": "塗りつぶし：誤差が減衰する複素数 hλ の範囲",
        "re": "Re hλ（学習率 × 曲率）",
        "im": "Im hλ",
        "locus": "hλ の増加に伴う根の動き",
        "locus_sub": "円の内側では減衰し、外側では増大する",
        "re_root": "Re ζ",
        "im_root": "Im ζ",
        "hl": "hλ",
        "curve": "1ステップ後に残る誤差の割合",
        "curve_sub": "1 未満なら減衰する。理想は厳密な勾配流",
        "hl_long": "hλ（学習率 × 曲率）",
        "factor": "|ζ| の最大値",
        "this": "この手法",
        "euler": "オイラー法（通常の SGD）",
        "flow": "厳密な勾配流 e^(−hλ)",
        "interval": "{x} まで安定",
        "none": "安定な範囲なし",
        "plane": "先読み平面：1次最適化手法の地図",
        "plane_sub": "細い線は安定区間。破線に近いほど高精度、右下ほど安定。",
        "beta": "β（モメンタムの記憶の長さ）",
        "gamma": "γ（勾配の直近の変化に掛ける重み）",
        "order2": "2次精度：γ = (1+β)/(2(1−β))",
        "above": "破線より上：通常の SGD より不安定",
        "refused": "学習には使えません",
        "order": "{order}次精度",
        "lr": "学習率 {lr}：曲率 {curvature} まで安定",
    },
}


def _t(lang: str, key: str, **values: object) -> str:
    return _TEXT["ja" if lang == "ja" else "en"][key].format(**values)


def _amplification(scheme: Scheme, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    if isinstance(scheme, LinearMultistep):
        return analysis.amplification(scheme, x)
    return runge_kutta.amplification(scheme, x)


def _title(lang: str, key: str) -> alt.TitleParams:
    return alt.TitleParams(_t(lang, key), subtitle=_t(lang, f"{key}_sub"))


def _reach(scheme: Scheme) -> float:
    """The hλ up to which pictures go: a little beyond the interval; 1 for a scheme without one."""
    return 1.25 * scheme.stability_interval if scheme.stability_interval > 0 else 1.0


# ---------------------------------------------------------------- one scheme


def stability_region(scheme: Scheme, lang: str = "en", *, size: int = 280) -> alt.LayerChart:
    """The set of complex hλ with |ζ|max ≤ 1, and the stability interval on the real axis."""
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
    x = alt.X("x:Q", title=_t(lang, "re"), scale=alt.Scale(domain=[-0.12 * reach, reach], nice=False))
    y = alt.Y("y:Q", title=_t(lang, "im"), scale=alt.Scale(domain=[-height, height], nice=False))
    layers: list[alt.Chart] = []
    if rows:
        layers.append(
            alt.Chart(alt.Data(values=rows))
            .mark_line(filled=True, fill=BLUE, fillOpacity=0.18, stroke=BLUE, strokeWidth=1.6, clip=True)
            .encode(x, y, order="i:O", detail="piece:N")
        )
    interval = scheme.stability_interval
    label = _t(lang, "interval", x=short(interval)) if interval else _t(lang, "none")
    axis: Rows = [{"x": -0.12 * reach, "y": 0.0, "x2": reach}]
    layers.append(alt.Chart(alt.Data(values=axis)).mark_rule(color=GREY, strokeWidth=0.8).encode(x, y, x2="x2:Q"))
    if interval:
        bar: Rows = [{"x": 0.0, "y": 0.0, "x2": interval}]
        layers.append(alt.Chart(alt.Data(values=bar)).mark_rule(color=ORANGE, strokeWidth=4).encode(x, y, x2="x2:Q"))
    middle: dict[str, object] = {"x": (interval or reach) / 2, "y": 0.0, "name": label, "dx": 0, "dy": -14,
                                 "align": "center"}  # fmt: skip
    layers += _label(middle, x, y, colour=RED, weight="bold")
    return alt.layer(*layers).properties(width=size, height=size, title=_title(lang, "region"))


def _region(scheme: Scheme, reach: float, height: float, points: int) -> list[npt.NDArray[np.float64]]:
    """Closed curves |ζ|max = 1 in the frame: computed for the upper half plane and mirrored."""
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


def root_locus(scheme: Scheme, lang: str = "en", *, size: int = 280) -> alt.LayerChart:
    """The roots ζ of ρ(ζ) + hλσ(ζ) as hλ runs from 0 to a little beyond the stability interval."""
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
    x = alt.X("re:Q", title=_t(lang, "re_root"), scale=alt.Scale(domain=[-edge, edge], nice=False))
    y = alt.Y("im:Q", title=_t(lang, "im_root"), scale=alt.Scale(domain=[-edge, edge], nice=False))
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
                title=_t(lang, "hl"),
                scale=alt.Scale(scheme="viridis", reverse=True, domain=[0, reach], nice=False),
                legend=alt.Legend(gradientLength=size - 20, gradientThickness=10, tickCount=5),
            ),
        ),
        alt.Chart(alt.Data(values=starts))
        .mark_point(size=60, color=INK, filled=False, strokeWidth=1.5, clip=True)
        .encode(x, y),
    ).properties(width=size, height=size, title=_title(lang, "locus"))


def amplification_curve(scheme: Scheme, lang: str = "en", *, width: int = 320, height: int = 280) -> alt.LayerChart:
    """|ζ|max over hλ on the real axis, with Euler's |1 − hλ| and the exact flow's e^{−hλ} for comparison."""
    reach = _reach(scheme)
    at = np.linspace(0.0, reach, 401)
    top = 1.5 if scheme.is_usable else max(1.5, 1.05 * float(_amplification(scheme, [reach])[0]))
    curves = {"this": _amplification(scheme, at), "euler": np.abs(1 - at), "flow": np.exp(-at)}
    names = {key: _t(lang, key) for key in curves}
    rows: Rows = [
        {"x": float(a), "y": float(v), "curve": names[key]}
        for key, values in curves.items()
        for a, v in zip(at, values, strict=True)
        if v <= 1.3 * top
    ]
    x = alt.X("x:Q", title=_t(lang, "hl_long"), scale=alt.Scale(domain=[0, reach], nice=False))
    y = alt.Y("y:Q", title=_t(lang, "factor"), scale=alt.Scale(domain=[0, top], nice=False))
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
        edge: Rows = [{"x": interval, "y": 0.0, "y2": top, "label": _t(lang, "interval", x=short(interval))}]
        layers += [
            alt.Chart(alt.Data(values=edge)).mark_rule(color=ORANGE, strokeWidth=1.6).encode(x, y, y2="y2:Q"),
            *_label(
                {"x": interval, "y": 0.95 * top, "name": edge[0]["label"], "dx": -6, "dy": 0, "align": "right"},
                x,
                y,
                size=12,
                colour=RED,
                weight="bold",
            ),
        ]
    return alt.layer(*layers).properties(width=width, height=height, title=_title(lang, "curve"))


def explain(scheme: Scheme, lang: str = "en", *, lr: float | None = None) -> alt.VConcatChart:
    """Everything of one scheme on one page; with the look-ahead plane where the scheme lies on it."""
    certificate = schemes.certify(scheme)
    facts = [_t(lang, "order", order=certificate.order)]
    if not certificate.usable:
        facts.append(_t(lang, "refused"))
    elif lr is None:
        facts.append(_t(lang, "interval", x=f"hλ = {short(certificate.stability_interval)}"))
    else:
        facts.append(_t(lang, "lr", lr=short(lr), curvature=short(certificate.largest_curvature(lr))))
    row = alt.hconcat(
        stability_region(scheme, lang),
        root_locus(scheme, lang),
        amplification_curve(scheme, lang),
        spacing=110,
        bounds="flush",
    ).resolve_scale(**_APART)
    parts: list[alt.HConcatChart | alt.LayerChart] = [row]
    if coordinates(scheme) is not None:
        parts.append(look_ahead_plane(lang, highlight=scheme, width=1040, height=380, configured=False))
    page = alt.vconcat(*parts, spacing=30).resolve_scale(**_APART)
    summary = certificate.summary.get(lang) or certificate.summary["en"]
    return _styled(
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


# ---------------------------------------------------------------- the plane

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
    ("QHM (paper's default)", "quasi-hyperbolic(0.7, 0.999)", 8, 17, "right"),
    ("sabun look-ahead (0.9, 2)", "look-ahead(0.9, 2)", 11, 0, "left"),
    ("order-two (0.9)", "order-two(0.9)", -14, -4, "right"),
)
_APART: Any = {"color": "independent", "strokeDash": "independent", "strokeWidth": "independent"}
_BETAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
_LEVELS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def coordinates(scheme: Scheme) -> tuple[float, float] | None:
    """(β, γ) of a scheme on the look-ahead plane; None for one that is not on it."""
    if not isinstance(scheme, LinearMultistep):
        return None
    f = scheme.to_filter()
    if len(f.a) > 2 or len(f.b) > 2:
        return None
    beta = -f.a[1] if len(f.a) == 2 else 0
    gamma = -(f.b[1] if len(f.b) == 2 else 0) / (1 - beta)
    return float(beta), float(gamma)


def look_ahead_plane(
    lang: str = "en",
    *,
    highlight: Scheme | None = None,
    width: int = 900,
    height: int = 520,
    configured: bool = True,
) -> alt.LayerChart:
    """β × γ with contours of the stability interval, the curve of order 2, and known optimizers as labelled dots.

    β is drawn on the scale of its memory 1/(1−β), logarithmically; γ on a scale that is linear near 0 and logarithmic
    far from it, so that all dots can be told apart. ``highlight`` adds one scheme; SchemeError when it is not on the
    plane.
    """
    low, high = 0.87, 1300.0
    bottom, top = -0.24, 900.0
    x = alt.X(
        "memory:Q",
        title=_t(lang, "beta"),
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=[1 / (1 - b) for b in _BETAS],
            labelExpr="format(round((1 - 1/datum.value)*1000)/1000, '')",
            grid=False,
        ),
    )
    y = alt.Y(
        "gamma:Q",
        title=_t(lang, "gamma"),
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
        *(part for row in labels for part in _label(row, x, y, size=11.5, colour="#3F5F78", halo=False)),
        *_label(
            {"memory": 26.0, "gamma": 25.5, "name": _t(lang, "order2"), "dx": -14, "dy": -8, "align": "right"},
            x,
            y,
            colour=RED,
            weight="bold",
        ),
        *_label(
            {"memory": 1.06, "gamma": 420.0, "name": _t(lang, "above"), "dx": 0, "dy": 0, "align": "left"},
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
        layers += _label(dot, x, y)
    colour = alt.Color("colour:N", scale=None)
    layers.append(
        alt.Chart(alt.Data(values=dots))
        .mark_circle(size=110, opacity=1, stroke="white", strokeWidth=1.2)
        .encode(x, y, color=colour)
    )
    chart = alt.layer(*layers).properties(width=width, height=height, title=_title(lang, "plane"))
    return _styled(chart) if configured else chart


def _label(
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

    def text(**style: Any) -> alt.Chart:
        mark = {"align": row["align"], "dx": row["dx"], "dy": row["dy"], "fontSize": size, "fontWeight": weight,
                "baseline": "middle", **style}  # fmt: skip
        return alt.Chart(alt.Data(values=[row])).mark_text(**mark).encode(x, y, text="name:N")

    under = [text(color="white", stroke="white", strokeWidth=4, strokeJoin="round")] if halo else []
    return [*under, text(color=colour)]


def _contours(high: float, top: float) -> tuple[Rows, Rows]:
    """Lines of equal stability interval 2(1+β)/((1−β)(1+2γ)), γ ≥ 0, and a label where each leaves the picture."""
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


# ---------------------------------------------------------------- output


def _styled(chart: Any) -> Any:
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
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(picture)
        partial.replace(path)
    except OSError as error:
        raise SchemeError(
            f"cannot write {path}: {error.strerror}.", fix="Give a file in a folder that exists and can be written."
        ) from error
