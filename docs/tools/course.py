"""The course: notebooks as plain Python files (jupytext's percent format), run from top to bottom, shown as pages.

A cell shows what it prints, and what its last expression is worth, as a notebook does: a chart as a picture, anything
else as text. A cell tagged ``solution`` is folded. A cell that fails stops the build.

Both languages have the same code, comments and docstrings apart. So it is run once, and only cells that read ``LANG``
are run for each.
"""

from __future__ import annotations

import ast
import contextlib
import io
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext

FOLDER = Path(__file__).parents[1] / "course"
SOLUTION = {"en": "Solution", "ja": "解答例"}
SOURCE = {"en": "This page as a notebook", "ja": "このページのノートブック"}
HOW = {
    "en": ": open it in an editor that knows `# %%` cells, or run it with Python.",
    "ja": "（`# %%` のセルに対応したエディターで開くか、Python で実行してください）",
}
Cells = dict[str, Any]
"""Language → the cell in that language."""


@dataclass
class Notebook:
    """A page of the course, and its pictures by file name."""

    parts: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    markdown: str = ""


def names() -> list[str]:
    """The notebooks, in order."""
    return sorted(path.stem for path in (FOLDER / "en").glob("[0-9]-*.py"))


_DONE: dict[tuple[str, ...], dict[str, Notebook]] = {}


def run(name: str) -> dict[str, Notebook]:
    """Run a notebook in an empty folder; language → page.

    Raises RuntimeError, naming the cell, when one fails or when the languages differ in code.
    """
    texts = {lang: (FOLDER / lang / f"{name}.py").read_text(encoding="utf-8") for lang in SOLUTION}
    key = (name, *texts.values())
    if key not in _DONE:  # `mkdocs serve` asks again after every edit of anything
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            _DONE[key] = _run(name, texts)
    return _DONE[key]


def cells(name: str, texts: Mapping[str, str]) -> Iterator[Cells]:
    """The cells of all languages side by side. Raises RuntimeError where they do not correspond."""
    books = {lang: jupytext.reads(text, fmt="py:percent").cells for lang, text in texts.items()}
    if len({len(book) for book in books.values()}) > 1:
        raise RuntimeError(f"{name}: the languages differ in their number of cells.")
    for number in range(len(books["en"])):
        side = {lang: book[number] for lang, book in books.items()}
        kinds = {(cell.cell_type, tuple(cell.metadata.get("tags", ()))) for cell in side.values()}
        same = side["en"].cell_type == "markdown" or len({essence(cell.source) for cell in side.values()}) == 1
        if len(kinds) > 1 or not same:
            raise RuntimeError(f"{name}, cell {number}: the languages differ in more than words.")
        yield side


def essence(code: str) -> str:
    """The code without comments, docstrings and the value of ``LANG``."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body.pop(0)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LANG":
            node.value = ast.Constant(None)
    return ast.unparse(tree)


def _run(name: str, texts: Mapping[str, str]) -> dict[str, Notebook]:
    import torch

    torch.set_num_threads(1)
    scope: dict[str, object] = {"__name__": "__main__"}
    pages = {lang: Notebook() for lang in texts}
    for number, side in enumerate(cells(name, texts)):
        if side["en"].cell_type == "markdown":
            for lang, cell in side.items():
                pages[lang].parts.append(cell.source)
            continue
        reads = any(isinstance(n, ast.Name) and n.id == "LANG" and isinstance(n.ctx, ast.Load)
                    for n in ast.walk(ast.parse(side["en"].source)))  # fmt: skip
        shown: tuple[str, object] | None = None
        for lang, cell in side.items():
            if shown is None or reads:
                if "LANG" in scope:
                    scope["LANG"] = lang
                shown = _evaluate(name, number, cell.source, scope)
            output = _output(*shown, f"{name[0]}-{number}.svg", pages[lang].pictures)
            block = f"```python\n{cell.source}\n```\n\n{output}"
            pages[lang].parts.append(_folded(block, lang) if "solution" in cell.metadata.get("tags", ()) else block)
    for lang, page in pages.items():
        title, _, rest = "\n\n".join(page.parts).partition("\n")
        page.markdown = f"---\nhide: [toc]\n---\n{title}\n\n[{SOURCE[lang]}]({name}.py){HOW[lang]}\n{rest}\n"
    return pages


def _evaluate(name: str, number: int, code: str, scope: dict[str, object]) -> tuple[str, object]:
    try:
        return evaluate(code, scope)
    except Exception as error:
        raise RuntimeError(f"{name}, cell {number}:\n{code}\n\n{traceback.format_exc()}") from error


def evaluate(code: str, scope: dict[str, object]) -> tuple[str, object]:
    """What a cell prints, and the value of its last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), scope)
        value = (
            eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope) if isinstance(last, ast.Expr) else None
        )
    return printed.getvalue(), value


def _folded(block: str, lang: str) -> str:
    indented = "\n".join(f"    {line}" if line else "" for line in block.splitlines())
    return f'??? success "{SOLUTION[lang]}"\n\n{indented}\n'


def _output(printed: str, value: object, name: str, pictures: dict[str, bytes]) -> str:
    found = []
    if type(value).__module__.startswith("altair"):
        import vl_convert

        spec: dict[str, object] = value.to_dict()  # type: ignore[attr-defined]
        spec.setdefault("padding", {"left": 5, "top": 5, "right": 40, "bottom": 5})  # browsers' fonts may be wider
        pictures[name] = vl_convert.vegalite_to_svg(spec).encode()
    elif value is not None:
        printed += f"{value}\n"
    if printed.strip():
        found.append(f'<div class="output" markdown="1">\n\n```text\n{printed.rstrip()}\n```\n\n</div>\n')
    if name in pictures:
        found.append(f"![chart]({name}){{ .chart }}\n")
    return "\n".join(found)
