"""One value, four renderings: the numbers agree, names cannot inject, the file stands alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sabun.messages.languages import Language, languages
from sabun.poc.judgement.kpis import GROUPS, deciding
from sabun.report import facts as facts_module
from sabun.report import html, markdown, method, money, report_json, terminal
from sabun.report.facts import Report
from sabun.report.money import Prices

from . import cases

Make = Callable[..., Any]
DECIDING = [deciding(group).id for group in GROUPS]
DOCS = Path(__file__).parents[2] / "docs" / "report-json.md"
VOID = {"meta", "link", "br", "input", "img", "line", "rect", "circle", "path", "hr", "wbr"}
HOSTILE = {
    "study": "</script><script>window.pwned=1</script>",
    "momentum": '<img src=x onerror="window.pwned=1"> & "quotes" \'single\'',
    "look-ahead": "𝒳 🚀🔥 <b>bold</b> | pipe ` tick \n new line",
    "nesterov-adam": "\u202eevil\u202c عربي עברית",
    "euler": "x" * 300,
    "taylor-4": "{{ 7*7 }} {% raw %} ]]> --> \x1b[31mred",
}


def report(case: Any) -> Report:
    return cases.report(case, prices=Prices(600, 200, hours_per_job=3.0))


class Page(HTMLParser):
    """What a browser would see: balanced tags, ids, text of one language."""

    def __init__(self, source: str, lang: str) -> None:
        super().__init__()
        self.lang = lang
        self.stack: list[tuple[str, bool]] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: dict[tuple[str, str], dict[str, str]] = {}
        self.row: tuple[str, str] | None = None
        self.feed(source)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag in VOID:
            return
        hidden = bool(self.stack and self.stack[-1][1]) or tag in ("script", "style")
        if tag not in ("html",) and found.get("lang") not in (None, "", self.lang):
            hidden = True
        self.stack.append((tag, hidden))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened, _ = self.stack.pop()
        assert opened == tag, f"</{tag}> closes <{opened}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.stack and not self.stack[-1][1]:
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join("".join(self.text).split())


def printed(report: Report, lang: Language, width: int = 200) -> str:
    out = StringIO()
    Console(file=out, width=width).print(terminal.render(report, lang))
    return out.getvalue()


def numbers(said: str) -> list[float]:
    """Every percentage and ratio in a text, as numbers."""
    found = re.findall(r"([+−-]?[\d,]+(?:\.\d+)?)(%|×|倍)", said)
    return [float(n.replace("−", "-").replace(",", "")) * (0.01 if unit == "%" else 1) for n, unit in found]


@pytest.mark.parametrize("lang", languages())
def test_html_json_markdown_and_terminal_agree(case: Make, lang: Language) -> None:
    r = report(case())
    data = json.loads(report_json.render(r))
    page = html.render(r, lang)
    rows = dict(
        re.findall(r'<tr data-arm="([^"]+)"><th scope="row"><span class="chip[^>]*></span>(.*?)</tr>', page, re.S)
    )
    md = {m[1].replace("\\", ""): m[0] for m in re.finditer(r"^\| \*\*(.+?)\*\* \|.*$", markdown.render(r, lang), re.M)}
    shell = printed(r, lang)
    lines = shell.splitlines()
    assert len(rows) == len(md) == len(data["candidates"]) == 5
    for candidate in data["candidates"]:
        arm = candidate["arm"]
        wanted = []
        for kpi in DECIDING:
            found = candidate["kpis"][kpi]
            wanted += [found["effect"], found["low"], found["high"]]
        own = Page(f"<div>{rows[arm].split('</th>', 1)[1]}</div>", lang)
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(arm))
        cells = numbers(lines[at]) + numbers(lines[at + 1])
        in_terminal = [cells[i] for i in (0, 3, 4, 1, 5, 6, 2, 7, 8)]
        for shown in (numbers(own.said), numbers(md[arm]), in_terminal):
            assert len(shown) == len(wanted)
            for got, exact in zip(shown, wanted, strict=True):
                assert got == pytest.approx(exact, abs=0.0051), (arm, got, exact)
        # The page also carries each effect to the last digit.
        exact = [float(x) for x in re.findall(r'data-value="([^"]+)"', rows[arm])]
        assert exact == [candidate["kpis"][kpi]["effect"] for kpi in DECIDING]
    headline = data["sentences"][lang]["headline"]
    assert headline in Page(page, lang).said
    assert headline in re.sub(r"\\(.)", r"\1", markdown.render(r, lang))
    assert headline in " ".join(shell.replace("│", " ").split())


@pytest.mark.parametrize(("high", "sign"), [(0.99, "●"), (1.0, "●"), (1.01, "○")])
def test_not_shown_to_be_worse_does_not_look_like_shown_to_be_no_worse(case: Make, high: float, sign: str) -> None:
    made = report(case(candidates=1))
    (only,) = made.candidates
    reasons = tuple(
        dataclasses.replace(r, values={**r.values, "high": high, "limit": 1.0}) if r.code == "k2_not_worse" else r
        for r in only.verdict.reasons
    )
    shown = dataclasses.replace(only, verdict=dataclasses.replace(only.verdict, reasons=reasons))
    text = markdown.render(dataclasses.replace(made, candidates=(shown,)), "en")
    row = next(line for line in text.splitlines() if line.startswith("| **"))
    assert row.split("|")[4].strip()[0] == sign


def test_json_is_strict_and_documented(case: Make) -> None:
    c = case()
    summary = dataclasses.replace(c.assessment.arms["euler"], loss_high=(float("inf"),) * 21)
    broken = dataclasses.replace(c.assessment, arms={**c.assessment.arms, "euler": summary})
    rendered = report_json.render(report(dataclasses.replace(c, assessment=broken)))
    data = json.loads(rendered, parse_constant=lambda name: pytest.fail(name))
    assert data["schema_version"] == 1
    assert data["arms"][3]["summary"]["loss_high"][0] is None
    documented = set(re.findall(r"`([a-z_0-9]+)`", DOCS.read_text(encoding="utf-8")))
    for kind in (
        facts_module.Report, facts_module.ArmFacts, facts_module.Audit, facts_module.Candidate, facts_module.Limits,
        facts_module.Note, method.Method, money.Effort, money.Money, money.Saving,
    ):  # fmt: skip
        for name in (f.name for f in dataclasses.fields(kind)):
            assert name in documented, f"{kind.__name__}.{name} is not in docs/report-json.md"


@pytest.mark.parametrize("lang", languages())
@pytest.mark.parametrize("names", [None, HOSTILE])
def test_the_page_is_well_formed_and_asks_for_nothing(case: Make, lang: Language, names: dict[str, str] | None) -> None:
    source = html.render(report(case(names=names, note="<script>alert(1)</script>")), lang)
    page = Page(source, lang)
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "poster"):
                assert value is not None
                assert value.startswith(("#", "data:"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    labels = [a["aria-labelledby"] for tag, a in page.tags if "aria-labelledby" in a]
    assert set(labels) <= set(page.ids)
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert "{{" not in page.said.replace("{{ 7*7 }}", "")
    assert re.search(r"@import|url\(|https?://(?!www\.w3\.org)", source) is None


def test_each_language_shows_only_itself(case: Make) -> None:
    source = html.render(report(case()), "en")
    assert not re.search(r"[ぁ-んァ-ヶ一-龠]", Page(source, "en").said.replace("日本語", ""))
    japanese = Page(source, "ja").said
    assert "結論" in japanese
    assert "learning" not in japanese.lower()


def test_a_large_study_makes_a_small_file(case: Make) -> None:
    large = html.render(report(case(seeds=20, epochs=50)), "en")
    assert len(large.encode()) < 1_000_000
    long = html.render(report(case(seeds=3, epochs=3000)), "en")
    assert len(long.encode()) < 1_000_000


def test_hostile_names_stay_one_cell_in_markdown_and_harmless_in_the_terminal(case: Make) -> None:
    r = report(case(names=HOSTILE))
    said = markdown.render(r)
    rows = [line for line in said.splitlines() if line.startswith("| **")]
    assert len(rows) == 5
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "<script" not in said
    assert "<img" not in said
    shell = printed(r, "en", 80)
    assert "\x1b" not in shell
    assert "\u202e" not in shell
    assert max(len(line) for line in shell.splitlines()) <= 80


@pytest.mark.parametrize("lang", languages())
def test_a_report_without_money_or_tuning_or_schemes_says_so(case: Make, lang: Language) -> None:
    c = case(only=("look-ahead",))
    bare = dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, tuning={}), descriptions={})
    r = cases.report(bare)
    page = Page(html.render(r, lang), lang).said
    assert "--price-per-hour" in page
    assert {"en": "nothing was tuned", "ja": "調整は行っていません"}[lang] in page


def luminance(colour: str) -> float:
    raw = colour.lstrip("#")
    raw = "".join(2 * c for c in raw) if len(raw) == 3 else raw[:6]
    parts = [int(raw[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    a, b = sorted((luminance(one), luminance(other)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def test_colours_have_the_contrast_that_wcag_asks_for() -> None:
    """Text 4.5:1 on what it stands on; lines and marks of charts 3:1."""
    style = (Path(html.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    themes = [
        dict(re.findall(r"--([a-z0-9-]+):(#[0-9a-fA-F]+)", block))
        for block in re.findall(r":root\{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 2
    for theme in themes:
        for text_colour in ("ink", "muted", "accent", "go", "no", "un"):
            for ground in ("surface", "bg"):
                assert contrast(theme[text_colour], theme[ground]) >= 4.5, (text_colour, ground, theme[text_colour])
        for tone in ("go", "no", "un"):
            assert contrast(theme["surface"], theme[tone]) >= 4.5, tone
            assert contrast(theme["ink"], theme[f"{tone}-bg"]) >= 4.5, tone
            assert contrast(theme["muted"], theme[f"{tone}-bg"]) >= 4.5, tone
        for i in range(8):
            assert contrast(theme[f"s{i}"], theme["surface"]) >= 3.0, (i, theme[f"s{i}"])


@pytest.mark.parametrize("lang", languages())
def test_an_arm_without_a_metric_that_others_have_shows_none(lang: Language, case: Callable[..., Any]) -> None:
    whole = report(case())
    first, *others = whole.arms
    without = dataclasses.replace(first, learned=dataclasses.replace(first.learned, metrics=()))
    said = html.render(dataclasses.replace(whole, arms=(without, *others)), lang)
    row = said[said.index(f'data-learned="{first.name}"') :].split("</tr>")[0]
    cells = [re.sub("<[^>]*>", " ", cell).split() for cell in row.split("<td>")[1 : 1 + len(whole.metric_kinds)]]
    assert cells == [["–"]] * len(whole.metric_kinds)
