"""Every Python block and every command that the pages show runs, and prints what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from blocks import Shell, blocks, commands, indented, matches, run, warm_tools

from sabun.cli.app import build
from warm import Warm

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for place in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/*.md") for page in ROOT.glob(place)
)
# The blocks of docs/ja are those of the English pages, as test_translations.py holds, so they run there.
RUNNING = [
    page
    for page in PAGES
    if not page.is_relative_to(ROOT / "docs" / "ja")
    and any(block.excuse is None for block in blocks(page.read_text(encoding="utf-8")))
]


# What commands of sabun import, besides sabun, which each of them imports for itself.
HEAVY = ("sklearn.datasets", "sklearn.model_selection", "sklearn.preprocessing", "optuna", "pydantic", "scipy.stats",
         "typer", "rich.console", "rich.markdown", "rich.progress", "rich.table", "jinja2")  # fmt: skip


TYPED = re.compile(r"^(\$|>>>|sabun|python|pip|make|torchrun|git|import|from) ", re.MULTILINE)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with Warm(*HEAVY) as warm:
        yield warm_tools(tmp_path_factory.mktemp("tools"), warm.command)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUNNING, ids=name)
def test_what_the_page_shows_runs(page: Path, tools: Path, tmp_path: Path) -> None:
    assert run(page, tmp_path, tools) > 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_fence_is_overlooked(page: Path) -> None:
    """Every block says what it is; blocks that a reader would type are python or console; what is not run says why."""
    text = page.read_text(encoding="utf-8")
    kinds = re.findall(r"^```(\S*)$", text, re.MULTILINE)
    assert len(kinds) % 2 == 0
    assert set(kinds[::2]) <= {"python", "console", "text", "diff"}
    assert indented(text) == []
    for block in blocks(text):
        assert block.excuse is None or len(block.excuse.split()) >= 3, f"line {block.line}: why is it not run?"
        assert block.excuse is not None or block.kind != "diff", f"line {block.line}: why is it not run?"
    for kind, plain in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if kind == "text" and not page.name.startswith("README"):  # its list of commands: the test below
            assert not TYPED.search(plain), plain


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_every_command_in_the_readme_exists(page: str) -> None:
    """Lines of text blocks that begin with ``sabun`` name a command that there is, and options that it has."""
    root = typer.main.get_command(build())
    fenced = re.findall(r"^```(\S*)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    plain = [text for kind, text in fenced if kind == "text"]
    lines = [line for text in plain for line in text.splitlines() if line.startswith("sabun ")]
    assert len(lines) > 4
    for line in lines:
        words = shlex.split(re.split(r"\s{2,}|…", line)[0])[1:]
        command = root
        while words and hasattr(command, "commands"):
            choices = words[0].split("|")  # init|status|promote
            for choice in choices:
                assert choice in command.commands, line
            command, words = command.commands[choices[0]], words[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    assert matches("a … c", "a b\n c\n")
    assert not matches("a … c", "a b d")
    assert matches("a\nb", "a\nTuning: 3 of 9 runs done, about 73 s left\nb\n")
    assert not matches("", "Traceback")
    assert commands("$ a\nb\n$ c\n> d\n") == [("a", "b"), ("c\nd", "")]
    shell = Shell(tmp_path)
    shell.type("mkdir x && cd x", "")
    assert shell.folder == tmp_path / "x"
    with pytest.raises(AssertionError, match="expected"):
        shell.type("echo a", "b")
    with pytest.raises(AssertionError):
        shell.type("exit 3", "")
    found = list(blocks("<!-- not run: it costs money -->\n```console\n$ a\n```\n\n```python\n1 / 0\n```\n"))
    assert [b.excuse for b in found] == ["it costs money", None]
    assert indented("a\n\n    b = 1\n    c\n\n```text\n\n    d\n```\n\n- e\n    f\n") == ["b = 1"]
    page = tmp_path / "page.md"
    page.write_text("# x\n\n```python\n1 / 0\n```\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        run(page, tmp_path)
