"""The charts of the report as SVG: KPI intervals, learning curves, dots by seed, learning-rate trials, stability.

An arm has one colour in all charts (class ``s0`` to ``s7``; the baseline is ``s0``, in ink). An interval beyond the
frame ends in an arrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len

from sabun.messages.formatting import show
from sabun.messages.languages import Language, languages
from sabun.messages.sentences import interval, listed, text
from sabun.poc.judgement.assessment import Comparison
from sabun.poc.judgement.kpis import KPIS, Group, deciding
from sabun.report.facts import ArmFacts, Candidate, Report
from sabun.report.svg import Canvas, Label, Scale
from sabun.text_safety import shorten

__all__ = [
    "CURVE_POINTS",
    "curves",
    "dots",
    "edge",
    "forest",
    "loss_scale",
    "lr_trials",
    "places",
    "series",
    "stability_map",
    "thin",
]

COLOURS = 7
CURVE_POINTS = 250
"""Points drawn of a learning curve: more than a screen can show apart, few enough for a small file."""


def thin(count: int, most: int = CURVE_POINTS) -> list[int]:
    """Return at most ``most`` evenly spaced indices of ``count`` points, with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def series(index: int) -> str:
    """Return the CSS class of the arm at ``index``; 0 is the baseline. Beyond the palette colours repeat, dashed."""
    return f"s{index}" if index <= COLOURS else f"s{(index - 1) % COLOURS + 1} again"


def _style(comparison: Comparison) -> str:
    return "ratio" if comparison.scale == "ratio" else "spct"


def _number(value: float, style: str) -> Label:
    return lambda lang: show(value, style, lang)


def _name(report: Report, arm: ArmFacts, length: int) -> Label:
    """The name of an arm in at most ``length`` characters."""
    return lambda lang: shorten(report.label(arm.name, lang), length)


def _wide(label: Label) -> float:
    """The width of a label in pixels, about, in the language in which it is widest."""
    return 7.2 * max(cell_len(label(lang)) for lang in languages())


def forest(report: Report, group: Group, label_id: str) -> str:
    """Draw effect and interval of every candidate on the deciding KPI of ``group``; the shaded side passes."""
    rows = [(candidate, candidate.deciding(group)) for candidate in report.candidates]
    ratio = deciding(group).scale == "ratio"
    equal = 1.0 if ratio else 0.0
    thresholds = [f.threshold for _, f in rows if f is not None and f.threshold is not None]
    limit = thresholds[0] if thresholds else equal
    if not ratio:
        limit = -abs(limit)
    width, left, right, top, step = 360.0, 14.0, 346.0, 44.0, 46.0
    height = top + step * len(rows) + 34
    inside = [equal, limit]
    for _, found in rows:
        if found is not None:
            inside += [v for v in (found.effect, found.low, found.high) if v is not None and math.isfinite(v)]
    frame = (1 / 6, 6.0) if ratio else (-1.0, 2.0)
    inside = [min(max(v, frame[0]), frame[1]) for v in inside]
    span = math.log(1.25) if ratio else 0.1
    inside += [equal * math.exp(-span), equal * math.exp(span)] if ratio else [-span, span]
    x = Scale.fit(inside, left, right, log=ratio, pad=0.06)
    style = "ratio" if ratio else "spct"
    c = Canvas(width, height)
    bottom = top + step * len(rows)
    c.rect(left, top - 4, x(limit) - left, bottom - top + 4, "zone")
    for tick in x.ticks(4):
        c.line(x(tick), top - 4, x(tick), bottom, "grid")
        c.text(x(tick), bottom + 15, _number(tick, f"tick_{style}"), "tick", anchor="middle")
    c.line(x(equal), top - 4, x(equal), bottom, "equal")
    if limit != equal:
        c.line(x(limit), top - 4, x(limit), bottom, "limit")
    key = "ui.limit" if ratio else "ui.needed"
    if limit != equal:
        side = "end" if x(limit) > width * 0.6 else "start"

        def needed(lang: Language) -> str:
            return text(key, lang, {"limit": show(limit, f"tick_{style}", lang)})

        c.text(x(limit), top - 10, needed, "limit-text", anchor=side)
    c.text(left, 12, lambda lang: text("ui.better_left", lang), "hint good")
    c.text(right, 12, lambda lang: text("ui.worse_right", lang), "hint", anchor="end")
    for i, (candidate, found) in enumerate(rows):
        y = top + step * i
        c.text(left + 2, y + 13, shorten(candidate.arm, 34), "row-name")
        _interval(c, x, y + 30, candidate, group, found, right)
    return c.render(label_id, "forest")


