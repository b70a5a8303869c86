"""The course: notebooks whose code exists once, with the text of each language beside it.

``docs/course/code/NAME.py`` holds the cells, each under ``# %% ID``. ``docs/course/LANG/NAME.md`` is the page in one
language; ``<!-- cell: ID -->`` stands for a cell. Its front matter may have ``words``: English comments, docstrings and
texts of the code with their translations. They replace the words in the code, in what it prints and in its charts.

A notebook is run once, in the order of its code. A cell shows what it prints and the value of its last expression: a
chart as a picture, anything else as text. Only cells that read ``LANG`` are run for each language. A cell whose ID
begins with ``solution`` is folded. A cell that fails stops the build.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tempfile
import tokenize
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "course"
SOLUTION = {"en": "Solution", "ja": "解答例"}
SOURCE = {"en": "This page as a notebook", "ja": "このページのノートブック"}
HOW = {
    "en": ": open it in an editor that knows `# %%` cells, or run it with Python.",
    "ja": "（`# %%` のセルに対応したエディターで開くか、Python で実行してください）",
}
_CELL = re.compile(r"^<!-- cell: ([\w-]+) -->$", re.MULTILINE)
Shown = tuple[str, object]
"""What a cell prints, and the value of its last expression."""


@dataclass
class Notebook:
    """A page of the course: its Markdown, its pictures by file name, and the page as a notebook file."""

    markdown: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Text:
    """The text of a page in one language: alternately Markdown and the ID of a cell, and the translated words."""

    parts: tuple[str, ...]
    words: Mapping[str, str]

    @property
    def cells(self) -> tuple[str, ...]:
        """The IDs of the cells, in the order of the page."""
        return self.parts[1::2]

    def translate(self, text: str) -> str:
        """``text`` with all words replaced, the longest first; no part of a longer word is replaced."""
        pattern = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        found = re.compile(rf"(?:(?<![A-Za-z])|(?![A-Za-z]))(?:{pattern})(?:(?![A-Za-z])|(?<![A-Za-z]))")
        return found.sub(lambda match: self.words[match[0]], text) if self.words else text

    def code(self, source: str) -> str:
        """The code of a cell with words replaced in comments and strings."""
        lines = source.splitlines(keepends=True)
        for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
            (row, start), (last, end) = token.start, token.end
            if token.type in (tokenize.COMMENT, tokenize.STRING) and row == last:
                line = lines[row - 1]
                # An f-string is one token; the expressions in it are code.
                parts = re.split(r"(\{[^{}]*\})", token.string) if token.string[0] in "fF" else [token.string]
                parts[::2] = map(self._escaped.translate, parts[::2])
                lines[row - 1] = line[:start] + "".join(parts) + line[end:]
        return "".join(lines)

    @property
    def _escaped(self) -> Text:
        """The words as they are written in a string literal."""
        return Text((), {repr(word)[1:-1]: repr(own)[1:-1] for word, own in self.words.items()})

    def chart(self, spec: Any, key: str = "") -> Any:
        """The specification of a chart with words replaced in its data and titles."""
        if isinstance(spec, dict):
            inside = key == "values"
            return {name: self.chart(value, "values" if inside else name) for name, value in spec.items()}
        if isinstance(spec, list):
            return [self.chart(value, key) for value in spec]
        return self.words.get(spec, spec) if isinstance(spec, str) and key in {"values", "title", "domain"} else spec


def names() -> list[str]:
    """The notebooks, in order."""
    return sorted(path.stem for path in (FOLDER / "code").glob("[0-9]-*.py"))


def cells(name: str) -> dict[str, str]:
    """The code of a notebook by the ID of its cells, in the order of the file."""
    parts = re.split(r"^# %% ([\w-]+)\n", (FOLDER / "code" / f"{name}.py").read_text(encoding="utf-8"), flags=re.M)
    return {cell: code.strip() for cell, code in zip(parts[1::2], parts[2::2], strict=True)}


def text(name: str, lang: str) -> Text:
    """The text of a notebook. Raises RuntimeError unless it has every cell once, in the order of the code."""
    page, words = (FOLDER / lang / f"{name}.md").read_text(encoding="utf-8"), {}
    if page.startswith("---\n"):
        _, head, page = page.split("---\n", 2)
        words = yaml.safe_load(head)["words"]
    found = Text(tuple(part.strip() for part in _CELL.split(page)), words)
    if list(found.cells) != list(cells(name)):
        raise RuntimeError(f"{name}, {lang}: the page has the cells {found.cells}, the code {tuple(cells(name))}.")
    return found


_DONE: dict[tuple[object, ...], dict[str, Notebook]] = {}


def run(name: str) -> dict[str, Notebook]:
    """Run a notebook in an empty folder; language → page. Raises RuntimeError, naming the cell, when one fails."""
    texts = {lang: text(name, lang) for lang in SOLUTION}
    key = (name, *cells(name).items(), *((t.parts, *t.words.items()) for t in texts.values()))
    if key not in _DONE:  # `mkdocs serve` builds again after every edit
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            shown = execute(name)
        _DONE[key] = {lang: _page(name, lang, t, shown[lang]) for lang, t in texts.items()}
    return _DONE[key]


def execute(name: str) -> dict[str, dict[str, Shown]]:
    """Run the cells in the current folder: language → ID of a cell → what it shows."""
    import torch

    torch.set_num_threads(1)
    scope: dict[str, object] = {"__name__": "__main__"}
    shown: dict[str, dict[str, Shown]] = {lang: {} for lang in SOLUTION}
    for cell, code in cells(name).items():
        reads = any(
            isinstance(n, ast.Name) and n.id == "LANG" and isinstance(n.ctx, ast.Load)
            for n in ast.walk(ast.parse(code))
        )
        for lang in SOLUTION:
            if not reads and lang != "en":
                shown[lang][cell] = shown["en"][cell]
                continue
            if reads:
                scope["LANG"] = lang
            try:
                shown[lang][cell] = evaluate(code, scope)
            except Exception as error:
                raise RuntimeError(f"{name}, cell {cell}:\n{code}\n\n{traceback.format_exc()}") from error
    return shown


def evaluate(code: str, scope: dict[str, object]) -> Shown:
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


def _page(name: str, lang: str, page: Text, shown: Mapping[str, Shown]) -> Notebook:
    made = Notebook()
    parts, source, code = [], [], cells(name)
    for number, part in enumerate(page.parts):
        if number % 2 == 0:
            parts.append(part)
            source.append("# %% [markdown]\n" + re.sub(r"^", "# ", part, flags=re.M).replace("# \n", "#\n"))
            continue
        own = re.sub(r'^LANG = "\w+"', f'LANG = "{lang}"', page.code(code[part]), flags=re.M)
        block = f"```python\n{own}\n```\n\n{_output(page, *shown[part], f'{name[0]}-{part}.svg', made.pictures)}"
        parts.append(_folded(block, lang) if part.startswith("solution") else block)
        source.append(f"# %% {part}\n{own}")
    title, _, rest = "\n\n".join(parts).partition("\n")
    made.markdown = f"---\nhide: [toc]\n---\n{title}\n\n[{SOURCE[lang]}]({name}.py){HOW[lang]}\n{rest}\n"
    made.source = "\n\n".join(source) + "\n"
    return made


def _folded(block: str, lang: str) -> str:
    indented = "\n".join(f"    {line}" if line else "" for line in block.splitlines())
    return f'??? success "{SOLUTION[lang]}"\n\n{indented}\n'


def _output(page: Text, printed: str, value: object, name: str, pictures: dict[str, bytes]) -> str:
    found = []
    if type(value).__module__.startswith("altair"):
        import vl_convert

        spec: dict[str, object] = page.chart(value.to_dict())  # type: ignore[attr-defined]
        spec.setdefault("padding", {"left": 5, "top": 5, "right": 40, "bottom": 5})  # browsers' fonts may be wider
        pictures[name] = vl_convert.vegalite_to_svg(spec).encode()
    elif value is not None:
        printed += f"{value}\n"
    if printed.strip():
        shown = page.translate(printed.rstrip())
        found.append(f'<div class="output" markdown="1">\n\n```text\n{shown}\n```\n\n</div>\n')
    if name in pictures:
        found.append(f"![chart]({name}){{ .chart }}\n")
    return "\n".join(found)
