"""Every example has its page: what to install, the command, the versions tested, and a test that runs it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from blocks import blocks, commands

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")

sys.path.insert(0, str(ROOT / "tests" / "integrations"))

from clean import BEFORE, rows  # noqa: E402

ROWS = rows()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def section(title: str) -> str:
    """The part of the page below a heading, up to the next."""
    (found,) = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def typed(text: str) -> list[str]:
    """The commands that a reader of ``text`` types."""
    return [command for block in blocks(text) if block.kind == "console" for command, _ in commands(block.text)]


def test_every_example_is_in_the_index() -> None:
    assert sorted(ROWS) == sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py"))
    assert BEFORE in typed(PAGE)


@pytest.mark.parametrize("name", ROWS)
def test_an_example_says_itself_how_it_is_run(name: str) -> None:
    """Its docstring has the command and the extra of the index; extras exist; a test names it."""
    installation, command = ROWS[name]
    said = ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))) or ""
    assert command in said
    wanted = re.fullmatch(r"pip install -c constraints\.txt (?:\.|'\.\[([\w,-]+)\]')", installation)
    assert wanted
    extras = wanted[1]
    assert set((extras or "").split(",")) - {""} <= set(EXTRAS)
    if not name.startswith("scripts/"):
        assert re.findall(r"pip install 'sabun\[(.*?)\]'", said) == ([extras] if extras else [])
    tests = [p.read_text(encoding="utf-8") for p in ROOT.glob("tests/*/test_*.py") if p != Path(__file__)]
    assert any(Path(name).name in text for text in tests)


def test_every_integration_has_its_section_with_installation_and_command() -> None:
    table = re.findall(r"^\| \[.*?\]\(#\S+\) \| (.*?) \| (.*?) \| `examples/(\S+?)` \|$", PAGE, re.MULTILINE)
    titles = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert {name for _, _, name in table} == {n for n in ROWS if "/" not in n} - {"optimizers.py"}
    shown = {tuple(typed(section(title))) for title in titles}
    for extra, _, name in table:
        assert extra == "none" or extra.strip("`").removeprefix("sabun[").rstrip("]") in ROWS[name][0]
        assert ROWS[name] in shown
    assert list(ROWS["scripts/plain_loop.py"]) == typed(section("Compare on your own script"))[:2]


def test_the_versions_stated_are_those_that_the_tests_run_with() -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    stated = re.findall(r"\b([a-z]+) (\d+\.\d+\.\d+)", PAGE)
    assert len(stated) == 9
    for package, version in stated:
        assert pinned[package] == version


EXCERPTS = [
    (page, block)
    for page in sorted(ROOT.glob("docs/**/*.md"))
    for block in blocks(page.read_text(encoding="utf-8"))
    if (block.excuse or "").startswith("lines of ")
]


@pytest.mark.parametrize(("page", "block"), EXCERPTS, ids=lambda value: getattr(value, "excuse", "")[9:])
def test_what_is_shown_of_an_example_is_in_it(page: Path, block: object) -> None:
    """Line by line, indentation aside."""
    path = ROOT / block.excuse.removeprefix("lines of ")  # type: ignore[attr-defined]
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert path.is_relative_to(EXAMPLES)
    for line in block.text.splitlines():  # type: ignore[attr-defined]
        assert any(held.startswith(line.strip()) for held in lines), f"{page.name}: {line}"


def test_the_index_is_read_word_by_word() -> None:
    assert len(EXCERPTS) >= 8
    assert ROWS["ray_train.py"] == ("pip install -c constraints.txt '.[ray-train]'", "python examples/ray_train.py")