def _interval(
    c: Canvas, x: Scale, y: float, candidate: Candidate, group: Group, found: Comparison | None, right: float
) -> None:
    if found is None or found.effect is None or not math.isfinite(found.effect):
        c.text(right, y - 17, "–", "row-value", anchor="end")
        return
    kind = candidate.mark(group)
    style = _style(found)
    c.text(right, y - 17, lambda lang: show(found.effect, style, lang), "row-value", anchor="end")
    for b, v in zip(found.baseline, found.candidate, strict=False):
        if deciding(group).analysis == "spread" or not (b > 0 and math.isfinite(b) and math.isfinite(v)):
            continue
        single = v / b if found.scale == "ratio" else v / b - 1
        if x.covers(single):
            c.dot(x(single), y + 9, 1.8, f"each {kind}")
    low = x.low if found.low is None or not math.isfinite(found.low) else found.low
    high = x.high if found.high is None or not math.isfinite(found.high) else found.high
    c.line(x(low), y, x(high), y, f"bar {kind}")
    if low < x.low or low == x.low:
        c.add(f'<path d="M{x.start + 6:.1f} {y - 4:.1f}l-6 4l6 4" class="bar arrow {kind}"/>')
    else:
        c.line(x(low), y - 4, x(low), y + 4, f"bar {kind}")
    if high > x.high or high == x.high:
        c.add(f'<path d="M{x.end - 6:.1f} {y - 4:.1f}l6 4l-6 4" class="bar arrow {kind}"/>')
    else:
        c.line(x(high), y - 4, x(high), y + 4, f"bar {kind}")

    def tip(lang: Language) -> str:
        numbers = f"{show(found.effect, style, lang)} ({interval(found.low, found.high, style, lang)})"
        return f"{shorten(candidate.arm, 60)}\n{numbers}\n{text(f'word.{kind}', lang)}"

    c.mark(x(found.effect), y, kind, kind, tip=tip)


def curves(report: Report, axis: str, label_id: str, *, width: float = 520, log: bool | None = None) -> str:
    """Draw the median validation loss, and its range over seeds, against ``epoch`` or ``seconds``.

    With ``log=None`` the scale of the loss is logarithmic where the values differ by more than a factor of 8.
    """
    height, left, right, top, bottom = 330.0, 54.0, width - 12, 28.0, 288.0
    y = loss_scale(report, bottom, top, log=log)
    ends = [v for arm in report.arms for v in places(arm, axis) if math.isfinite(v)]
    x = Scale(0.0, max(ends, default=1.0) or 1.0, left, right)
    c = Canvas(width, height)
    _frame(c, x, y, "ui.log_loss" if y.log else "ui.loss", f"ui.{'epoch' if axis == 'epoch' else 'seconds'}")
    order = [*range(1, len(report.arms)), 0]
    for i in order:
        arm = report.arms[i]
        s = arm.summary
        keep = thin(len(s.epochs))
        xs = [x(places(arm, axis)[k]) for k in keep]
        upper, lower, median = (
            [(px, y(values[k]) if math.isfinite(values[k]) else missing) for px, k in zip(xs, keep, strict=True)]
            for values, missing in ((s.loss_high, y.end), (s.loss_low, y.end), (s.loss_median, math.nan))
        )
        main = " main" if arm.baseline or arm.name == report.leading else ""
        c.add(f'<g class="{series(i)}{main}" data-series="{i}">')
        c.path([*upper, *reversed(lower)], "band", closed=True)
        c.path(median, "line")
        c.add("</g>")
    c.add(f'<line x1="0" x2="0" y1="{top:g}" y2="{bottom:g}" class="cursor" hidden="hidden"/>')
    c.add(
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" class="hit" '
        f'data-curves="{axis}" data-x0="{left:g}" data-x1="{right:g}" data-max="{x.high:.6g}" '
        f'data-low="{y.low:.6g}" data-high="{y.high:.6g}" data-log="{y.log:d}" tabindex="0"/>'
    )
    return c.render(label_id, "curves")


