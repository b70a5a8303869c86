"""What those who decide read: names that they know, their language, their clock."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from sabun.messages.languages import languages
from sabun.poc.codec import decode, encode
from sabun.poc.study_options import default_directory, study_from_options
from sabun.report import html, markdown, terminal

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


@pytest.mark.parametrize(("lang", "name"), [("en", "today's optimizer"), ("ja", "現行の最適化手法")])
def test_where_the_class_is_not_known_no_name_is_invented(case: Make, lang: str, name: str) -> None:
    r = report(script(case, made="", only=("look-ahead",)))
    assert name in r.sentence(r.headline, lang)


@pytest.mark.parametrize("lang", languages())
def test_no_sentence_has_the_command(case: Make, lang: str) -> None:
    r = report(script(case))
    said = [r.sentence(note, lang) for note in (r.headline, *r.phrases, *r.steps, *r.untested, *r.why, *r.caps)]
    assert not [sentence for sentence in said if "script:" in sentence or "{seed}" in sentence]
    assert "需要予測" in r.sentence(r.headline, lang)
    source = html.render(r, lang)
    assert "<title>" in source
    assert "需要予測" in re.findall(r"<title>(.*?)</title>", source)[0]
    # Whoever audits the study finds the command once, in the table at the end.
    assert source.count("script:python train.py --seed {seed}") == 1


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
