"""The report as one self-contained HTML file: both languages, offline, printable, without a single request.

Every sentence stands in the page once a language; a style rule shows one of them, so the page also works without
JavaScript. A content-security policy in the page forbids all network access and every script but its own (by hash): a
name that slipped through escaping still could not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sabun.messages.catalogue import Value, interval, reason_text, text
from sabun.messages.formatting import LANGUAGES, Formatter, Language, show
from sabun.poc.judgement.results import Reason
from sabun.report import figures
from sabun.report.facts import KPIS, Candidate, Note, Report
from sabun.report.svg import clean

__all__ = ["render"]


def render(report: Report, lang: Language = "en") -> str:
    """The page, shown in ``lang`` at first."""
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
        t=view.t, v=view.v, note=view.note, reason=view.reason, series=figures.series,
        outcome=figures.outcome, kind_of=figures.kind_of,
        groups=list(KPIS.items()), figure=view.figure, span=view.span, languages=LANGUAGES, clean=view.name,
    )  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        r=report,
        lang=lang,
        style=Markup(style),
        script=Markup(script),
        script_hash=digest,
        data=Markup(_data(report)),
        title=text("ui.title", lang, {"name": report.name}),
        titles={code: text("ui.title", code, {"name": report.name}) for code in LANGUAGES},
    )


def _data(report: Report) -> str:
    """What the page's script needs for hovering, as JSON that cannot end its ``<script>`` element."""
    arms = []
    for arm in report.arms:
        s = arm.summary
        keep = figures.thin(len(s.epochs))
        arms.append(
            {
                "name": "".join(arm.name.splitlines())[:80],
                "epoch": [s.epochs[i] for i in keep],
                "seconds": [_number(s.seconds_median[i]) for i in keep],
                "median": [show(s.loss_median[i], "loss", "en") for i in keep],
                "low": [show(s.loss_low[i], "loss", "en") for i in keep],
                "high": [show(s.loss_high[i], "loss", "en") for i in keep],
            }
        )
    words = {
        lang: {"epoch": text("ui.epoch", lang), "seconds": text("ui.seconds", lang), "median": text("ui.median", lang)}
        for lang in LANGUAGES
    }
    raw = json.dumps({"arms": arms, "words": words}, ensure_ascii=False, separators=(",", ":"))
    return raw.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _number(x: float) -> float | None:
    return round(x, 4) if math.isfinite(x) else None


class _View:
    """The functions that the template calls; all return safe markup."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.currency = report.money.currency if report.money is not None else ""
        self._figures = 0

    def both(self, said: dict[Language, str]) -> Markup:
        """One span a language, or plain text where they agree."""
        if len(set(said.values())) == 1:
            return Markup(clean(said["en"]))
        return Markup("".join(f'<span lang="{lang}">{clean(words)}</span>' for lang, words in said.items()))

    def t(self, key: str, **values: Any) -> Markup:
        """The sentence ``key``."""
        return self.both({lang: text(key, lang, values, currency=self.currency) for lang in LANGUAGES})

    def note(self, note: Note) -> Markup:
        """The sentence of a note."""
        return self.t(note.key, **note.values)

    def reason(self, reason: Reason, candidate: Candidate) -> Markup:
        """The sentence of a verdict's reason."""
        return self.both({lang: reason_text(reason, candidate.arm, self.report.baseline, lang) for lang in LANGUAGES})

    def v(self, value: Value, style: str = "num") -> Markup:
        """A number in a style, with its exact value beside it for machines."""
        said: dict[Language, str] = {
            lang: text("word.none", lang) if value is None else _styled(value, style, lang, self.currency)
            for lang in LANGUAGES
        }
        exact = f' data-value="{value!r}"' if isinstance(value, int | float) else ""
        return Markup(f"<span{exact}>{self.both(said)}</span>")

    def span(self, low: float | None, high: float | None, style: str) -> Markup:
        """An interval."""
        return self.both({lang: interval(low, high, style, lang, currency=self.currency) for lang in LANGUAGES})

    def name(self, raw: str) -> Markup:
        """A user's text: isolated, so that right-to-left letters do not reorder their surroundings."""
        # Long names may break after punctuation, rather than anywhere.
        parts = re.split(r"(?<=[:(@,_])(?=\S)", raw)
        return Markup(f"<bdi>{'<wbr>'.join(clean(part) for part in parts)}</bdi>")

    def figure(self, kind: str, *args: str) -> Markup:
        """A picture with its caption; wide and narrow where the width matters."""
        self._figures += 1
        label = f"figure-{self._figures}"
        r = self.report
        if kind == "forest":
            drawn = figures.forest(r, args[0], label)
            caption = self.t(f"alt.{args[0]}", baseline=r.baseline)
        else:
            drawn = "".join(
                f'<div class="{css}">{_draw(r, kind, args, label, width)}</div>'
                for css, width in (("wide", 520.0), ("narrow", 350.0))
            )
            caption = self.t(f"alt.{args[0] if kind == 'curves' else kind}", baseline=r.baseline)
        return Markup(f'<p class="sr" id="{label}">{caption}</p>{drawn}')


def _draw(report: Report, kind: str, args: tuple[str, ...], label: str, width: float) -> str:
    if kind == "curves":
        return figures.curves(report, args[0], label, width=width)
    if kind == "spread":
        return figures.strip(
            report, "final_loss", label, axis_key="ui.final_loss_axis", edge_key="ui.diverged_at_edge", width=width
        )  # fmt: skip
    if kind == "target":
        return figures.strip(
            report, "time_to_target_s", label, axis_key="ui.time_axis", edge_key="word.not_reached", width=width
        )  # fmt: skip
    if kind == "edge":
        return figures.edge(report, label, width=width)
    if kind == "lr":
        return figures.lr_trials(report, label, width=width)
    return figures.stability_map(report, label, width=width)


def _styled(value: Value, style: str, lang: Language, currency: str) -> str:
    return Formatter(lang, currency).format_field(value, style)
