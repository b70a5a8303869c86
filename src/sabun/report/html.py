"""The report as one self-contained HTML file: all languages, offline, printable, without a single request.

Every sentence is in the page once per language, and a style rule shows one of them without JavaScript.
Its content-security policy forbids all network access and every script but its own (by hash): a name that slipped
through escaping could not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sabun.messages.formatting import Formatter, conventions, show
from sabun.messages.languages import DEFAULT, Language, languages
from sabun.messages.sentences import Value, interval, joined, listed, text
from sabun.poc.judgement.assessment import Comparison, Reason
from sabun.poc.judgement.kpis import GROUPS, KPIS, deciding
from sabun.report import charts
from sabun.report.facts import Note, Report
from sabun.report.money import more_machines
from sabun.text_safety import clean

__all__ = ["render"]

_BREAK = re.compile(r"(?<=[:@,_])(?=\S)|(?<=\S\()(?=\S)|(?=（)")
"""Where a long name may break, rather than anywhere: after punctuation, or before a wide bracket."""
WIDTHS = (("wide", 520.0), ("narrow", 350.0))
"""Charts whose width matters are drawn for two: style class and width."""


def render(report: Report, lang: Language | None = None) -> str:
    """The page, shown in ``lang`` at first; by default in the language of the reader's browser."""
    by_browser, lang = lang is None, DEFAULT if lang is None else lang
    files = resources.files("sabun.report").joinpath("templates")
    script = files.joinpath("report.js").read_text(encoding="utf-8")
    style = files.joinpath("report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
    )
    view = _View(report)
    environment.globals.update(
        t=view.t, v=view.v, note=view.note, reason=view.reason, joined=view.joined, listed=view.listed, span=view.span,
        notes=view.notes, figure=view.figure,
        clean=view.name, arm_name=view.arm, date=view.date, plain=text, series=charts.series,
        languages=languages(), kpis=KPIS,
        groups=[(group, deciding(group).id) for group in GROUPS], dots=[kpi.id for kpi in KPIS.values() if kpi.dots],
        method_key=_method_key, more_machines=more_machines, bracketed=view.bracketed,
    )  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = "".join(
        f'html[data-lang={code}] body [lang]:not([lang=""],[lang={code}]){{display:none}}' for code in languages()
    )
    return environment.get_template("report.html.j2").render(
        r=report,
        lang=lang,
        by_browser=by_browser,
        style=Markup(style + shown),
        script=Markup(script),
        script_hash=digest,
        data=Markup(_data(report)),
        title=text("ui.title", lang, {"name": report.name}),
        titles={code: text("ui.title", code, {"name": report.name}) for code in languages()},
    )


def _method_key(comparison: Comparison) -> str:
    """The message that names the method. Distances from each arm's own median make the sign-flip test approximate."""
    spread = comparison.method in ("sign-flip", "permutation") and KPIS[comparison.kpi].analysis == "spread"
    return f"method.{comparison.method}{'-spread' if spread else ''}"


def _data(report: Report) -> str:
    """What the page's script needs for hovering, as JSON that cannot end its ``<script>`` element."""
    arms = []
    for arm in report.arms:
        s = arm.summary
        keep = charts.thin(len(s.epochs))
        arms.append(
            {
                "name": {lang: "".join(report.label(arm.name, lang).splitlines())[:80] for lang in languages()},
                "epoch": [s.epochs[i] for i in keep],
                "seconds": [_number(s.seconds_median[i]) for i in keep],
                "median": [show(s.loss_median[i], "loss", DEFAULT) for i in keep],
                "low": [show(s.loss_low[i], "loss", DEFAULT) for i in keep],
                "high": [show(s.loss_high[i], "loss", DEFAULT) for i in keep],
                "seed_at": [keep.index(n) for n in (s.epochs.index(e) for e in arm.seed_epochs) if n in keep],
                "seeds": [[_digits(v) for v in losses] for losses in arm.seed_losses],
            }
        )
    words = {
        lang: {
            "epoch": text("ui.epoch", lang),
            "seconds": text("ui.seconds", lang),
            "decimal": conventions(lang)["decimal"],
            "thousands": conventions(lang)["thousands"],
        }
        for lang in languages()
    }
    raw = json.dumps({"arms": arms, "words": words}, ensure_ascii=False, separators=(",", ":"))
    return raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digits(x: float) -> float | None:
    return float(f"{x:.4g}") if math.isfinite(x) else None


def _number(x: float) -> float | None:
    return round(x, 4) if math.isfinite(x) else None


