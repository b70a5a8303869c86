"""The slides say what the report says, every text fits its box, and names can do no harm."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import re
import shutil
import subprocess
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sabun.messages.languages import Language, languages
from sabun.messages.sentences import text
from sabun.poc.judgement.kpis import GROUPS, deciding
from sabun.report import report_json
from sabun.report.facts import Report
from sabun.report.money import Prices

from . import cases
from .test_renderings import HOSTILE, numbers

pptx = pytest.importorskip("pptx", reason="python-pptx is not installed")
slides = importlib.import_module("sabun.report.slides")
ImageFont = pytest.importorskip("PIL.ImageFont")  # python-pptx needs Pillow

Make = Callable[..., Any]
SOFFICE = shutil.which("soffice")
PRICES = Prices(600, 200, hours_per_job=3.0, setup_cost=300_000)


def opened(report: Report, lang: Language) -> Any:
    return pptx.Presentation(io.BytesIO(slides.render(report, lang)))


def said(shape: Any) -> Iterator[str]:
    """The paragraphs of a shape."""
    frames = [cell.text_frame for cell in shape.table.iter_cells()] if shape.has_table else []
    for frame in [*frames, *([shape.text_frame] if shape.has_text_frame else [])]:
        yield from (paragraph.text for paragraph in frame.paragraphs)


def tables(slide: Any) -> list[list[list[str]]]:
    return [[[c.text for c in row.cells] for row in s.table.rows] for s in slide.shapes if s.has_table]


@pytest.mark.parametrize("lang", languages())
def test_the_slides_have_the_values_of_the_report(case: Make, lang: Language) -> None:
    r = cases.report(case(note="A note."), prices=PRICES, path=Path("runs/digits"))
    data = json.loads(report_json.render(r))
    deck = opened(r, lang)
    assert len(deck.slides) == 7
    verdict, kpis, _, money, steps, phrases, untested = (
        [line for shape in slide.shapes for line in said(shape)] for slide in deck.slides
    )
    own = data["sentences"][lang]
    assert {own["verdict"], own["headline"], "A note.", *own["caps"]} <= set(verdict)
    assert set(own["roi"]) <= set(money)
    assert set(own["steps"]) <= set(steps)
    assert {line for step in data["steps"] for line in step["command"].splitlines()} <= set(steps)
    assert phrases[2:] == own["phrases"]  # after title and foot
    assert untested[2:] == own["untested"]
    assert set(own["reasons"][data["leading"]]) <= set(kpis)

    (_, *rows), (_, *others) = tables(deck.slides[1])
    lead = next(c for c in data["candidates"] if c["arm"] == data["leading"])
    for group, row in zip(GROUPS, rows, strict=True):
        found = lead["kpis"][deciding(group).id]
        wanted = [found["effect"], found["low"], found["high"]]
        assert numbers(" ".join(row[1:3])) == pytest.approx(wanted, abs=0.0051)
        reason = next(x for x in lead["verdict"]["reasons"] if x["kpi"] == group)
        assert text(f"word.{reason['outcome']}", lang) in row[3] or reason["outcome"] == "pass"
    assert [row[0] for row in others] == [c["arm"] for c in data["candidates"]]
    for candidate, row in zip(data["candidates"], others, strict=True):
        wanted = [candidate["kpis"][deciding(g).id][end] for g in GROUPS for end in ("effect", "low", "high")]
        assert numbers(" ".join(row[2:])) == pytest.approx(wanted, abs=0.0051)

    charts = [shape.chart for shape in deck.slides[2].shapes if shape.has_chart]
    for chart, place in zip(charts, ("epochs", "seconds_median"), strict=True):
        drawn = {line.name: list(line.values) for line in chart.plots[0].series}
        assert len(drawn) == len(r.arms) + 4  # and the range of two arms
        for arm in data["arms"]:
            name = text("word.today", lang, {"name": arm["name"]}) if arm["baseline"] else arm["name"]
            assert drawn[name] == arm["summary"]["loss_median"]
        x = [float(v.text) for v in chart._chartSpace.xpath(".//c:ser[1]/c:xVal//c:v")]
        assert x == pytest.approx(data["arms"][0]["summary"][place])


@pytest.mark.parametrize("lang", languages())
def test_without_prices_the_slides_say_what_was_measured(case: Make, lang: Language) -> None:
    r = cases.report(case(only=("look-ahead",)), path=Path("runs/digits"))
    (figures,) = tables(opened(r, lang).slides[3])
    assert r.gain is not None
    assert numbers(" ".join(figures[3][1:])) == pytest.approx([r.gain.value, r.gain.low, r.gain.high], abs=0.0051)
    assert figures[2][1] == text("ui.money_not_given", lang)


class Measured:
    """The height of text, by the letters of a font and a full width for Japanese ones; lines break between words."""

    def __init__(self) -> None:
        self.font = ImageFont.load_default(100)

    def width(self, word: str) -> float:
        """In sizes."""
        return sum(
            1.0 if unicodedata.east_asian_width(c) in "WF" else self.font.getlength(c) / 100 for c in word
        )  # fmt: skip

    def lines(self, said: str, size: float, room: float) -> int:
        """The lines of a paragraph whose lines are ``room`` points wide."""
        found, used = 1, 0.0
        for word in re.findall(r"[^\s\u3000-\u9fff\uff00-\uffef]+\s*|.", said):
            width = self.width(word.rstrip()) * size
            if used and used + width > room:
                found, used = found + 1, 0.0
            found += int(width // room) if width > room else 0
            used += self.width(word) * size
        return found

    def height(self, frame: Any, width: float) -> float:
        """The height of a frame of text in points."""
        total = 0.0
        for paragraph in frame.paragraphs:
            size = max((run.font.size.pt for run in paragraph.runs), default=0.0)
            indent = int(paragraph._p.get_or_add_pPr().get("marL", 0)) / 12700
            assert size >= 8 or not paragraph.text
            total += self.lines(paragraph.text, size, width - indent) * paragraph.line_spacing.pt
            total += (paragraph.space_before or pptx.util.Pt(0)).pt
        return total


def studies(make: Make) -> Iterator[Report]:
    yield cases.report(make(), prices=PRICES, path=Path("runs/digits"))
    yield cases.report(make(only=("taylor-4",)))
    yield cases.report(make(candidates=6, names=HOSTILE, note="long " * 200), prices=PRICES, path=Path("x" * 300))
    names = {"look-ahead": "候補の手法の長い名前" * 5}
    yield cases.report(make(only=("look-ahead",), names=names, note="夜間の学習を短くできるか。" * 20))


@pytest.mark.parametrize("lang", languages())
def test_every_text_is_inside_its_box_and_no_box_covers_another(case: Make, lang: Language) -> None:
    measured = Measured()
    for r in studies(case):
        deck = opened(r, lang)
        assert len(deck.slides) == 7
        for number, slide in enumerate(deck.slides, 1):
            boxes = []
            for shape in slide.shapes:
                left, top, width, height = (v.pt for v in (shape.left, shape.top, shape.width, shape.height))
                if shape.has_table:
                    for row in shape.table.rows:
                        for cell, column in zip(row.cells, shape.table.columns, strict=True):
                            inner = cell.margin_left.pt + cell.margin_right.pt
                            above = cell.margin_top.pt + cell.margin_bottom.pt
                            high = measured.height(cell.text_frame, column.width.pt - inner) + above
                            assert high <= row.height.pt + 0.5, (number, cell.text)
                    assert sum(row.height for row in shape.table.rows) == pytest.approx(shape.height, abs=9e3)
                elif shape.has_text_frame:
                    inner = shape.text_frame.margin_left.pt + shape.text_frame.margin_right.pt
                    assert measured.height(shape.text_frame, width - inner) <= height + 0.5, (number, shape.text)
                boxes.append((left, top, left + width, top + height))
            assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 960 and b[3] <= 540 for b in boxes), number
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] - 0.5 or b[1] >= a[3] - 0.5, (number, a, b)


def test_more_candidates_than_fit_are_counted(case: Make) -> None:
    r = cases.report(case())
    r = dataclasses.replace(r, candidates=r.candidates * 6)
    (_, others) = tables(opened(r, "en").slides[1])
    assert others[-1][0] == f"{30 - (len(others) - 2)} more in the report."


def test_names_are_text_and_no_formula(case: Make) -> None:
    names = {**HOSTILE, "look-ahead": "=1+1", "nesterov-adam": "@SUM(A1)"}
    content = slides.render(cases.report(case(names=names)), "en")
    with zipfile.ZipFile(io.BytesIO(content)) as outer:
        books = [name for name in outer.namelist() if name.endswith(".xlsx")]
        assert len(books) == 2
        for book in books:
            with zipfile.ZipFile(io.BytesIO(outer.read(book))) as inner:
                sheet = inner.read("xl/worksheets/sheet1.xml").decode()
                assert "<f>" not in sheet
                assert "hyperlink" not in sheet
        assert not [name for name in outer.namelist() if re.search("vba|external|oleObject", name, re.I)]
    everything = " ".join(
        line for slide in pptx.Presentation(io.BytesIO(content)).slides for s in slide.shapes for line in said(s)
    )
    assert "\x1b" not in everything
    assert "\u202e" not in everything


def test_runs_that_diverged_and_kpis_without_a_value_are_shown(case: Make) -> None:
    r = cases.report(case(candidates=1))
    (only,) = r.candidates
    nothing = {
        k: dataclasses.replace(v, effect=None, low=None, high=None, problem="diverged") for k, v in only.kpis.items()
    }
    lost = dataclasses.replace(
        r.arms[1].summary, loss_median=tuple(float("nan") for _ in r.arms[1].summary.loss_median)
    )
    r = dataclasses.replace(
        r,
        candidates=(dataclasses.replace(only, kpis=nothing),),
        arms=(r.arms[0], dataclasses.replace(r.arms[1], summary=lost)),
    )
    deck = opened(r, "en")
    assert tables(deck.slides[1])[0][1][1:3] == ["–", "not available: runs diverged"]
    assert next(s.chart for s in deck.slides[2].shapes if s.has_chart).plots[0].series[0].values


@pytest.mark.skipif(SOFFICE is None, reason="LibreOffice is not installed")
def test_libreoffice_opens_the_slides(case: Make, tmp_path: Path) -> None:
    assert SOFFICE is not None
    (tmp_path / "a.pptx").write_bytes(slides.render(cases.report(case(names=HOSTILE)), "ja"))
    home = f"-env:UserInstallation=file://{tmp_path}/home"
    done = subprocess.run(
        [SOFFICE, home, "--headless", "--convert-to", "pdf", "a.pptx"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "a.pdf").read_bytes())
    assert len(pages) == 7
