"""Plain English: words and turns of phrase that the project does not use, anywhere a reader may find them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for place in (
        "*.md",
        "docs/**/*.md",
        "docs/**/*.py",
        "examples/**/*.md",
        "benchmarks/*.md",
        "src/**/*.py",
        "src/**/*.toml",
    )
    for path in ROOT.glob(place)
)
BANNED = {
    "metaphor": r"nursery|\b(?:bury|buries|buried)\b|luggage|obituar\w+|\bshel(?:f|ves)\b|\bblames?\b|\bstrangers?\b|"
    r"\bknife.s edge\b|\bcry wolf\b",
    "dialect": r"\btold\b(?! apart)|\bheed(?:s|ed)?\b|\bmend(?:s|ed)?\b|\bwhoever\b|"
    r"\bis no number\b|\bhand(?:s|ed)? out\b|\bof one's own\b|\bnone to be had\b|\bspecial cases?:|\bgoes with\b|"
    r"\bbears?\b",
    # One Japanese word for one thing, and none that is translated word for word: docs/glossary.md.
    "japanese": r"不明確|未検出|元シード|(?<!一)対比較|どれだけ寛容|伝わり方|全数バッチ|空騒ぎ|封をし|刻みが長|"
    r"追加機能なし|スタディ|モメンタム|慣性項|打切り|課題|機械(?!学習)|差し戻し|いまの手法|つまみ|実験前|模擬検証|比較対象|収益率|節約額|"
    r"言い回し|スケジューラ(?!ー)|フォルダ(?!ー)|ブラウザ(?!ー)|サーバ(?!ー)|エディタ(?!ー)",
    "old name": r"\bstartup=|with_startup\b|\bseeds? together\b",
}
# Lines that may contain such a word: page and beginning of the line → reason.
ALLOWED = {("CHANGELOG.md", "| `"): "the table of names quotes the former names"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_banned_words(page: Path) -> None:
    found = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if any(page.name == name and line.startswith(start) for name, start in ALLOWED):
            continue
        for kind, pattern in BANNED.items():
            found += [f"{number}: {match[0]!r} ({kind})" for match in re.finditer(pattern, line, re.IGNORECASE)]
    assert not found, found
