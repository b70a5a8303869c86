"""The notebooks: one code for all languages, complete texts, and exercises whose solutions can fail."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import course  # docs/tools, see conftest.py
from sabun import schemes

CHROMIUM = os.environ.get("SABUN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


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
    assert len(solutions) == (8 if name == course.QUIZ else 3)
    assert all(any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))) for code in solutions)


@pytest.mark.parametrize("name", course.names())
def test_a_notebook_runs_and_is_shown_in_both_languages(name: str) -> None:
    pages = course.run(name)
    for lang, page in pages.items():
        source = page.files[f"{name}.py"]
        assert page.markdown.count('class="output"') + len(page.pictures) >= (0 if name == course.QUIZ else 5)
        assert source.count("# %%") >= len(course.cells(name))
        ast.parse(source)
        assert len(page.pictures) == len(pages["en"].pictures)
        assert bool(re.search("[\u3041-\u30ff]", page.markdown)) == (lang == "ja")


def test_all_languages_have_the_same_notebooks() -> None:
    assert len(course.names()) == 7
    for lang in course.SOLUTION:
        assert sorted(path.stem for path in (course.FOLDER / lang).glob("*.md")) == course.names()


def test_both_languages_give_the_teacher_the_same_tables() -> None:
    shapes = [
        [line.count("|") for line in (course.FOLDER / page).read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
        for page in ("index.md", "ja.md")
    ]
    assert shapes[0] == shapes[1]
    # What each notebook is for, what to ask the class, and what to read.
    assert len(shapes[0]) == (2 + 7) + (2 + 6) + (2 + 8)


def code_of(file: str) -> dict[str, str]:
    """The code cells of a notebook file by their IDs."""
    return {cell["id"]: cell["source"] for cell in json.loads(file)["cells"] if cell["cell_type"] == "code"}


@pytest.mark.parametrize("name", [course.QUIZ, "4-look-ahead"])
def test_students_get_no_solutions_and_teachers_get_all(name: str) -> None:
    nbformat = pytest.importorskip("nbformat")  # which jupytext needs
    code = course.cells(name)
    for lang, page in course.run(name).items():
        student, teacher = page.files[f"{name}.ipynb"], page.files[f"{name}-teacher.ipynb"]
        for file in (student, teacher):
            nbformat.validate(nbformat.reads(file, as_version=4))
            assert list(code_of(file)) == list(code)
            assert course.SLIDERS not in file
        words = course.text(name, lang)
        for cell in code:
            own = words.code(code[cell]).replace('LANG = "en"', f'LANG = "{lang}"')
            assert code_of(teacher)[cell] == own
            assert code_of(student)[cell] == (course.YOURS[lang] if cell.startswith("solution") else own)
        hints = [cell for cell in json.loads(teacher)["cells"] if cell["source"].startswith("- **")]
        assert len(hints) == (0 if name == course.QUIZ else 1)
        shown = [page.files[f"{name}-slides.html"], *([page.markdown] if name == course.QUIZ else [])]
        asserted = [line for cell in code if cell.startswith("solution") for line in code[cell].splitlines()]
        assert not [line for line in asserted for text in shown if line.startswith("assert") and line in text]


def test_slides_show_every_cell_and_ask_for_nothing() -> None:
    name = "4-look-ahead"
    for lang, page in course.run(name).items():
        slides = page.files[f"{name}-slides.html"]
        cells = [cell for cell in course.cells(name) if not cell.startswith("solution")]
        assert slides.count("<details>") == len(cells)
        assert slides.count("<img ") == len(page.pictures)
        assert slides.count("<section>") >= len(cells) + len(re.findall("^## ", page.markdown, re.M))
        assert not re.search(r"(?:src|href)=\"(?!data:)", slides)
        assert f'<html lang="{lang}">' in slides


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the browser tests are skipped")
def test_sliders_compute_what_the_certificate_says_and_slides_turn(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    (tmp_path / "slides.html").write_text(course.run(course.QUIZ)["ja"].files[f"{course.QUIZ}-slides.html"], "utf-8")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_content('<div class="plane" data-lang="ja"></div>')
        page.add_script_tag(path=course.FOLDER.parent / "assets" / "plane.js")
        for beta, gamma in ((0.9, 0), (0.9, 0.9), (0.5, 1.5), (0.0, 0.5), (0.8, 4.5)):
            scheme = schemes.get(f"look-ahead({beta}, {gamma})")
            own = schemes.certify(scheme)
            for x in (0.5, 0.99 * own.stability_interval, 1.02 * own.stability_interval):
                found = page.evaluate(f"sabunPlane({beta}, {gamma}, {x})")
                assert found["interval"] == pytest.approx(own.stability_interval)
                assert found["order"] == own.order
                assert own.order > 1 or found["error"] == pytest.approx(float(own.error_constant))
                (factor,) = schemes.analysis.amplification(scheme, np.array([x]))
                assert found["size"] == pytest.approx(factor)
        page.locator("input[name=gamma]").fill("4")
        assert page.locator("[data-value]").first.inner_text() == "4.22"
        page.goto((tmp_path / "slides.html").as_uri())
        for number in (1, 2, 3):
            assert page.locator("footer").inner_text().startswith(f"{min(number, 2)} / ")
            assert page.locator("section.shown").count() == 1
            assert page.evaluate("(s => s.scrollHeight <= s.clientHeight)(document.querySelector('section.shown'))")
            page.keyboard.press("ArrowRight")
        browser.close()
        assert said == []


def test_the_packages_that_the_first_page_installs_are_all_that_notebooks_import() -> None:
    for index in course.INDEX.values():
        assert 'pip install "sabun[poc]" jupyterlab' in (course.FOLDER / index).read_text(encoding="utf-8")
    project = tomllib.loads((course.FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["poc"]]
    packages = {re.split("[><=]", line)[0].replace("scikit-learn", "sklearn") for line in declared}
    used = {
        name.split(".")[0]
        for notebook in course.names()
        for code in course.cells(notebook).values()
        for node in ast.walk(ast.parse(code))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert used - set(sys.stdlib_module_names) <= packages | {"sabun"}


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
