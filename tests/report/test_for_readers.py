"""What those who decide read: names that they know, their language, their clock."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sabun.cli.poc import prices
from sabun.errors import OptionError
from sabun.messages.languages import languages
from sabun.poc.codec import decode, encode
from sabun.poc.study import demonstration, is_demonstration
from sabun.poc.study_options import default_directory, study_from_options
from sabun.report import html, markdown, terminal
from sabun.report.money import EXAMPLE, Prices

from .cases import Case, report
from .test_renderings import Page, printed

Make = Callable[..., Case]
COMMAND = "script:python train.py --seed {seed} --epochs {epochs}"


def script(case: Make, made: str = "AdamW", **options: Any) -> Case:
    """A study of a script whose own optimizer is the baseline."""
    c = case(names={"study": "需要予測", "momentum": "script"}, task=COMMAND, **options)
    base = c.study.baseline.model_copy(update={"optimizer": "script", "options": {}})
    runs = tuple(dataclasses.replace(run, optimizer=made) if run.arm == "script" else run for run in c.runs)
    return dataclasses.replace(c, study=c.study.model_copy(update={"baseline": base}), runs=runs)


@pytest.mark.parametrize(("lang", "today"), [("en", "AdamW (today)"), ("ja", "AdamW（現行）")])
def test_the_baseline_of_a_script_is_what_the_script_makes_today(case: Make, lang: str, today: str) -> None:
    r = report(script(case, only=("look-ahead",)))
    page = Page(html.render(r, lang), lang).said
    for shown in (page, markdown.render(r, lang).replace("\\", ""), printed(r, lang)):
        assert today in shown
    assert today in r.sentence(r.headline, lang)
    charts = " ".join(re.findall(r"<svg.*?</svg>", html.render(r, lang), re.S))
    assert today in charts
    assert "今日" not in page
    assert not re.search(r"現行の ?AdamW（現行）", page)


@pytest.mark.parametrize(("lang", "name"), [("en", "today"), ("en", "Today"), ("ja", "現行")])
def test_an_arm_named_as_today_is_not_said_twice(case: Make, lang: str, name: str) -> None:
    r = report(case(names={"momentum": name}, only=("look-ahead",)))
    assert r.label(name, lang) == name
    assert r.label("look-ahead", lang) == "look-ahead"
    assert f"{name} (today)" not in Page(html.render(r, lang), lang).said


@pytest.mark.parametrize(("lang", "name"), [("en", "today's optimizer"), ("ja", "現行の最適化手法")])
def test_where_the_class_is_not_known_no_name_is_invented(case: Make, lang: str, name: str) -> None:
    r = report(script(case, made="", only=("look-ahead",)))
    assert name in r.sentence(r.headline, lang)


@pytest.mark.parametrize("lang", languages())
def test_no_sentence_has_the_command(case: Make, lang: str) -> None:
    r = report(script(case))
    said = [
        r.sentence(note, lang)
        for note in (r.headline, *r.phrases, *(step.say for step in r.steps), *r.untested, *r.why, *r.caps)
    ]
    assert not [sentence for sentence in said if "script:" in sentence or "{seed}" in sentence]
    assert "需要予測" in r.sentence(r.headline, lang)
    source = html.render(r, lang)
    assert "<title>" in source
    assert "需要予測" in re.findall(r"<title>(.*?)</title>", source)[0]
    # Whoever audits the study finds the command once, in the table at the end.
    assert Page(source, lang).said.count("script:python train.py --seed {seed}") == 1


def test_the_name_of_a_study_names_its_directory_and_report() -> None:
    script = "python tools/train_demand.py --seed {seed}"
    plain = study_from_options(script=script, candidates=["adamw"])
    assert (plain.name, default_directory(plain).name) == ("train_demand", "train_demand")
    named = study_from_options(script=script, candidates=["adamw"], name="需要予測 2026", note="GPU時間を減らせるか")
    assert (named.name, named.note) == ("需要予測 2026", "GPU時間を減らせるか")
    assert default_directory(named).name == "需要予測-2026"
    assert plain.task == named.task == f"script:{script}"


def test_the_note_stands_below_the_verdict(case: Make) -> None:
    source = html.render(report(case(note="GPU時間を減らせるか")))
    assert source.index("GPU時間を減らせるか") < source.index('id="kpis"')


def test_a_record_keeps_the_class_that_a_script_trained_with(case: Make) -> None:
    run = dataclasses.replace(case().runs[0], optimizer="AdamW")
    assert decode(encode(run)) == run
    assert "optimizer" not in encode(case().runs[0])


def test_the_verdict_on_the_terminal_names_the_baseline(case: Make) -> None:
    assert terminal.render(report(case()), "ja") is not None
    assert "momentum（現行）との比較です" in printed(report(case()), "ja")


@pytest.mark.parametrize(
    ("given", "only", "key"),
    [
        (Prices(600, 200, hours_per_job=3.0, setup_cost=300_000), "look-ahead", "roi.sure"),
        (Prices(600, 200, hours_per_job=3.0), "look-ahead", "roi.sure_without_setup"),
        (Prices(600, 200, hours_per_job=3.0), "euler", "roi.not_claimed"),
        (None, "look-ahead", "roi.free_sure"),
        (None, "euler", "roi.free_not_claimed"),
    ],
)
def test_the_return_on_investment_stands_in_the_headline(case: Make, given: Prices | None, only: str, key: str) -> None:
    r = report(case(only=(only,)), prices=given)
    assert [note.key for note in r.roi] == [key]
    for lang in languages():
        said = r.sentence(r.roi[0], lang)
        assert "–" not in said
        source = html.render(r, lang)
        hero = source[source.index('<div class="hero') : source.index('<h2 class="pair">')]
        assert said in Page(f"{hero}", lang).said
        assert said in markdown.render(r, lang).replace("\\", "")
        assert said.replace(" ", "")[:60] in printed(r, lang).replace("\n", "").replace(" ", "")


def test_amounts_of_the_demonstration_are_marked_as_an_example(case: Make) -> None:
    r = report(case(), prices=EXAMPLE)
    assert [note.key for note in r.roi] == ["roi.example", "roi.sure"]
    assert "試算例です" in Page(html.render(r, "ja"), "ja").said
    assert not [note for note in r.phrases if "money" in note.key]
    own = demonstration()
    assert is_demonstration(own.model_copy(update={"budget": own.budget.model_copy(update={"seeds": 8})}))
    assert not is_demonstration(own.model_copy(update={"task": "digits"}))


def test_prices_are_asked_for_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = iter(["free", "4.50 usd", "", "1,200", "", "0"])
    heard: list[str] = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True, write=heard.append, flush=lambda: None))
    monkeypatch.setattr("sabun.cli.console.ask", lambda question: next(answers))
    found = prices.asked("en")
    assert found == Prices(4.5, 1200.0, "USD", None, 0.0)
    assert "positive number" in "".join(heard)
    prices.remember(tmp_path, found)
    assert prices.stored(tmp_path) is None  # there is no study
    (tmp_path / "study.json").write_text("{}")
    prices.remember(tmp_path, found)
    assert prices.stored(tmp_path) == found
    assert prices.for_report(demonstration(), tmp_path, None) == found
    (tmp_path / "prices.json").write_text("{")
    with pytest.raises(OptionError, match=r"prices\.json"):
        prices.stored(tmp_path)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert prices.asked("en") is None