def places(arm: ArmFacts, axis: str) -> Sequence[float]:
    """Return where the points of an arm's learning curve lie on ``epoch`` or ``seconds``."""
    return [float(e) for e in arm.summary.epochs] if axis == "epoch" else list(arm.summary.seconds_median)


def loss_scale(report: Report, start: float, end: float, *, log: bool | None = None) -> Scale:
    """Return the scale of the validation loss for the learning curves of all arms."""
    losses = [v for arm in report.arms for v in (*arm.summary.loss_median, *arm.summary.loss_low) if math.isfinite(v)]
    # A band that shoots up in a diverging seed must not flatten everything else.
    first = max((arm.summary.loss_median[0] for arm in report.arms if arm.summary.loss_median), default=1.0)
    highs = [v for arm in report.arms for v in arm.summary.loss_high if math.isfinite(v) and v <= 3 * max(first, 1e-12)]
    return Scale.fit([*losses, *highs], start, end, log=log, pad=0.04)


def _frame(c: Canvas, x: Scale, y: Scale, y_key: str, x_key: str) -> None:
    """Draw grid, ticks and axis titles. The title of the y-axis is above it, because rotated text is hard to read."""
    for tick in y.ticks(5):
        c.line(x.start, y(tick), x.end, y(tick), "grid")
        c.text(x.start - 8, y(tick) + 4, _number(tick, "tick"), "tick", anchor="end")
    c.line(x.start, y.start, x.end, y.start, "axis")
    for tick in x.ticks(6):
        c.line(x(tick), y.start, x(tick), y.start + 4, "axis")
        c.text(x(tick), y.start + 18, _number(tick, "tick"), "tick", anchor="middle")
    c.text(2, 12, lambda lang: text(y_key, lang), "axis-title")
    c.text(x.end, y.start + 36, lambda lang: text(x_key, lang), "axis-title", anchor="end")


def dots(report: Report, kpi: str, label_id: str, *, width: float = 520, log: bool | None = None) -> str:
    """Draw the values of a KPI, one dot per seed and one row per arm.

    A value that is not finite is an open dot at the right edge, labelled with what happened to the run.
    """
    axis_key = f"dots.{kpi}_axis"
    step, top = 40.0, 12.0
    left, right = 14.0, width - 14
    rows = [(i, arm, arm.summary.values.get(kpi, ())) for i, arm in enumerate(report.arms)]
    finite = [v for _, _, values in rows for v in values if math.isfinite(v)]
    edge_keys = sorted({_edge_key(arm, kpi, n) for _, arm, values in rows for n, v in enumerate(values)
                        if not math.isfinite(v)})  # fmt: skip
    bottom = top + step * len(rows) + 4
    x = Scale.fit(finite, left + 6, right - (70 * len(edge_keys) if edge_keys else 6), log=log, pad=0.03)
    c = Canvas(width, bottom + 42)
    for tick in x.ticks(5):
        c.line(x(tick), top, x(tick), bottom, "grid")
        c.text(x(tick), bottom + 16, _number(tick, "tick"), "tick", anchor="middle")
    c.line(left, bottom, right, bottom, "axis")
    c.text(right, bottom + 34, lambda lang: text(axis_key, lang), "axis-title", anchor="end")
    if edge_keys:
        c.text(
            right, bottom + 16, lambda lang: listed([text(key, lang) for key in edge_keys], lang), "tick", anchor="end"
        )
    for row, (i, arm, values) in enumerate(rows):
        y = top + step * row
        c.add(f'<g class="{series(i)}" data-series="{i}">')
        c.text(left, y + 13, _name(report, arm, int(width / 10)), "row-name")
        for n, (seed, value) in enumerate(zip(arm.summary.seeds, values, strict=False)):
            lift = (-3.0, 0.0, 3.0)[n % 3]

            def tip(lang: Language, arm: ArmFacts = arm, seed: int = seed, value: float = value, n: int = n) -> str:
                finite = math.isfinite(value)
                shown = show(value, KPIS[kpi].style, lang) if finite else text(_edge_key(arm, kpi, n), lang)
                return f"{_name(report, arm, 60)(lang)}\n{text('ui.seed', lang, {'seed': seed})}: {shown}"

            if math.isfinite(value):
                c.dot(x(value), y + 26 + lift, 4, "dot", tip=tip)
            else:
                c.dot(right - 8 - 5 * (n % 8), y + 26 + lift, 4, "dot hollow", tip=tip)
        median = arm.summary.medians.get(kpi)
        if median is not None and math.isfinite(median):
            c.line(x(median), y + 16, x(median), y + 36, "median")
        c.add("</g>")
    return c.render(label_id, "strip")


def _edge_key(arm: ArmFacts, kpi: str, n: int) -> str:
    """The message for the ``n``-th value of a KPI, which is not finite.

    inf is worse than any number (diverged, not reached). NaN: the run failed, or the value has no
    definition, as the time to the final loss of a baseline that diverged.
    """
    values = arm.summary.values
    if not math.isnan(values[kpi][n]):
        return f"dots.{kpi}_edge"
    losses = values.get("final_loss", ())
    return "ui.dot_failed" if n < len(losses) and math.isnan(losses[n]) else "ui.dot_no_value"


def lr_trials(report: Report, label_id: str, *, width: float = 520) -> str:
    """Draw the validation loss of each tuning trial against its learning rate, with a ring at the one that was used."""
    height, left, right, top, bottom = 330.0, 54.0, width - 14, 28.0, 288.0
    found = [(i, arm) for i, arm in enumerate(report.arms) if arm.lr_trials]
    rates = [lr for _, arm in found for lr, _ in arm.lr_trials]
    losses = [v for _, arm in found for _, v in arm.lr_trials if math.isfinite(v) and v > 0]
    best = min(losses, default=0.1)
    # Far above the best, how bad no longer matters: the frame keeps the part that decides.
    y = Scale.fit([v for v in losses if v <= 30 * best] or [0.1, 1.0], bottom, top, log=True, pad=0.06)
    x = Scale.fit(rates or [0.01, 1.0], left, right, log=True, pad=0.03)
    c = Canvas(width, height)
    _frame(c, x, y, "ui.log_loss", "ui.lr_axis")
    for i, arm in [*found[1:], *found[:1]]:
        c.add(f'<g class="{series(i)}" data-series="{i}">')
        c.path([(x(lr), y(v) if math.isfinite(v) else y(y.high)) for lr, v in arm.lr_trials], "line thin")
        for lr, v in arm.lr_trials:

            def tip(lang: Language, arm: ArmFacts = arm, lr: float = lr, v: float = v) -> str:
                return f"{_name(report, arm, 60)(lang)}\nlr {show(lr, 'num', lang)}: {show(v, 'loss', lang)}"

            c.dot(
                x(lr), y(v) if math.isfinite(v) else y(y.high), 3, "dot" if math.isfinite(v) else "dot hollow", tip=tip
            )
        used = arm.best.get("lr")
        for lr, v in arm.lr_trials:
            if used == lr and math.isfinite(v):
                c.dot(x(lr), y(v), 7, "ring")
        c.add("</g>")
    return c.render(label_id, "lr")


LEAST_USED = 1e-3
"""Below this share of the stability interval it no longer matters how little of it is used."""


