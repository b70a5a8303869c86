"""Ten questions that a reader who gets only the Japanese report must be able to answer, with the right values.

The answers are looked for in the text of the page as a browser shows it. The values come from the study and from the
formulas of a saving, not from the report.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sabun.report import html
from sabun.report.money import Prices

from .cases import Case, report
from .test_renderings import Page

Make = Callable[..., Case]
PRICES = Prices(600, 200, hours_per_job=3.0, setup_cost=300_000)
QUESTIONS = (
    "採用すべきか",
    "効果はどれだけで、その区間は",
    "再現性は",
    "計算コストは",
    "最終精度は",
    "費用はいくらか",
    "投資対効果（ROI）は",
    "導入は難しいか",
    "次に何をするか",
    "検証していないことは",
)


def percent(value: float) -> str:
    return f"{abs(100 * value):.1f}%"


def yen(value: float) -> str:
    """Three digits and no fraction of a yen; in units of 10,000 yen from there on."""
    rounded = float(f"{value:.3g}")
    return f"{rounded / 1e4:.3g}万円" if rounded >= 1e4 else f"{rounded:.0f}円"


@pytest.fixture(scope="module")
def said(case: Make) -> dict[str, str]:
    """The sections of the Japanese page, by their headings."""
    r = report(case(), prices=PRICES, path=Path("runs/digits"))
    text = Page(html.render(r, "ja"), "ja").said
    heads = [
        "候補の一覧", "最終精度と損失低下速度", "3つのKPI", "投資対効果（ROI）", "導入難易度：",
        "次の段取り", "会議で使えるフレーズ", "今回検証していないこと",
    ]  # fmt: skip
    places = sorted((text.rindex(head), head) for head in heads if head in text)
    ends = [*(at for at, _ in places[1:]), len(text)]
    parts = {head.strip(): text[at:end] for (at, head), end in zip(places, ends, strict=True)}
    return {**parts, "": text[: places[0][0]]}


def test_the_checklist_has_ten_questions() -> None:
    assert len(set(QUESTIONS)) == 10


def test_a_reader_of_the_japanese_page_finds_the_answers(case: Make, said: dict[str, str]) -> None:
    c = case()
    kpis = {f.kpi: f for f in c.assessment.comparisons if f.arm == "look-ahead"}
    loss, spread, cost, time = (kpis[name] for name in ("final_loss", "spread", "epoch_s", "time_to_target_s"))
    runs = [run for run in c.runs if run.arm == "look-ahead" and run.phase == "evaluate"]
    accuracy = np.mean([run.epochs[-1].val_metric for run in runs])
    everything = "".join(said.values())

    def ends(low: float, high: float) -> str:
        return f"{low:.2f}倍～{high:.2f}倍"

    assert time.effect is not None
    assert time.low is not None
    assert time.high is not None
    today = 600 * 200 * 3.0
    hours = sum(epoch.train_s + epoch.eval_s for run in c.runs for epoch in run.epochs) / 3600
    month, invested = today * (1 - time.effect), 300_000 + 600 * hours
    answers = {
        "採用すべきか": (said[""], "採用", "look-ahead の採用を推奨します"),
        "効果はどれだけで、その区間は": (said[""], percent(loss.effect), percent(loss.low), percent(loss.high)),
        "再現性は": (said[""], f"{spread.effect:.2f}倍", ends(spread.low, spread.high)),
        "計算コストは": (said[""], f"{cost.effect:.2f}倍", ends(cost.low, cost.high)),
        "最終精度は": (said["最終精度と損失低下速度"], "最終精度（検証データ）", f"{100 * accuracy:.1f}%"),
        "費用はいくらか": (said["投資対効果（ROI）"], yen(600 * hours), "30万円", f"学習{len(c.runs)}回"),
        "投資対効果（ROI）は": (
            said["投資対効果（ROI）"],
            yen(month),
            f"{invested / month:.1f}か月",
            percent((12 * month - invested) / invested),
            yen(today * (1 - time.high)),
            yen(today * (1 - time.low)),
        ),
        "導入は難しいか": (said["導入難易度："], "変更は1行です", "sabun.create('look-ahead(0.9, 2)', model)"),
        "次に何をするか": (said["次の段取り"], "sabun rollout init --study runs/own", "担当：", "期限："),
        "検証していないことは": (said["今回検証していないこと"], "digits 以外のタスク", "この機器（x86_64）以外"),
    }
    assert tuple(answers) == QUESTIONS
    for question, (where, *wanted) in answers.items():
        for value in wanted:
            assert value in where, (question, value)
    assert not re.search(r"\bnan\b|\bNone\b", everything)