class _View:
    """The functions that the template calls; all return safe markup."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._figures = 0

    def each(self, say: Callable[[Language], str]) -> Markup:
        """One span per language, or plain text where they agree."""
        texts = {lang: say(lang) for lang in languages()}
        if len(set(texts.values())) == 1:
            return Markup(clean(texts[DEFAULT]))
        return Markup("".join(f'<span lang="{lang}">{clean(words)}</span>' for lang, words in texts.items()))

    def t(self, key: str, **values: Any) -> Markup:
        """The sentence ``key``."""
        return self.joined(key, **values)

    def joined(self, *keys: str, **values: Any) -> Markup:
        """Several sentences as one paragraph."""
        return self.each(lambda lang: joined([self.report.say(key, lang, values) for key in keys], lang))

    def listed(self, items: Sequence[object]) -> Markup:
        """Items as one list."""
        return self.each(lambda lang: listed([str(item) for item in items], lang))

    def note(self, note: Note) -> Markup:
        """The sentence of a note."""
        return self.each(lambda lang: self.report.sentence(note, lang))

    def notes(self, notes: Sequence[Note]) -> Markup:
        """Several notes as one paragraph."""
        return self.each(lambda lang: joined([self.report.sentence(note, lang) for note in notes], lang))

    def reason(self, reason: Reason) -> Markup:
        """The sentence of a verdict's reason."""
        return self.each(lambda lang: self.report.reason_sentence(reason, lang))

    def v(self, value: Value, style: str = "num") -> Markup:
        """A number in a style, with its exact value beside it for machines."""

        def shown(lang: Language) -> str:
            if value is None:
                return text("word.none", lang)
            return Formatter(lang, self.report.currency).format_field(value, style)

        exact = f' data-value="{value!r}"' if isinstance(value, int | float) else ""
        return Markup(f"<span{exact}>{self.each(shown)}</span>")

    def span(self, low: float | None, high: float | None, style: str) -> Markup:
        """An interval."""
        return self.each(lambda lang: interval(low, high, style, lang, currency=self.report.currency))

    def arm(self, name: str) -> Markup:
        """The name of an arm, which may break after punctuation."""
        return Markup(_BREAK.sub("<wbr>", str(self.each(lambda lang: self.report.label(name, lang)))))

    def date(self, moment: str) -> Markup:
        """A moment, which the page's script shows in the time zone of the reader."""
        return Markup(f'<time datetime="{clean(moment)}">{self.v(moment, "date")}</time>')

    def bracketed(self, low: float | None, high: float | None, style: str) -> Markup:
        """An interval in brackets."""
        currency = self.report.currency
        return self.each(
            lambda lang: text("ui.in_brackets", lang, {"inside": interval(low, high, style, lang, currency=currency)})
        )

    def name(self, raw: str) -> Markup:
        """A user's text: isolated, so that right-to-left letters do not reorder their surroundings."""
        return Markup(f"<bdi>{'<wbr>'.join(clean(part) for part in _BREAK.split(raw))}</bdi>")

    def figure(self, kind: str, *args: str) -> Markup:
        """A chart with its caption; wide and narrow where the width matters."""
        self._figures += 1
        label = f"figure-{self._figures}"
        report = self.report
        match kind, args:
            case "forest", (group,):
                drawn = charts.forest(report, next(g for g in GROUPS if g == group), label)
                caption = self.t(f"alt.{group}", baseline=report.baseline)
            case "dots", (kpi,):
                drawn = _scales(lambda width, log: charts.dots(report, kpi, label, width=width, log=log))
                caption = self.t(f"dots.{kpi}_alt", baseline=report.baseline)
            case "curves", (axis,):
                drawn = _scales(lambda width, log: charts.curves(report, axis, label, width=width, log=log))
                caption = self.t(f"alt.{axis}")
            case _:
                draw = {"edge": charts.edge, "lr": charts.lr_trials, "map": charts.stability_map}[kind]
                drawn = _both(lambda width: draw(report, label, width=width))
                caption = self.t(f"alt.{kind}")
        tools = [("data-zoom", "ui.zoom"), ('data-save="png"', "ui.png"), ('data-save="svg"', "ui.svg")]
        if kind == "curves":
            tools.insert(0, ("data-seeds", "ui.single_seeds"))
        if "data-scale" in drawn:
            tools.insert(0, ("data-switch-scale", "ui.scale"))
        buttons = "".join(f'<button type="button" {what}>{self.t(key)}</button>' for what, key in tools)
        name = "-".join((kind, *args))
        bar = f'<div class="chart-tools" data-name="{name}">{buttons}</div>'
        return Markup(f'<p class="sr" id="{label}">{caption}</p>{drawn}{bar}')


def _scales(draw: Callable[..., str]) -> str:
    """A chart on a logarithmic and on a linear scale: the one that suits the values, and the other one hidden."""
    drawn = {log: _both(partial(draw, log=log)) for log in (None, True, False)}
    first = drawn[None] == drawn[True]
    return "".join(
        f'<div data-scale="{"log" if log else "linear"}"{"" if log == first else " hidden"}>{drawn[log]}</div>'
        for log in (first, not first)
    )


def _both(draw: Callable[[float], str]) -> str:
    return "".join(f'<div class="{css}">{draw(width)}</div>' for css, width in WIDTHS)