def edge(report: Report, label_id: str, *, width: float = 520) -> str:
    """Draw the used share of the stability interval by epoch, one line per arm for which it was measured."""
    height, left, right, top, bottom = 300.0, 54.0, width - 14, 28.0, 258.0
    found = [(i, arm, arm.interval_used) for i, arm in enumerate(report.arms) if arm.interval_used]
    shares = [max(share, LEAST_USED) for _, _, used in found for _, share in used]
    y = Scale.fit([*shares, 0.1, 1.5], bottom, top, log=True, pad=0.04)
    x = Scale(0.0, float(max((epoch for _, _, used in found for epoch, _ in used), default=0) or 1), left, right)
    c = Canvas(width, height)
    c.rect(left, y.end, right - left, y(1.0) - y.end, "beyond")
    _frame(c, x, y, "ui.axis_used", "ui.epoch")
    c.line(left, y(1.0), right, y(1.0), "edge")
    c.text(right, y(1.0) - 6, lambda lang: text("ui.edge", lang), "edge-text", anchor="end")
    for i, arm, used in [*found[1:], *found[:1]]:
        points = [
            (epoch, share, (x(epoch), y(max(share, y.low)))) for epoch, share in (used[k] for k in thin(len(used)))
        ]
        c.add(f'<g class="{series(i)}" data-series="{i}">')
        c.path([at for _, _, at in points], "line thin")
        for epoch, share, at in points[:: 1 + len(points) // 60]:

            def tip(lang: Language, arm: ArmFacts = arm, epoch: int = epoch, share: float = share) -> str:
                place = f"{text('ui.epoch', lang)} {epoch}: {show(share, 'pct', lang)}"
                return f"{_name(report, arm, 60)(lang)}\n{place}"

            c.dot(*at, 3.4, "dot", tip=tip)
        c.add("</g>")
    boxes = [
        (px - 4, py - 4, 8.0, 8.0) for _, _, used in found for px, py in ((x(e), y(max(s, y.low))) for e, s in used)
    ]
    for i, arm, used in found:
        epoch, share = max(used, key=lambda pair: pair[1])
        name = _name(report, arm, 24)
        tx, ty, anchor = _free_place(x(epoch), y(max(share, y.low)), _wide(name), boxes, (left, right))
        c.add(f'<g class="{series(i)}" data-series="{i}">')
        c.text(tx, ty, name, "dot-name own", anchor=anchor)
        c.add("</g>")
    return c.render(label_id, "edge-of-stability")


def stability_map(report: Report, label_id: str, *, width: float = 520) -> str:
    """Draw the error constant against the stability interval of the schemes of all arms, on logarithmic axes."""
    height, left, right, top, bottom = 300.0, 54.0, width - 20, 28.0, 258.0
    found = [
        (i, arm, arm.method.stability_interval, arm.method.error_constant)
        for i, arm in enumerate(report.arms)
        if arm.method is not None and arm.method.stability_interval and arm.method.error_constant
    ]
    x = Scale.fit([f[2] or 1.0 for f in found] + [1.0, 10.0], left, right, log=True, pad=0.12)
    y = Scale.fit([abs(f[3] or 1.0) for f in found] + [0.5, 5.0], bottom, top, log=True, pad=0.2)
    c = Canvas(width, height)
    _frame(c, x, y, "ui.axis_error", "ui.axis_interval")
    boxes = [(x(reach or 1.0) - 7, y(abs(constant or 1.0)) - 7, 14.0, 14.0) for _, _, reach, constant in found]
    for i, arm, reach, constant in found:
        px, py = x(reach or 1.0), y(abs(constant or 1.0))
        name = _name(report, arm, 24)

        def tip(lang: Language, arm: ArmFacts = arm, at: tuple[float | None, float | None] = (reach, constant)) -> str:
            return f"{_name(report, arm, 60)(lang)}\nhλ ≤ {show(at[0], 'num', lang)}, C = {show(at[1], 'num', lang)}"

        tx, ty, anchor = _free_place(px, py, _wide(name), boxes, (0.0, right + 20))
        c.add(f'<g class="{series(i)}" data-series="{i}">')
        c.dot(px, py, 6, "dot", tip=tip)
        c.text(tx, ty, name, "dot-name", anchor=anchor)
        c.add("</g>")
    return c.render(label_id, "map")


def _free_place(
    px: float, py: float, width: float, boxes: list[tuple[float, float, float, float]], frame: tuple[float, float]
) -> tuple[float, float, str]:
    """Return the position and anchor with the least overlap for the name of a dot, and add its box to ``boxes``."""
    places = [
        (px + 11, py + 4, "start", px + 11),
        (px - 11, py + 4, "end", px - 11 - width),
        (px, py - 12, "middle", px - width / 2),
        (px, py + 21, "middle", px - width / 2),
        (px + 11, py + 21, "start", px + 11),
        (px - 11, py - 12, "end", px - 11 - width),
    ]

    def overlap(left: float, top: float) -> float:
        outside = max(0.0, frame[0] - left) + max(0.0, left + width - frame[1])
        shared = sum(
            max(0.0, min(left + width, bx + bw) - max(left, bx)) * max(0.0, min(top + 14, by + bh) - max(top, by))
            for bx, by, bw, bh in boxes
        )
        return 100 * outside + shared

    tx, ty, anchor, left = min(places, key=lambda place: overlap(place[3], place[1] - 11))
    boxes.append((left, ty - 11, width, 14.0))
    return tx, ty, anchor
