"""One mark has one meaning, in every rendering and in both languages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from sabun.messages.languages import languages
from sabun.poc.judgement.assessment import Comparison, Reason
from sabun.report import html, markdown
from sabun.report.facts import Report

from .cases import Case, report
from .test_renderings import Page, printed

Make = Callable[..., Case]
REACHED = {"ratio": 1.3, "effect": 0.71, "low": 0.63, "high": 0.8, "limit": 1.0, "n": 10}


def forgiven(case: Make) -> Report:
    """A study whose candidate takes 1.3 times as long per epoch, and reaches today's loss sooner."""
    c = case(only=("look-ahead",))
    a = c.assessment

    def slow(found: Comparison) -> Comparison:
        return dataclasses.replace(found, effect=1.3, low=1.25, high=1.35) if found.kpi == "epoch_s" else found

    (verdict,) = a.verdicts
    reasons = (*verdict.reasons[:2], Reason("K3", "k3_time_to_target", "pass", REACHED))
    a = dataclasses.replace(
        a,
        comparisons=tuple(map(slow, a.comparisons)),
        verdicts=(dataclasses.replace(verdict, reasons=reasons),),
    )
    return report(dataclasses.replace(c, assessment=a))


@pytest.mark.parametrize(
    ("lang", "word", "phrase"),
    [
        ("en", "beyond the limit, met by the time to target", "1.30× the time of today's, which is beyond the limit"),
        ("ja", "上限超過、到達時間で達成", "現行の1.30倍で上限を超えますが、現行品質には0.71倍の時間で到達します"),
    ],
)
def test_an_exception_has_its_own_mark_and_reason(case: Make, lang: str, word: str, phrase: str) -> None:
    r = forgiven(case)
    assert r.candidate(r.leading).mark("K3") == "exception"
    source = html.render(r, lang)
    said = Page(source, lang).said
    assert word in said
    assert phrase in said
    assert source.count('class="half exception"') == 1
    assert 'class="state exception"' in source
    row = next(line for line in markdown.render(r, lang).splitlines() if line.startswith("| **look-ahead**"))
    assert "◐ 1.30" in row
    assert "● 1.30" not in row
    assert "◐" in printed(r, lang)


@pytest.mark.parametrize("lang", languages())
def test_the_legend_has_every_mark_that_is_drawn(case: Make, lang: str) -> None:
    for r in (forgiven(case), report(case())):
        shown = markdown.render(r, lang)
        legend = next(line for line in shown.splitlines() if "◇" in line)
        assert {*re.findall("[●◐○◇▲✕]", shown)} <= {*re.findall("[●◐○◇▲✕]", legend)}


@pytest.mark.parametrize("lang", languages())
def test_sentences_use_the_level_of_the_legend_and_no_code_of_a_kpi(case: Make, lang: str) -> None:
    c = case()
    own = dataclasses.replace(
        c.assessment, comparisons=tuple(dataclasses.replace(f, level=0.9856) for f in c.assessment.comparisons)
    )
    said = Page(html.render(report(dataclasses.replace(c, assessment=own)), lang), lang).said
    assert "98.56" not in said
    assert not re.search(r"\bK[123]\b", said)
    assert "桁" not in said


def test_a_noise_gain_of_0_98_is_no_different_from_1(case: Make) -> None:
    c = case(only=("nesterov",))
    r = report(c)
    keys = {note.key for note in r.why}
    gains = [arm.method.noise_gain for arm in r.arms if arm.method is not None and arm.method.noise_gain is not None]
    assert ("why.noise_same" in keys) == (abs(gains[0] - gains[1]) <= 0.05 * max(gains))
    assert gains == pytest.approx([0.98, 0.94], abs=0.01)
