"""The notebooks: valid jupytext, the same code in both languages, exercises whose solutions can fail."""

from __future__ import annotations

import ast
from pathlib import Path

import jupytext
import pytest

import course  # docs/tools, see conftest.py


@pytest.mark.parametrize("name", course.names())
def test_a_notebook_is_one_in_both_languages(name: str) -> None:
    texts = {lang: (course.FOLDER / lang / f"{name}.py").read_text(encoding="utf-8") for lang in ("en", "ja")}
    for lang, text in texts.items():
        book = jupytext.reads(text, fmt="py:percent")
        assert book.cells[0].source.startswith("# "), lang
        assert jupytext.writes(jupytext.reads(jupytext.writes(book, "ipynb"), "ipynb"), "py:percent").count(
            "# %%"
        ) == len(book.cells)
    sides = list(course.cells(name, texts))  # raises where the code differs
    assert all(side["en"].source != side["ja"].source for side in sides if side["en"].cell_type == "markdown")
    solutions = [side["en"].source for side in sides if "solution" in side["en"].metadata.get("tags", ())]
    assert len(solutions) == 3
    assert all(any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))) for code in solutions)


def test_both_languages_have_the_same_notebooks() -> None:
    assert len(course.names()) == 6
    assert sorted(path.stem for path in (course.FOLDER / "ja").glob("*.py")) == course.names()


def test_both_languages_tell_the_teacher_the_same() -> None:
    shapes = [
        [line.count("|") for line in (course.FOLDER / page).read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
        for page in ("index.md", "ja.md")
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 2 * (2 + 6)  # what each notebook is for, and what to ask the class


def test_a_cell_shows_what_it_prints_and_what_it_is_worth() -> None:
    scope: dict[str, object] = {}
    assert course.evaluate("print('a')\nx = 2", scope) == ("a\n", None)
    assert course.evaluate("x + 1", scope) == ("", 3)
    with pytest.raises(ZeroDivisionError):
        course.evaluate("1 / 0", scope)


def test_a_difference_in_code_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = course.essence('LANG = "en"\ndef f():\n    """A."""\n    return 1  # one')
    assert same == course.essence('LANG = "ja"\ndef f():\n    """B."""\n    return 1')
    assert same != course.essence('LANG = "en"\ndef f():\n    return 2')
    monkeypatch.setattr(course, "FOLDER", tmp_path)
    for lang, code in (("en", "x = 1"), ("ja", "x = 2")):
        (tmp_path / lang).mkdir()
        (tmp_path / lang / "1-a.py").write_text(f"# %% [markdown]\n# # {lang}\n\n# %%\n{code}\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="differ in more than words"):
        course.run("1-a")
    (tmp_path / "ja" / "1-a.py").write_text("# %% [markdown]\n# # ja\n\n# %%\nx = 1\n", encoding="utf-8")
    assert course.run("1-a")["ja"].markdown.count("# ja\n") == 1
    for lang in ("en", "ja"):
        (tmp_path / lang / "1-a.py").write_text("# %%\nassert False\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="cell 0"):
        course.run("1-a")
