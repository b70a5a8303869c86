"""What the README shows runs, and what it points to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What the site shows is checked by its strict build, generated pages included.
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("benchmarks/**/*.md")])


@pytest.mark.parametrize("name", ["README.md", "README.ja.md"])
def test_python_examples_run(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        scope: dict[str, object] = {}
        exec(compile(block, name, "exec"), scope)
        assert float(scope["loss"]) < 1.5  # type: ignore[arg-type]  # noise of variance 1: it learned something


def test_the_files_that_contributing_names_exist() -> None:
    named = re.findall(r"`((?:src|tests|examples|docs)/[^`]*)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 6
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_and_pictures_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing
