"""Plain English: words and turns of phrase that the project does not use, anywhere a reader may find them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for place in ("*.md", "docs/**/*.md", "docs/**/*.py", "examples/**/*.md", "benchmarks/*.md", "src/**/*.py", "src/**/*.toml")
    for path in ROOT.glob(place)
)
BANNED = {
    "metaphors": r"nursery|buries|buried|bury|luggage|obituar\w+|\bshel(?:f|ves)\b|\bblames?\b|strangers?\b|\bhouse\b|neighbour of its own",
    "dialect": r"\btold\b|\bheeds?\b|\bheeded\b|\bmends?\b|\bmended\b|\bwhoever\b|\bis no number\b|\bhands? out\b|\bhanded out\b|"
    r"\bof one's own\b|\bthere are none to be had\b|\bSpecial cases?:|\bgoes with\b|\bbears?\b(?! in mind)",
    "old names": r"\bstartup=|with_startup\b|\bsaid of\b",
}
# Lines that may contain such a word, with the reason.
ALLOWED: dict[str, str] = {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_banned_words(page: Path) -> None:
    found = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for kind, pattern in BANNED.items():
            found += [f"{number}: {match[0]!r} ({kind})" for match in re.finditer(pattern, line, re.IGNORECASE)
                      if not any(allowed in line for allowed in ALLOWED)]  # fmt: skip
    assert not found, found
