"""Sentences: every language has the same, and says nothing that cannot be filled."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import get_args

import pytest

import sabun
from sabun.errors import OptionError
from sabun.messages.languages import add_language, differences, language, languages, read
from sabun.messages.sentences import interval, wanted
from sabun.poc import check
from sabun.poc.judgement.assess import PROBLEMS
from sabun.poc.judgement.kpis import KPIS
from sabun.poc.judgement.verdict import CAPS, REASONS


def test_languages_have_the_same_keys_and_placeholders() -> None:
    for lang in languages():
        assert differences(read(lang), read("en")) == [], lang


def test_every_language_file_is_a_language() -> None:
    locales = resources.files("sabun.messages").joinpath("locales")
    files = {f.name.removesuffix(".toml") for f in locales.iterdir()}
    assert files == set(languages())
    assert languages()[0] == "en"


def test_a_file_that_lacks_a_message_is_refused(tmp_path: Path) -> None:
    whole = resources.files("sabun.messages").joinpath("locales", "en.toml").read_text(encoding="utf-8")
    path = tmp_path / "de.toml"
    path.write_text(re.sub(r"^go = .*\n", "", whole, count=1, flags=re.M), encoding="utf-8")
    with pytest.raises(OptionError, match=r"de\.toml differs from en\.toml in 1 entries: word\.go"):
        add_language(path)
    path.write_text(whole.replace("{low} to {high}", "{low}"), encoding="utf-8")
    with pytest.raises(OptionError, match=r"word\.interval"):
        add_language(path)


@pytest.mark.parametrize("lang", languages())
def test_every_reason_of_a_verdict_has_a_sentence(lang: str) -> None:
    said = {key.removeprefix("reason.") for key in read(lang).messages if key.startswith("reason.")}
    assert said == set(REASONS)
    for code, allowed in REASONS.items():
        used = wanted(f"reason.{code}", lang)
        assert used <= {*allowed}, code


@pytest.mark.parametrize("lang", languages())
def test_every_cap_of_a_verdict_has_a_sentence(lang: str) -> None:
    said = {key.removeprefix("cap.") for key in read(lang).messages if key.startswith("cap.")}
    assert said == set(CAPS)
    for code, (_, allowed) in CAPS.items():
        assert wanted(f"cap.{code}", lang) <= {*allowed, "arm", "baseline", "task", "study"}, code


@pytest.mark.parametrize("lang", languages())
def test_every_problem_of_a_statistic_has_a_sentence(lang: str) -> None:
    said = {key.removeprefix("problem.") for key in read(lang).messages if key.startswith("problem.")}
    assert said == set(PROBLEMS)


@pytest.mark.parametrize("lang", languages())
def test_every_finding_of_check_has_a_sentence_and_its_values(lang: str) -> None:
    """The keys of values are those that the check names, so that none fails where it is first needed."""
    codes = {key.removeprefix("fault.") for key in read(lang).messages if key.startswith("fault.")}
    assert codes == set(get_args(check.Code))
    assert {key.removeprefix("fix.") for key in read(lang).messages if key.startswith("fix.")} <= codes
    assert all(wanted(f"fault.{code}", lang) == {"arm", "detail"} for code in codes)
    source = Path(check.__file__).read_text(encoding="utf-8")
    seen = {key.removeprefix("seen.") for key in read(lang).messages if key.startswith("seen.")}
    assert not {key for key in seen if f'"{key}"' not in source and not key.startswith("unpaired")}
    finding = check.CheckFinding("peak", "today", "peak", {"asked": "0.1", "largest": "1"})
    assert finding.detail == "asked for 0.1, stepped at most 1"
    assert finding.observed("ja") == "指定は 0.1、実際の最大は 1"


@pytest.mark.parametrize("lang", languages())
def test_every_kpi_has_a_name(lang: str) -> None:
    assert {f"kpi.{kpi}" for kpi in KPIS} <= read(lang).messages.keys()


def test_no_sentence_is_dead() -> None:
    """Each key is named in the code or in a template, or belongs to a family that the code builds names of."""
    root = Path(sabun.__file__).parent
    files = [file for kind in ("*.py", "*.j2") for file in root.rglob(kind)]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    families = (
        "reason.",
        "kpi.",
        "word.",
        "nav.",
        "phrase.",
        "step.",
        "cost.",
        "alt.",
        "why.",
        "headline.",
        "cap.",
        "problem.",
        "scheme.",
        "dots.",
        "method.",
        "progress.",
        "roi.",
        "check.",
        "fault.",
        "fix.",
        "seen.",
        "status.",
        "adopt.",
        "learned.",
        "certificate.",
        "scheme_chart.",
        "slides.",
        "ui.better_",
    )
    named = set(re.findall(r"""["']([a-z]+\.[a-z_0-9]+)["']""", source))
    dead = [key for key in read("en").messages if key not in named and not key.startswith(families)]
    assert dead == []


def test_japanese_is_japanese() -> None:
    """Sentences end as polite Japanese does, and brackets and colons are full-width."""
    for key in read("ja").messages:
        code = r"[\w.]+\([^()]*\)"
        said = re.sub(r"\{[^}]*\}|θ′\(t\)|∇L\(θ\)|" + code, "", read("ja").messages[key])
        if not key.startswith("scheme"):  # formulas
            assert not re.search(r"[(),:;]", said), f"{key}: {said}"
        assert re.search(r"[ぁ-んァ-ヶ一-龠]", said) or len(said) < 25 or key.endswith("_command"), key
    for key in read("ja").messages:
        if key.startswith(("headline.", "phrase.", "why.", "step.")):
            assert re.search(
                r"(です|ます|ません|でした|ました|ください)(（[^（）]*）)?。$", read("ja").messages[key]
            ), key


def test_an_unknown_language_names_those_that_exist() -> None:
    with pytest.raises(OptionError, match=r"unknown language 'fr'.*en, ja"):
        language("fr")


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
    assert [interval(low, high, "ratio", lang) for lang in languages()] == [en, ja]
