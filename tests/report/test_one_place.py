"""A KPI is added in one place of the code, a language by one file; no sentence is left untranslated."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import sabun
from sabun import schemes
from sabun.cli import tables
from sabun.messages import languages as language_files
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.kpis import KPIS
from sabun.report import build, compare, html, look_ahead_plane, markdown, report_json, scheme_charts, terminal
from sabun.report.money import Prices

from .. import pseudo
from . import cases

VOID = {"meta", "link", "br", "line", "rect", "circle", "path", "wbr"}
PLUGIN = '''
"""A KPI from outside: how much the validation loss falls in the last epoch."""
from sabun.messages.languages import add_messages
from sabun.poc.judgement.kpis import KPIS, Kpi

def last_drop(run, reference=None, /):
    return run.epochs[-1].val_loss / run.epochs[-2].val_loss if len(run.epochs) > 1 else None

KPIS["last_drop"] = Kpi("last_drop", "K1", "num", "lower", "ratio", last_drop, dots=True)
for lang, name in (("en", "Fall in the last epoch"), ("ja", "最終エポックの低下")):
    add_messages(lang, {"kpi.last_drop": name} | {f"dots.last_drop{part}": f"{name}{part}"
                                                 for part in ("", "_lead", "_axis", "_edge", "_alt")})
'''


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the tables that a test adds to."""
    languages, kpis = dict(language_files._LANGUAGES), dict(KPIS)
    yield
    for table, before in ((language_files._LANGUAGES, languages), (KPIS, kpis)):
        table.clear()
        table.update(before)


@pytest.fixture
def lang(registries: None, tmp_path: Path) -> str:
    """The pseudo-language, registered."""
    return language_files.add_language(pseudo.write(tmp_path))


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_a_kpi_is_one_entry_and_its_messages(
    registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lang: str
) -> None:
    (tmp_path / "sabun_plugin.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sabun_plugin", raising=False)
    __import__("sabun_plugin")
    case = cases.make(candidates=2)
    assessment = assess(case.study, case.runs, case.assessment.tuning)
    found = {c.arm: c for c in assessment.comparisons if c.kpi == "last_drop"}
    assert set(found) == {arm.name for arm in case.study.candidates}
    assert all(c.effect is not None and c.low is not None and c.low < c.effect for c in found.values())
    assert len(assessment.arms["momentum"].values["last_drop"]) == case.study.budget.seeds
    report = build.build(cases.evidence(case), assessment)
    name = {"en": "Fall in the last epoch", "ja": "最終エポックの低下"}[lang]
    page = html.render(report, lang)
    assert f"{name}</span>" in page
    assert f"{name}_axis" in page
    data = json.loads(report_json.render(report))
    assert data["candidates"][0]["kpis"]["last_drop"]["n"] == case.study.budget.seeds


