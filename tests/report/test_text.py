"""Sentences: every language has the same, and says nothing that cannot be filled."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

import sabun
from sabun.errors import OptionError
from sabun.messages import catalogue as text
from sabun.messages.formatting import LANGUAGES
from sabun.poc.judgement.assess import PROBLEMS
from sabun.poc.judgement.kpis import KPIS
from sabun.poc.judgement.results import Reason
from sabun.poc.judgement.verdict import REASONS


def test_languages_have_the_same_keys_and_placeholders() -> None:
    assert text.keys("en") == text.keys("ja")
    for key in text.keys("en"):
        assert text.placeholders(key, "en") == text.placeholders(key, "ja"), key


def test_every_language_file_is_a_language() -> None:
    files = {
        f.name.removesuffix(".toml") for f in resources.files("sabun.messages").iterdir() if f.name.endswith(".toml")
    }
    assert files == set(LANGUAGES)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_reason_of_a_verdict_has_a_sentence(lang: str) -> None:
    said = {key.removeprefix("reason.") for key in text.keys(text.language(lang)) if key.startswith("reason.")}
    assert said == set(REASONS)
    for code, allowed in REASONS.items():
        used = text.placeholders(f"reason.{code}", text.language(lang))
        assert used <= {*allowed, "arm", "today"}, code


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_problem_of_a_statistic_has_a_sentence(lang: str) -> None:
    said = {key.removeprefix("problem.") for key in text.keys(text.language(lang)) if key.startswith("problem.")}
    assert said == set(PROBLEMS)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_kpi_has_a_name(lang: str) -> None:
    assert {f"kpi.{kpi}" for kpi in KPIS} <= text.keys(text.language(lang))


def test_a_reason_whose_number_is_missing_shows_a_dash() -> None:
    said = text.reason_text(Reason("K1", "k1_better", "pass", {"effect": -0.136}), "new", "old", "en")
    assert "13.6% lower" in said
    assert "from – to –" in said


def test_no_sentence_is_dead() -> None:
    """Each key is named in the code or in a template, or belongs to a family that the code builds names of."""
    root = Path(sabun.__file__).parent
    files = [*root.rglob("report/*.py"), *root.rglob("report/templates/*"), *root.rglob("cli/*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    families = (
        "reason.",
        "kpi.",
        "word.",
        "nav.",
        "phrase.",
        "step.",
        "alt.",
        "why.",
        "headline.undecided_",
        "problem.",
    )
    named = set(re.findall(r"""["']([a-z]+\.[a-z_0-9]+)["']""", source))
    dead = [key for key in text.keys("en") if key not in named and not key.startswith(families)]
    assert dead == []


def test_japanese_is_japanese() -> None:
    """Sentences end as polite Japanese does, and brackets and colons are full-width."""
    for key in text.keys("ja"):
        said = re.sub(r"\{[^}]*\}|θ′\(t\)|∇L\(θ\)", "", text._messages("ja")[key])
        assert not re.search(r"[(),:;]", said), f"{key}: {said}"
        assert re.search(r"[ぁ-んァ-ヶ一-龠]", said) or len(said) < 25, key
    for key in text.keys("ja"):
        if key.startswith(("headline.", "phrase.", "why.", "step.")):
            assert re.search(
                r"(です|ます|ません|でした|ました|ください)(（[^（）]*）)?。$", text._messages("ja")[key]
            ), key


def test_an_unknown_language_names_those_that_exist() -> None:
    with pytest.raises(OptionError, match=r"unknown language 'fr'.*en, ja"):
        text.language("fr")


@pytest.mark.parametrize(
    ("low", "high", "en", "ja"),
    [
        (0.5, 1.25, "0.50× to 1.25×", "0.50倍～1.25倍"),
        (0.5, None, "0.50× or more", "0.50倍以上"),
        (0.5, float("inf"), "0.50× or more", "0.50倍以上"),
        (None, 1.25, "1.25× or less", "1.25倍以下"),
        (None, None, "no bounds", "上下限なし"),
    ],
)
def test_an_interval_without_an_end_says_so(low: float | None, high: float | None, en: str, ja: str) -> None:
    assert [text.interval(low, high, "ratio", lang) for lang in LANGUAGES] == [en, ja]
