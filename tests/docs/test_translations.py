"""The Japanese pages say what the English ones say: a page that changes in one language alone is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    "faq.md",
    "rollout.md",
    "tutorial.md",
    *sorted(f"how-to/{page.name}" for page in (DOCS / "how-to").glob("*.md")),
]
FENCED = re.compile(r"(?:^<!-- not run: [^>]+? -->\n+)?^```\w+\n.*?^```$", re.DOTALL | re.MULTILINE)


def fenced(page: str) -> list[str]:
    """Code blocks with what they print, and why they are not run."""
    return FENCED.findall(page)


def shape(page: str) -> list[str]:
    """Levels of headings, columns of the rows of tables, and marks of lists, in order."""
    found = re.findall(r"^(#+|\|.*|[-*]|\d+\.)(?: |$)", FENCED.sub("", page), re.MULTILINE)
    return [f"{mark.count('|')} columns" if mark.startswith("|") else mark for mark in found]


def named(page: str) -> set[str]:
    """What is set as code in the text: commands, options, names."""
    return set(re.findall(r"`([^`]+)`", FENCED.sub("", page).replace("\n", " ")))


def figures(page: str) -> set[str]:
    """Numbers of the text, without those in code, links and marks of lists."""
    text = re.sub(r"`[^`]+`|\]\([^)]*\)|^\d+\. |^#.*", "", FENCED.sub("", page), flags=re.MULTILINE)
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def links(page: str) -> set[str]:
    """Names and anchors of the pages that a page points to: their folder is another one in each language."""
    return {to.rpartition("/")[2] for to in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", page))}


@pytest.mark.parametrize("page", PAGES)
def test_a_japanese_page_is_not_stale(page: str) -> None:
    english, japanese = ((DOCS / place / page).read_text(encoding="utf-8") for place in ("", "ja"))
    assert fenced(japanese) == fenced(english)
    assert shape(japanese) == shape(english)
    assert not named(english) - named(japanese)
    assert not figures(english) - figures(japanese)
    assert links(english) == links(japanese)


def test_there_is_no_japanese_page_without_an_english_one() -> None:
    pages = {str(page.relative_to(DOCS / "ja")) for page in (DOCS / "ja").rglob("*.md")}
    assert pages == set(PAGES)


def test_a_change_in_one_language_is_noticed() -> None:
    page = "# a\n\n2 of `b` [c](d.md#e)\n\n```console\n$ f\ng\n```\n\n| h | i |\n- j\n"
    assert fenced(page) == ["```console\n$ f\ng\n```"]
    assert shape(page) == ["#", "3 columns", "-"]
    assert (named(page), figures(page), links(page)) == ({"b"}, {"2"}, {"d.md#e"})