def test_a_language_is_one_file(tmp_path: Path) -> None:
    """A copy of the package with ``de.toml`` beside the others speaks it, with nothing else changed."""
    package = tmp_path / "sabun"
    shutil.copytree(Path(sabun.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    pseudo.write(package / "messages" / "locales", "de")
    done = subprocess.run(
        [sys.executable, "-m", "sabun", "explain", "euler", "--lang", "de"],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count("⟦") > 20


# ---------------------------------------------------------------- nothing is left untranslated


def reports() -> Iterator[tuple[Any, set[str]]]:
    """Reports of every decision, with and without prices and measured curvature, and the names in them."""
    for kind in ({}, {"candidates": 1, "only": ("taylor-4",)}, {"candidates": 6, "only": ("nesterov", "euler")}):
        for prices in (None, Prices(600, 200, hours_per_job=3.0), Prices(4, 9, "USD", setup_cost=10.0)):
            case = cases.make(**kind, note="remark")  # type: ignore[arg-type]
            assessment = case.assessment if prices else assess(case.study, case.runs, case.assessment.tuning)
            report = build.build(cases.evidence(case), assessment, descriptions=case.descriptions, prices=prices)
            names = {arm.name for arm in report.arms} | {arm.optimizer for arm in report.arms}
            names |= {arm.method.scheme for arm in report.arms if arm.method}
            names |= {"sabun", report.name, report.note, "adam", "lr", "momentum", "SGD", "hλ"}
            yield report, names


class Visible(HTMLParser):
    """Collects the texts that a reader of one language sees, hears or points at; code is left out."""

    def __init__(self, source: str, lang: str) -> None:
        super().__init__()
        self.lang = lang
        self.stack: list[bool] = []
        self.texts: list[str] = []
        self.broken = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        hidden = tag in ("script", "style", "pre") or found.get("lang") not in (None, self.lang)
        hidden = hidden or "mono" in str(found.get("class"))
        own = tag == "html"  # its language is the one shown at first
        self.texts += [value for name, value in attrs if value and name in (f"data-tip-{self.lang}", "aria-label")]
        self.broken = tag == "wbr" and not (self.stack and self.stack[-1])
        if tag not in VOID:
            self.stack.append((hidden and not own) or bool(self.stack and self.stack[-1]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.broken:  # a place where a long name may break
            self.texts[-1] += data
            self.broken = False
        elif not (self.stack and self.stack[-1]):
            self.texts.append(data)


def test_no_sentence_of_the_page_is_left_untranslated(lang: str) -> None:
    for report, names in reports():
        texts = Visible(html.render(report, lang), lang).texts
        assert sum("⟦" in text for text in texts) > 150
        left = {text: words for text in texts if (words := pseudo.untranslated(text, names))}
        assert left == {}


def test_no_sentence_of_the_other_renderings_is_left_untranslated(lang: str) -> None:
    for report, names in reports():
        out = StringIO()
        Console(file=out, width=4000).print(terminal.render(report, lang))
        assert pseudo.untranslated(out.getvalue(), names) == []
        plain = re.sub(r"</?\w+>", "", re.sub(r"`[^`]*`", "", markdown.render(report, lang))).replace("\\", "")
        assert pseudo.untranslated(plain, names) == []

        def sentences(value: Any) -> Iterator[str]:
            if isinstance(value, str):
                yield value
            elif value is not None:
                for item in value.values() if isinstance(value, dict) else value:
                    yield from sentences(item)

        data = json.loads(report_json.render(report))["sentences"][lang]
        assert all(pseudo.untranslated(sentence, names) == [] for sentence in sentences(data))


def test_no_sentence_of_a_comparison_of_studies_is_left_untranslated(lang: str) -> None:
    (first, names), (second, more), *_ = reports()
    other = cases.report(cases.make(only=("nesterov",), candidates=6, names={"study": "second"}))
    for pair in ((first, second), (first, other)):
        found = compare.compare(*pair)
        out = StringIO()
        Console(file=out, width=4000).print(tables.comparison(found, lang))
        values = {text for difference in found.differences for text in difference}
        assert pseudo.untranslated(out.getvalue(), names | more | values | set(found.names)) == []


def words_of(chart: Any) -> Iterator[str]:
    """Titles and the texts in the data of a chart."""
    if isinstance(chart, dict):
        for key, value in chart.items():
            if key in ("title", "text", "subtitle", "name", "curve", "range", "domain") and isinstance(value, str):
                yield value
            else:
                yield from words_of(value)
    elif isinstance(chart, list):
        for item in chart:
            yield from words_of(item)


@pytest.mark.parametrize("name", ["nesterov", "taylor-4", "lagrange-4", "rkc2"])
def test_no_label_of_a_chart_is_left_untranslated(lang: str, name: str) -> None:
    scheme = schemes.get(name)
    names = {name for name, *_ in look_ahead_plane._DOTS} | {scheme.name, "hλ"}
    for lr in (None, 0.1):
        specification = scheme_charts.explain(scheme, lang, lr=lr).to_dict()
        left = {text for text in words_of(specification) if pseudo.untranslated(text, names)}
        assert left == set()


@pytest.mark.parametrize("name", ["nesterov", "taylor-4", "lagrange-4", "leap-frog", "euler", "rkc2", "heun-euler"])
def test_no_sentence_of_a_certificate_is_left_untranslated(lang: str, name: str) -> None:
    from sabun.cli.app import build as build_app

    certificate = schemes.certify(name)
    names = {certificate.scheme, certificate.source, str(certificate.alternative)}
    for command in (["explain", name], ["explain", name, "--lr", "0.1"], ["schemes"]):
        done = CliRunner(env={"COLUMNS": "4000"}).invoke(build_app(), [*command, "--lang", lang])
        assert done.exit_code == 0, done.output
        everything = (
            names | {entry.build().name for entry in schemes.SCHEMES.values()} if command == ["schemes"] else names
        )
        assert pseudo.untranslated(done.output, everything) == []
