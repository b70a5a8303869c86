"""What notebooks show: studies, verdicts, certificates and reports as pieces of HTML, in both languages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

import sabun
from sabun.errors import OptionError
from sabun.poc.judgement.assessment import Cap, Reason, Verdict
from sabun.poc.study import default_study
from sabun.schemes import certify

from . import cases

Make = Callable[..., Any]
ALLOWED = {"div", "span", "bdi", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
HOSTILE = {
    "study": "</div><script>window.pwned=1</script>",
    "momentum": '<img src=x onerror="window.pwned=1"> & "quotes" \'single\'',
    "look-ahead": "\u202eevil\u202c عربي",
    "euler": "{{ 7*7 }} {effect} \x1b[31mred",
}


class Fragment(HTMLParser):
    """What a browser would see: balanced tags, harmless attributes, and the text of every element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        for name, value in attrs:
            assert name in {"style", "lang", "scope", "role", "aria-valuenow"}
            assert "url(" not in str(value)
        self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"th", "td"} & set(self.stack):
            self.rows[-1][-1] += data


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    sabun.set_language("en")


def shown(value: Any) -> Fragment:
    return Fragment(value._repr_html_())


def test_a_certificate_shows_its_summary_and_every_row() -> None:
    fragment = shown(certify("euler"))
    rows = dict(fragment.rows)
    assert rows["order of accuracy"] == "1"
    assert rows["stability interval (hλ)"] == "2"
    assert fragment.text.startswith("euler")
    assert "follows the gradient flow to order 1" in fragment.text
    sabun.set_language("ja")
    assert dict(shown(certify("euler")).rows)["安定区間（hλ）"] == "2"


def test_a_study_shows_what_it_compares_and_spends() -> None:
    study = default_study(
        task="digits", baseline="torch.optim:SGD(momentum=0.9)", candidates=["nesterov", "adamw"], seeds=5, epochs=3,
        trials=4, tuning_seeds=2,
    )  # fmt: skip
    rows = shown(study).rows
    assert rows[:4] == [
        ["Task", "digits"],
        ["Baseline", "torch.optim:SGD(momentum=0.9)"],
        ["Candidate", "nesterov"],
        ["Candidate", "adamw"],
    ]
    found = dict(rows)
    assert found["Budget"] == "5 paired seeds · 3 epochs · 4 tuning trials per arm"
    assert found["Runs"] == str(3 * (4 * 2 + 5 + 1))
    assert found["Study hash (SHA-256)"] == study.hash
    sabun.set_language("ja")
    assert shown(study).rows[1] == ["現行の手法", "torch.optim:SGD(momentum=0.9)"]


def test_a_verdict_shows_its_decision_reasons_and_caps(case: Make) -> None:
    verdict = case().assessment.verdicts[0]
    fragment = shown(verdict)
    assert fragment.text.startswith("Adopt" + verdict.arm)
    assert [row[0] for row in fragment.rows] == [
        "●\u00a0Learning curve",
        "○\u00a0Reproducibility",
        "●\u00a0Computing cost",
    ]
    effect = re.escape(f"{abs(verdict.reasons[0].values['effect']) * 100:.1f}")
    assert re.search(effect, fragment.rows[0][1])
    capped = Verdict("x", "promising", verdict.reasons, (Cap("not_tuned", "promising"),))
    assert "Not tuned: x started at the step equivalent to that of Baseline" in shown(capped).text
    assert (
        shown(Verdict("x", "undecided", (Reason("K1", "k1_no_data", "unclear"),))).rows[0][0] == "▲\u00a0Learning curve"
    )


def test_a_report_shows_the_verdict_and_a_row_per_candidate(case: Make) -> None:
    report = cases.report(case())
    fragment = shown(report)
    head, *rows = fragment.rows
    assert head[:2] == ["Candidate", "Verdict"]
    assert [row[0] for row in rows] == [candidate.arm for candidate in report.candidates]
    effect = report.candidates[0].kpis["final_loss"].effect
    assert f"−{abs(effect) * 100:.1f}%" in rows[0][2]
    assert report.sentence(report.headline, "en") in fragment.text
    sabun.set_language("ja")
    japanese = shown(report)
    assert report.sentence(report.headline, "ja") in japanese.text
    assert japanese.rows[1][1] == "採用"


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_names_are_text_and_never_markup(case: Make, lang: str) -> None:
    sabun.set_language(lang)
    made = case(names=HOSTILE, note="<script>alert(1)</script>")
    report = cases.report(made)
    for value in (made.study, report, *made.assessment.verdicts):
        text = shown(value).text
        assert "\u202e" not in text
        assert "\x1b" not in text
    assert HOSTILE["study"] in shown(report).text
    assert HOSTILE["momentum"] in shown(made.study).text
    assert "<script>alert(1)</script>" in shown(made.study).text
    assert [row[0] for row in shown(report).rows][1] == "\ufffdevil\ufffd عربي"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(OptionError, match="fr"):
        sabun.set_language("fr")
