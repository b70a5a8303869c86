"""The report as seven slides of a PowerPoint file, with native tables and charts that people can edit.

Verdict, KPIs, learning curves, return on investment, next steps, sentences for a meeting, and what was not tested. Text
gets the largest size at which it fits its box, by an estimate that no common font exceeds; line heights are fixed.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from rich.cells import cell_len

from sabun.errors import MissingExtraError
from sabun.messages.displays import SIGN, TONE
from sabun.messages.formatting import Formatter, show
from sabun.messages.languages import DEFAULT, Language
from sabun.messages.sentences import Value, interval, joined, text
from sabun.poc.judgement.kpis import GROUPS
from sabun.report import charts
from sabun.report.cells import cell
from sabun.report.facts import Candidate, Report
from sabun.report.money import Interval, more_machines
from sabun.text_safety import shorten, visible

try:
    from pptx import Presentation
    from pptx.chart.data import XyChartData
    from pptx.dml.color import RGBColor
    from pptx.enum.chart import XL_CHART_TYPE, XL_LEGEND_POSITION, XL_MARKER_STYLE
    from pptx.enum.dml import MSO_LINE
    from pptx.enum.shapes import MSO_SHAPE
    from pptx.enum.text import MSO_ANCHOR
    from pptx.oxml import parse_xml
    from pptx.oxml.ns import nsdecls, qn
    from pptx.util import Emu, Inches, Pt
except ModuleNotFoundError:
    raise MissingExtraError(
        "slides need python-pptx, which is not installed.", fix="pip install 'sabun[slides]'"
    ) from None

__all__ = ["lines", "render"]

WIDTH, HEIGHT = 13.333, 7.5
"""The slide in inches."""
LEFT, TOP, BOTTOM = 0.6, 1.3, 6.9
"""The place of the content, below the title and above the foot."""
FULL: Final = WIDTH - 2 * LEFT
SIZES: Final = (20, 18, 16, 15, 14, 13, 12, 11, 10, 9)
"""Sizes of running text in points, of which the largest that fits is taken."""
NARROW, BOLD = 0.6, 0.66
"""Mean width of a letter in ems, and of a bold one, in the widest of the common fonts. A Japanese character is 1 em."""
LEADING: Final = 1.3
"""Line height in sizes."""
GAP: Final = 0.5
"""Space between paragraphs, in sizes."""
INDENT: Final = 1.0
"""Indent of a bullet, in sizes."""
LONGEST: Final = 600
"""Characters of a sentence, and a tenth of it those of a name: more come from names that no one writes."""
INK, MUTED, LINE, SOFT, WHITE = "1B2130", "586174", "DFE1E6", "F1F1EE", "FFFFFF"
TONES: Final = {"pass": "00704F", "exception": "00704F", "open": "586174", "fail": "AB4200"}
"""The colour of a mark; of the others that of what is open."""
SERIES: Final = ("1B2130", "0072B2", "D55E00", "008562", "B8558E", "AD7200", "268BC2", "857B00")
"""Colours of the arms, as in the page; the baseline is the first."""
FONTS: Final = {"ja": "Yu Gothic"}
"""Fonts of a language whose letters the Latin font lacks."""


@dataclass(frozen=True)
class Part:
    """A paragraph: its text, whether it is a bullet, and its style. ``scale`` is relative to the size of the box."""

    text: str
    bullet: bool = False
    bold: bool = False
    scale: float = 1.0
    colour: str = INK
    mono: bool = False


Cell = str | Part | Sequence[Part]
"""The content of a cell of a table."""
T = TypeVar("T")


def render(report: Report, lang: Language | None = None) -> bytes:
    """Return the slides in ``lang`` (default: English) as the content of a ``.pptx`` file."""
    deck = _Deck(report, DEFAULT if lang is None else lang)
    deck.verdict()
    deck.kpis()
    deck.curves()
    deck.money()
    deck.steps()
    deck.listed("ui.phrases", [report.sentence(note, deck.lang) for note in report.phrases])
    deck.listed("ui.untested", [report.sentence(note, deck.lang) for note in report.untested])
    return deck.saved()


def lines(said: str, size: float, width: float, *, bold: bool = False) -> int:
    """Return the lines that ``said`` takes at most, at ``size`` points in ``width`` inches."""
    letter, room = BOLD if bold else NARROW, width * 72 / size

    def wide(word: str) -> float:
        return sum(1.0 if cell_len(c) > 1 else letter for c in word)

    found = 0
    for line in said.split("\n"):
        used, found = 0.0, found + 1
        for word in _WORD.findall(line):
            own = wide(word.rstrip())
            if used and used + own > room:
                used, found = 0.0, found + 1
            broken = math.ceil(own / room) - 1 if own > room else 0  # a word longer than a line
            used, found = used + wide(word) - broken * room, found + broken
    return found


_WORD: Final = re.compile(r"[^\s\u3000-\u9fff\uff00-\uffef]+\s*|.")
"""What is kept on one line: a word with the spaces behind it, or a Japanese character."""


class _Deck:
    """The presentation while it is made."""

    def __init__(self, report: Report, lang: Language) -> None:
        self.report, self.lang = report, lang
        self.file = Presentation()
        # The template that comes with python-pptx is as high as wanted, and 10 inches wide.
        wider = Inches(WIDTH) / self.file.slide_width
        self.file.slide_width = Inches(WIDTH)
        for layout in (self.file.slide_master, *self.file.slide_layouts):
            for shape in layout.placeholders:
                left, top, width, height = shape.left, shape.top, shape.width, shape.height
                shape.left, shape.top, shape.width, shape.height = int(left * wider), top, int(width * wider), height
        about = self.file.core_properties
        about.title, about.author = self.t("ui.title", name=report.name), report.generator
        about.subject, about.language = visible(report.audit.study_hash), lang
        about.keywords = about.comments = about.last_modified_by = ""
        if report.audit.ended:
            about.created = about.modified = datetime.fromisoformat(report.audit.ended)

    def t(self, key: str, **values: Value) -> str:
        """The sentence ``key``."""
        return self.safe(self.report.say(key, self.lang, values))

    def safe(self, said: str) -> str:
        """Text without control characters, on one line, and not endlessly long."""
        return shorten(visible(" ".join(said.split())), LONGEST)

    def name(self, arm: str) -> str:
        """The name of an arm."""
        return shorten(self.safe(self.report.label(arm, self.lang)), LONGEST // 10)

    def saved(self) -> bytes:
        """The file."""
        out = io.BytesIO()
        self.file.save(out)
        return out.getvalue()

    # --- what a slide is made of ---

    def slide(self, title: str) -> Any:
        """A slide with a title, and a foot that says what it comes from."""
        made = self.file.slides.add_slide(self.file.slide_layouts[5])
        shape = made.shapes.title
        shape.left, shape.top, shape.width, shape.height = map(Inches, (LEFT, 0.4, FULL, 0.75))
        self.fill(shape, [Part(title, bold=True)], sizes=(28, 26, 24, 22, 20, 18, 16))
        number = len(self.file.slides)
        r = self.report
        foot = _joined_by(" · ", shorten(self.safe(r.name), 60), r.generator, r.audit.study_hash[:16], str(number))
        self.box(made, LEFT, 7.0, FULL, 0.3, [Part(foot, colour=MUTED)], sizes=(10, 9))
        return made

    def box(
        self, slide: Any, x: float, y: float, w: float, h: float, parts: Sequence[Part], sizes: Sequence[int] = SIZES
    ) -> Any:
        """A box of text at a place, in inches."""
        shape = slide.shapes.add_textbox(*map(Inches, (x, y, w, h)))
        self.fill(shape, parts, sizes)
        return shape

    def fill(self, shape: Any, parts: Sequence[Part], sizes: Sequence[int] = SIZES) -> None:
        """Write paragraphs into a shape, in the largest of ``sizes`` that fits; without room, without the last ones."""
        frame = shape.text_frame
        frame.word_wrap, frame.vertical_anchor = True, MSO_ANCHOR.TOP
        frame.margin_left = frame.margin_right = Inches(0.05)
        frame.margin_top = frame.margin_bottom = 0
        width, height = Emu(shape.width).inches - 0.1, Emu(shape.height).inches
        size, parts = self.fitted(
            parts, lambda size, kept: _high(kept, size, width) <= height, sizes, lambda more: more
        )
        self.write(frame, parts, size)

    def write(self, frame: Any, parts: Sequence[Part], size: float) -> None:
        """Write paragraphs into a frame."""
        for number, part in enumerate(parts):
            paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
            self.paragraph(paragraph, part, size, spaced=number > 0)

    def fitted(
        self,
        items: Sequence[T],
        fits: Callable[[int, Sequence[T]], bool],
        sizes: Sequence[int],
        last: Callable[[Part], T],
    ) -> tuple[int, list[T]]:
        """The largest size at which ``items`` fit; where none does, the first items, and how many are left out."""
        found = next((size for size in sizes if fits(size, items)), sizes[-1])
        kept, left_out = list(items), 0
        while len(kept) > 2 and not fits(found, kept):
            left_out += 1
            kept = [*items[: len(items) - left_out], last(Part(self.t("slides.more", n=left_out), colour=MUTED))]
        return found, kept

    def paragraph(self, paragraph: Any, part: Part, size: float, *, spaced: bool = False) -> None:
        """Write one paragraph."""
        points = round(size * part.scale)
        paragraph.alignment = 1
        paragraph.line_spacing = Pt(points * LEADING)
        paragraph.space_before = Pt(size * GAP if spaced else 0)
        paragraph.space_after = Pt(0)
        run = paragraph.add_run()
        run.text = part.text
        run.font.size, run.font.bold = Pt(points), part.bold
        run.font.color.rgb = RGBColor.from_string(part.colour)
        if part.mono:
            run.font.name = "Consolas"
        properties = run._r.get_or_add_rPr()
        properties.set("lang", {"en": "en-GB", "ja": "ja-JP"}.get(self.lang, self.lang))
        if not part.mono:
            self.eastern(properties)
        if part.bullet:
            own, indent = paragraph._p.get_or_add_pPr(), Pt(size * INDENT)
            own.set("marL", str(indent))
            own.set("indent", str(-indent))
            own.append(parse_xml(f'<a:buChar {nsdecls("a")} char="•"/>'))

    def eastern(self, properties: Any) -> None:
        """Name the font of the language where the Latin one lacks its letters."""
        if self.lang in FONTS:
            for tag in ("a:latin", "a:ea"):
                found = properties.find(qn(tag))
                if found is not None:
                    properties.remove(found)
                properties.append(parse_xml(f'<{tag} {nsdecls("a")} typeface="{FONTS[self.lang]}"/>'))

    def table(
        self, slide: Any, y: float, high: float, widths: Sequence[float], rows: Sequence[Sequence[Cell]]
    ) -> float:
        """A table across the slide; the first row is its head. Return where it ends. Rows beyond ``high`` go."""
        wide = [FULL * width / sum(widths) for width in widths]

        def height(row: Sequence[Cell], size: float) -> float:
            return max(_high(_parts(own), size, width - 0.2) for own, width in zip(row, wide, strict=True)) + 0.12

        size, rows = self.fitted(
            [[Part(str(name), bold=True, colour=WHITE) for name in rows[0]], *rows[1:]],
            lambda size, kept: sum(height(row, size) for row in kept) <= high,
            [s for s in SIZES if s <= 16],
            lambda more: [more, *[""] * (len(wide) - 1)],
        )
        heights = [height(row, size) for row in rows]
        shape = slide.shapes.add_table(len(rows), len(wide), *map(Inches, (LEFT, y, FULL, sum(heights))))
        drawn = shape.table
        for column, width in zip(drawn.columns, wide, strict=True):
            column.width = Inches(width)
        for number, (own, row) in enumerate(zip(drawn.rows, rows, strict=True)):
            own.height = Inches(heights[number])
            for place, inside in zip(own.cells, row, strict=True):
                place.margin_left = place.margin_right = Inches(0.1)
                place.margin_top = place.margin_bottom = Inches(0.06)
                place.fill.solid()
                place.fill.fore_color.rgb = RGBColor.from_string(INK if number == 0 else (SOFT, WHITE)[number % 2])
                self.write(place.text_frame, _parts(inside), size)
        return y + sum(heights)

    # --- the slides ---

    def verdict(self) -> None:
        """The verdict: headline, limits, money and difficulty."""
        r = self.report
        slide = self.slide(self.t("ui.title", name=shorten(self.safe(r.name), 80)))
        badge = slide.shapes.add_shape(MSO_SHAPE.ROUNDED_RECTANGLE, *map(Inches, (LEFT, TOP, 4.6, 0.62)))
        badge.fill.solid()
        badge.fill.fore_color.rgb = RGBColor.from_string(TONE[r.decision].lstrip("#").upper())
        badge.line.fill.background()
        badge._element.remove(badge._element.find(qn("p:style")))
        self.fill(badge, [Part(self.t(f"word.{r.decision}"), bold=True, colour=WHITE)], sizes=(24, 20, 18, 16, 14))
        badge.text_frame.vertical_anchor = MSO_ANCHOR.MIDDLE
        badge.text_frame.margin_left = Inches(0.2)
        about = [self.sentence(r.facts)]
        if r.audit.ended:
            about.append(Formatter(self.lang).format_field(r.audit.ended, "date"))
        headline = Part(self.sentence(r.headline), bold=True, scale=1.3)
        caps = [Part(self.sentence(note), bullet=True) for note in r.caps]
        parts = [*caps, headline] if r.logged else [headline, *caps]
        parts.append(Part(" · ".join(about), colour=MUTED))
        if r.note:
            parts.append(Part(self.safe(r.note), colour=MUTED))
        if r.roi:
            said = joined([self.sentence(note) for note in r.roi], self.lang)
            parts.append(Part(f"{self.t('ui.money')}{self.colon}{said}"))
        if r.adoption:
            said = self.sentence(r.adoption.lines)
            level = self.t(f"adopt.{r.adoption.level}")
            parts.append(Part(f"{self.t('ui.adoption')}{self.colon}{level}{text('ui.stop', self.lang)}{said}"))
        self.box(slide, LEFT, TOP + 0.85, FULL, BOTTOM - TOP - 0.85, parts)

    @property
    def colon(self) -> str:
        return text("ui.colon", self.lang)

    def sentence(self, note: Any) -> str:
        """A note as a sentence."""
        return self.safe(self.report.sentence(note, self.lang))

    def kpis(self) -> None:
        """The three KPIs of the leading candidate with intervals, marks and reasons; the other candidates below."""
        r = self.report
        lead = r.candidate(r.leading)
        slide = self.slide(f"{self.t('ui.kpis')}{self.colon}{self.against()}")
        rows: list[list[Cell]] = [
            [
                self.t(key)
                for key in ("ui.col_kpi", "ui.col_effect", "slides.interval", "ui.col_verdict", "ui.col_reason")
            ]
        ]
        for group in GROUPS:
            found = lead.deciding(group)
            style = "ratio" if found is not None and found.scale == "ratio" else "spct"
            between = text("word.none", self.lang)
            if found is not None and (found.low is not None or found.high is not None):
                between = interval(found.low, found.high, style, self.lang)
            elif found is not None and found.problem:
                between = self.t(f"problem.{found.problem}")
            why = self.safe(r.reason_sentence(lead.verdict.reason(group), self.lang))
            rows.append([
                Part(self.t(f"kpi.{group}"), bold=True),
                Part(show(None if found is None else found.effect, style, self.lang), bold=True),
                between, self.mark(lead, group), why,
            ])  # fmt: skip
        several = len(r.candidates) > 1
        end = self.table(slide, TOP, 3.0 if several else 4.4, (1.8, 1.7, 2.1, 2.1, 4.4), rows)
        if several:
            rows = [
                [self.t("ui.col_candidate"), self.t("ui.col_verdict"), *(self.t(f"kpi.{group}") for group in GROUPS)]
            ]
            for candidate in r.candidates:
                cells = [f"{SIGN[candidate.mark(g)]} {cell(candidate.deciding(g), self.lang)}" for g in GROUPS]
                rows.append([self.name(candidate.arm), self.t(f"word.{candidate.verdict.decision}"), *cells])
            end = self.table(slide, end + 0.2, BOTTOM - 0.6 - end - 0.2, (2.2, 1.6, 2.8, 2.8, 2.8), rows)
        legend = self.t("ui.level_note", level=r.limits.level)
        self.box(
            slide, LEFT, end + 0.12, FULL, BOTTOM - end - 0.12, [Part(legend, colour=MUTED)], sizes=(12, 11, 10, 9)
        )

    def mark(self, candidate: Candidate, group: Any) -> Part:
        """The mark of a KPI with its word."""
        kind = candidate.mark(group)
        return Part(f"{SIGN[kind]} {self.t(f'word.{kind}')}", colour=TONES.get(kind, "6D5A00"))

    def against(self) -> str:
        """The leading candidate against the baseline."""
        return self.t("ui.against", arm=self.name(self.report.leading), baseline=self.report.baseline)

    def curves(self) -> None:
        """The learning curves by epoch and by training time, as charts."""
        slide = self.slide(self.t("ui.curves"))
        half = (FULL - 0.3) / 2
        for number, (axis, title) in enumerate((("epoch", "ui.by_epoch"), ("seconds", "ui.by_seconds"))):
            self.chart(slide, axis, self.t(title), LEFT + number * (half + 0.3), half)
        lead = Part(self.t("slides.curves_lead"), colour=MUTED)
        self.box(slide, LEFT, 6.4, FULL, 0.5, [lead], sizes=(12, 11, 10, 9))

    def chart(self, slide: Any, axis: str, title: str, x: float, width: float) -> None:
        """The median validation loss of every arm, with the range over seeds of the baseline and the leading one."""
        r = self.report
        scale = charts.loss_scale(r, 0.0, 1.0)
        data, drawn = XyChartData(), []
        for number, arm in enumerate(r.arms):
            s, places = arm.summary, charts.places(arm, axis)
            main = arm.baseline or arm.name == r.leading
            for kind, values in (("", s.loss_median), ("low", s.loss_low), ("high", s.loss_high)):
                if kind and not main:
                    continue
                name = shorten(self.name(arm.name), 28)
                own = data.add_series(_cell_text(f"{name} ({self.t(f'slides.{kind}')})" if kind else name))
                for k in charts.thin(len(s.epochs)):
                    if all(map(math.isfinite, (places[k], values[k]))) and (values[k] > 0 or not scale.log):
                        own.add_data_point(places[k], values[k])
                drawn.append((number, kind, main))
        frame = slide.shapes.add_chart(
            XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, *map(Inches, (x, TOP, width, 5.0)), data
        )
        frame._element.nvGraphicFramePr.cNvPr.set("descr", self.t(f"alt.{axis}"))
        chart = frame.chart
        chart.font.size = Pt(12)
        chart.font.color.rgb = RGBColor.from_string(INK)
        self.eastern(chart.font._rPr)
        chart.has_title = True
        self.caption(chart.chart_title.text_frame, title, 14)
        chart.has_legend = True
        chart.legend.position, chart.legend.include_in_layout = XL_LEGEND_POSITION.BOTTOM, False
        for number, (line, (arm_at, kind, main)) in enumerate(zip(chart.plots[0].series, drawn, strict=True)):
            line.smooth, line.marker.style = False, XL_MARKER_STYLE.NONE
            pen = line.format.line
            pen.color.rgb = RGBColor.from_string(SERIES[(arm_at - 1) % (len(SERIES) - 1) + 1 if arm_at else 0])
            pen.width = Pt(0.75 if kind else 2.5 if main else 1.5)
            if kind or arm_at >= len(SERIES):
                pen.dash_style = MSO_LINE.SQUARE_DOT if kind else MSO_LINE.DASH
            if kind:
                hidden = f'<c:legendEntry {nsdecls("c")}><c:idx val="{number}"/><c:delete val="1"/></c:legendEntry>'
                entries = chart.legend._element.findall(qn("c:legendEntry"))
                (entries[-1] if entries else chart.legend._element.find(qn("c:legendPos"))).addnext(parse_xml(hidden))
        across, up = chart.category_axis, chart.value_axis
        self.axis(across, self.t(f"ui.{axis}"))
        self.axis(up, self.t("ui.log_loss" if scale.log else "ui.loss"))
        across.minimum_scale, across.has_major_gridlines = 0, False
        if axis == "epoch":
            across.maximum_scale = max((epoch for arm in r.arms for epoch in arm.summary.epochs), default=None)
        if not scale.log:
            up.minimum_scale = max(0.0, _round_down(scale.low)) if scale.low > 0 else None
            return
        up.minimum_scale, base = _round_down(scale.low), 2 if scale.high / scale.low < 256 else 10
        up.major_unit = base
        up.maximum_scale = up.minimum_scale * base ** math.ceil(math.log(scale.high / up.minimum_scale, base))
        across.crosses, up.crosses = up.crosses, across.crosses
        up._element.find(qn("c:scaling")).insert(0, parse_xml(f'<c:logBase {nsdecls("c")} val="{base}"/>'))

    def axis(self, axis: Any, title: str) -> None:
        """The look of an axis."""
        axis.has_title = True
        self.caption(axis.axis_title.text_frame, title, 12)
        axis.tick_labels.font.size = Pt(12)
        axis.tick_labels.number_format, axis.tick_labels.number_format_is_linked = "General", False
        axis.format.line.color.rgb = RGBColor.from_string(MUTED)
        if axis.has_major_gridlines:
            axis.major_gridlines.format.line.color.rgb = RGBColor.from_string(LINE)

    def caption(self, frame: Any, said: str, size: int) -> None:
        """The title of a chart or an axis."""
        run = frame.paragraphs[0].add_run()
        run.text, run.font.size, run.font.bold = said, Pt(size), False
        self.eastern(run._r.get_or_add_rPr())

    def money(self) -> None:
        """The return on investment: a sentence and its figures; the difficulty of adopting below."""
        r = self.report
        slide = self.slide(self.t("ui.money"))
        said = [Part(self.sentence(note)) for note in r.roi]
        self.box(slide, LEFT, TOP, FULL, 1.1, said, sizes=(18, 16, 14, 13, 12, 11, 10))
        rows = [[self.t("slides.figure"), self.t("slides.value"), self.t("slides.basis")]]
        rows += [[self.safe(part) for part in row] for row in self.figures()]
        fine = [self.t("ui.money_lead"), self.t("ui.money_staff")]
        if r.money is not None and not r.money.hours_given:
            fine.insert(1, self.t("ui.money_hours_own"))
        if r.money is None or r.money.example:
            fine.append(self.t("ui.money_none") + " " + self.t("ui.money_command", path=r.command_path))
        end = self.table(slide, TOP + 1.25, 3.3, (4, 3, 5), rows)
        parts = [Part(line, colour=MUTED) for line in fine]
        self.box(slide, LEFT, end + 0.12, FULL, BOTTOM - end - 0.12, parts, sizes=(12, 11, 10, 9))

    def figures(self) -> Iterator[tuple[str, str, str]]:
        """The figures of the return: name, value, and its interval or what it rests on."""
        r, m = self.report, self.report.money

        def show_(value: float | None, style: str) -> str:
            return Formatter(self.lang, r.currency).format_field(value, style)

        def span(found: Interval, style: str) -> str:
            return interval(found.low, found.high, style, self.lang, currency=r.currency)

        poc = show_(r.effort.total_s, "s") if m is None else show_(m.poc_cost, "money")
        measured = self.t("ui.money_poc_measured", seconds=r.effort.total_s, runs=r.effort.runs)
        yield self.t("ui.money_poc"), poc, measured
        setup = None if m is None else m.setup_cost
        given = self.t("ui.money_not_given") if setup is None else show_(setup, "money")
        yield self.t("ui.money_setup"), given, self.t("ui.money_setup_what")
        if m is None:
            if r.gain is not None:
                yield self.t("kpi.time_to_target_s"), show_(r.gain.value, "ratio"), span(r.gain, "ratio")
                more = more_machines(r.gain)
                yield self.t("ui.money_machines"), show_(more.value, "spct"), span(more, "spct")
            return
        basis = self.t("ui.money_basis", jobs=m.jobs_per_month, hours=m.hours_per_job, price=m.price_per_hour)
        yield self.t("ui.money_today"), show_(m.today_month, "money"), basis
        for s in m.savings:
            if s.arm != r.leading or s.month is None or s.machines is None:
                continue
            month, name = s.month, "ui.money_saving"
            if month.value < 0:
                low, high = (None if end is None else -end for end in (month.high, month.low))
                month, name = Interval(-month.value, low, high), "ui.money_extra"
            yield self.t(name), show_(month.value, "money"), span(month, "money")
            none, needs = text("word.none", self.lang), self.t("ui.money_needs_setup")
            if setup is None:
                yield self.t("ui.money_even"), none, needs
                yield self.t("ui.money_roi"), none, needs
            else:
                value, latest = self.t("ui.money_never"), ""
                if s.payback_months is not None:
                    value, latest = show_(s.payback_months, "months"), self.t("ui.money_even_open")
                    if s.payback_latest is not None:
                        latest = self.t("ui.money_even_latest", months=s.payback_latest)
                yield self.t("ui.money_even"), value, latest
                if s.roi_year is not None:
                    yield self.t("ui.money_roi"), show_(s.roi_year.value, "spct"), span(s.roi_year, "spct")
            machines = self.t("ui.money_machines_value", machines=s.machines.value)
            of = self.t("ui.money_machines_of", machines=m.machines_today)
            yield self.t("ui.money_machines"), machines, _joined_by(" · ", span(s.machines, "rough"), of)

    def steps(self) -> None:
        """The next steps with their commands and costs, and room for owner and date."""
        slide = self.slide(self.t("ui.steps"))
        rows: list[list[Cell]] = [["", *(self.t(f"slides.{key}") for key in ("step", "owner", "due"))]]
        for number, step in enumerate(self.report.steps, 1):
            parts = [Part(self.sentence(step.say))]
            parts += [Part(self.safe(line), mono=True, scale=0.85) for line in step.command.splitlines()]
            if step.cost is not None:
                parts.append(Part(self.sentence(step.cost), colour=MUTED, scale=0.85))
            rows.append([str(number), parts, "", ""])
        self.table(slide, TOP, BOTTOM - TOP, (0.4, 9.2, 1.5, 1.2), rows)

    def listed(self, title: str, sentences: Sequence[str]) -> None:
        """A slide of sentences."""
        slide = self.slide(self.t(title))
        parts = [Part(self.safe(said), bullet=True) for said in sentences]
        self.box(slide, LEFT, TOP, FULL, BOTTOM - TOP, parts)


def _high(parts: Sequence[Part], size: float, width: float) -> float:
    """The height of paragraphs in inches."""
    points = size * GAP * (len(parts) - 1)
    for part in parts:
        own = round(size * part.scale)
        room = width - (size * INDENT / 72 if part.bullet else 0.0)
        points += lines(part.text, own, room, bold=part.bold) * own * LEADING
    return points / 72


def _parts(cell: Cell) -> Sequence[Part]:
    return [Part(cell)] if isinstance(cell, str) else [cell] if isinstance(cell, Part) else cell


def _joined_by(separator: str, *parts: str) -> str:
    """The parts that are not empty."""
    return separator.join(part for part in parts if part)


def _round_down(x: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``x``."""
    power = 10.0 ** math.floor(math.log10(x))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= x * (1 + 1e-9))


def _cell_text(said: str) -> str:
    """Text that a spreadsheet, into which a chart's data go, does not take for a formula."""
    return "'" + said if said.startswith(("=", "+", "-", "@")) else said
