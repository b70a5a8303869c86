"""The notebooks: one code for all languages, complete texts, and exercises whose solutions can fail."""

from __future__ import annotations

import ast
import contextlib
import re
from pathlib import Path

import pytest

import course  # docs/tools, see conftest.py


@pytest.mark.parametrize("name", course.names())
def test_every_language_has_the_whole_text(name: str) -> None:
    code = course.cells(name)
    texts = {lang: course.text(name, lang) for lang in course.SOLUTION}  # raises where a cell is missing
    for lang, text in texts.items():
        assert text.parts[0].startswith("# "), lang
        assert [bool(part) for part in text.parts[::2]] == [bool(part) for part in texts["en"].parts[::2]], lang
        used = "".join(code.values())
        assert not [word for word in text.words if word.replace("\n", "\\n") not in used], lang
    assert all(one != other for one, other in zip(texts["en"].parts[::2], texts["ja"].parts[::2], strict=True) if one)
    # Comments and docstrings are words; English ones must be translated.
    japanese = "\n".join(map(texts["ja"].code, code.values()))
    comments = re.findall(r"# (?!noqa|%%|fmt)(.*)|\"\"\"(.*)\"\"\"", japanese)
    assert all(re.search("[\u3040-\u9fff]", a or b) or not re.search("[a-z]{3}", a or b) for a, b in comments), comments


@pytest.mark.parametrize("name", course.names())
def test_solutions_can_fail(name: str) -> None:
    solutions = [code for cell, code in course.cells(name).items() if cell.startswith("solution")]
    assert len(solutions) == 3
    assert all(any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))) for code in solutions)


@pytest.mark.parametrize("name", course.names())
def test_a_notebook_runs_and_is_shown_in_both_languages(name: str) -> None:
    pages = course.run(name)
    for lang, page in pages.items():
        assert page.markdown.count('class="output"') + len(page.pictures) >= 5
        assert page.source.count("# %%") >= len(course.cells(name))
        ast.parse(page.source)
        assert len(page.pictures) == len(pages["en"].pictures)
        assert bool(re.search("[\u3041-\u30ff]", page.markdown)) == (lang == "ja")


def test_all_languages_have_the_same_notebooks() -> None:
    assert len(course.names()) == 6
    for lang in course.SOLUTION:
        assert sorted(path.stem for path in (course.FOLDER / lang).glob("*.md")) == course.names()


def test_both_languages_give_the_teacher_the_same_tables() -> None:
    shapes = [
        [line.count("|") for line in (course.FOLDER / page).read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
        for page in ("index.md", "ja.md")
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 2 * (2 + 6)  # what each notebook is for, and what to ask the class


def test_a_cell_shows_what_it_prints_and_its_last_value() -> None:
    scope: dict[str, object] = {}
    assert course.evaluate("print('a')\nx = 2", scope) == ("a\n", None)
    assert course.evaluate("x + 1", scope) == ("", 3)
    with pytest.raises(ZeroDivisionError):
        course.evaluate("1 / 0", scope)


def test_words_are_translated_in_strings_and_comments_only() -> None:
    text = course.Text((), {"flow": "流れ", "from the flow": "流れから"})
    assert text.code('flow = f"flow {flow(1)} from the flow"  # flow') == 'flow = f"流れ {flow(1)} 流れから"  # 流れ'
    assert text.translate("overflow, flow") == "overflow, 流れ"
    chart = {"data": {"values": [{"flow": "flow"}]}, "encoding": {"x": {"field": "flow", "title": "flow"}}}
    assert text.chart(chart) == {
        "data": {"values": [{"flow": "流れ"}]},
        "encoding": {"x": {"field": "flow", "title": "流れ"}},
    }


def test_missing_text_and_failing_cells_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "FOLDER", tmp_path)
    for folder in ("code", "en", "ja"):
        (tmp_path / folder).mkdir()
    (tmp_path / "code" / "1-a.py").write_text("# %% one\nx = 1\n\n\n# %% two\nx\n", encoding="utf-8")
    for lang in ("en", "ja"):
        page = f"# {lang}\n\n<!-- cell: one -->\n\n<!-- cell: two -->\n"
        (tmp_path / lang / "1-a.md").write_text(page, encoding="utf-8")
    with contextlib.chdir(tmp_path):
        assert course.run("1-a")["ja"].markdown.count("# ja\n") == 1
        (tmp_path / "ja" / "1-a.md").write_text("# ja\n\n<!-- cell: two -->\n", encoding="utf-8")
        with pytest.raises(RuntimeError, match=r"1-a, ja: the page has the cells \('two',\)"):
            course.run("1-a")
        (tmp_path / "ja" / "1-a.md").write_text((tmp_path / "en" / "1-a.md").read_text(encoding="utf-8"))
        (tmp_path / "code" / "1-a.py").write_text("# %% one\nassert False\n\n\n# %% two\nx\n", encoding="utf-8")
        with pytest.raises(RuntimeError, match="cell one"):
            course.run("1-a")
