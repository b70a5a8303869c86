"""The guide for decision makers: both languages say the same, and no figure is from nowhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = {lang: (ROOT / "docs" / "guide" / f"{lang}.md").read_text(encoding="utf-8") for lang in ("en", "ja")}


def test_both_languages_have_the_same_parts() -> None:
    def shape(text: str) -> list[str]:
        heads = [line.partition(".")[0] for line in text.splitlines() if line.startswith("## ")]
        return [*heads, *(f"{line.count('|')}" for line in text.splitlines() if line.startswith("|"))]

    assert shape(GUIDES["en"]) == shape(GUIDES["ja"])
    assert GUIDES["en"].count("☐") == GUIDES["ja"].count("☐") == 7


def test_both_languages_give_the_same_figures() -> None:
    def figures(text: str) -> list[str]:
        return sorted(set(re.findall(r"\d+(?:\.\d+)?(?=\s*%)|\d+\.\d+", text)))

    assert figures(GUIDES["en"]) == figures(GUIDES["ja"])


def test_what_the_guide_says_of_results_is_in_the_readme() -> None:
    """Counts of verdicts in the README's tables, and the measured rate of false go."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = (re.split(r"\n\n\n", part)[0] for part in readme.split("<!-- table: ")[1:3])
    verdicts = re.findall(r"^\| \*\*(.+?)\*\* \| ([^|]+?) \|", first, re.MULTILINE)
    count = Counter(v for _, v in verdicts)
    en, ja = ("none", "one", "two", "three", "four", "five"), ("ゼロ", "一つ", "二つ", "三つ", "四つ", "五つ")
    adopt, against, open_ = (count[v] for v in ("Adopt", "Do not adopt", "Undecided"))
    assert adopt + against + open_ == len(verdicts) == 5
    assert (
        f'{en[adopt]} of five candidates earned "adopt" against the usual one, {en[against]} "do not adopt", '
        f"{en[open_]} stayed undecided" in GUIDES["en"]
    )
    assert f"五候補のうち「採用」が{ja[adopt]}、「見送り」が{ja[against]}、「判断保留」が{ja[open_]}" in GUIDES["ja"]
    against_euler = dict(re.findall(r"^\| \*\*(.+?)\*\* \| ([^|]+?) \|", second, re.MULTILINE))
    higher = [against_euler[name] for name in ("taylor-4", "adams-bashforth-2", "wide-2-4")]
    assert "Adopt" not in higher
    statistics = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert re.search(r"`--candidates 1` \| 2\.0%", statistics)
    assert "2.0% of comparisons" in GUIDES["en"]


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_number_of_trainings_is_that_of_a_study(lang: str) -> None:
    from sabun.poc.spec import Budget
    from sabun.poc.study import DEFAULT_BUDGET

    budget = Budget(**DEFAULT_BUDGET)
    trainings = 2 * (budget.tuning_seeds * budget.trials + budget.seeds + 1)
    assert re.search(rf"(?<!\d){trainings}(?!\d)", GUIDES[lang])
    assert (budget.trials, budget.seeds, budget.tuning_seeds) == (12, 16, 2)
