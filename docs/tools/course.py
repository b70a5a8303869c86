"""The course: notebooks whose code exists once, with the text of each language beside it.

``docs/course/code/NAME.py`` holds the cells, each under ``# %% ID``. ``docs/course/LANG/NAME.md`` is the page in one
language; ``<!-- cell: ID -->`` stands for a cell. Its front matter may have ``words``: English comments, docstrings and
texts of the code with their translations. They replace the words in the code, in what it prints and in its charts.

Every page comes with a notebook for students (exercises without solutions), one for teachers (with solutions, and what
to ask the class), slides and a Python file, all from this one source. The quiz shows its solutions to teachers only.

A notebook is run once, in the order of its code. A cell shows what it prints and the value of its last expression: a
chart as a picture, anything else as text. Only cells that read ``LANG`` are run for each language. A cell whose ID
begins with ``solution`` is folded. A cell that fails stops the build.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import html
import io
import json
import os
import pickle
import re
import tempfile
import tokenize
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "course"
SOLUTION = {"en": "Solution", "ja": "解答例"}
FILES = {
    "en": ("Notebook", "for teachers, with solutions", "slides", "Python"),
    "ja": ("ノートブック", "講師用（解答つき）", "スライド", "Python"),
}
ENDINGS = (".ipynb", "-teacher.ipynb", "-slides.html", ".py")
YOURS = {"en": "# Your solution", "ja": "# ここに解答を書いてください"}
CODE = {"en": "Code", "ja": "コード"}
INDEX = {"en": "index.md", "ja": "ja.md"}
QUIZ = "7-quiz"
SLIDERS = "<!-- sliders -->"
_CELL = re.compile(r"^<!-- cell: ([\w-]+) -->$", re.MULTILINE)
Shown = tuple[str, object]
"""What a cell prints, and the value of its last expression."""


@dataclass
class Notebook:
    """A page of the course: its Markdown, its pictures by file name, and the page as notebooks, slides and Python."""

    markdown: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


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
        for row, start, end in reversed(list(_literals(source))):
            line = lines[row - 1]
            literal = line[start:end]
            # The expressions in an f-string are code.
            parts = re.split(r"(\{[^{}]*\})", literal) if literal[0] in "fF" else [literal]
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


def _literals(source: str) -> Iterator[tuple[int, int, int]]:
    """Row, start and end of comments and of strings within a line; from Python 3.12 on f-strings are many tokens."""
    opens, closes = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
    begun: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == opens:
            begun.append(token.start)
        start = begun.pop() if token.type == closes else token.start
        whole = token.type in (tokenize.COMMENT, tokenize.STRING, closes)
        if whole and not begun and start[0] == token.end[0]:
            yield start[0], start[1], token.end[1]


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
    """Run a notebook in an empty folder; language → page. Raises RuntimeError, naming the cell, when one fails.

    Processes with the same directory in ``$SABUN_COURSE`` run it once.
    """
    texts = {lang: text(name, lang) for lang in SOLUTION}
    key = (name, *cells(name).items(), *((t.parts, *t.words.items()) for t in texts.values()))
    if key not in _DONE:  # `mkdocs serve` builds again after every edit
        shared = os.environ.get("SABUN_COURSE")
        _DONE[key] = _once(Path(shared) / name, key, texts) if shared else _made(name, texts)
    return _DONE[key]


def _made(name: str, texts: Mapping[str, Text]) -> dict[str, Notebook]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shown = execute(name)
    return {lang: _page(name, lang, t, shown[lang]) for lang, t in texts.items()}


def _once(place: Path, key: tuple[object, ...], texts: Mapping[str, Text]) -> dict[str, Notebook]:
    from filelock import FileLock

    kept = place.with_name(f"{place.name}-{hashlib.sha256(repr(key).encode()).hexdigest()}.pickle")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(_made(place.name, texts)))
        made: dict[str, Notebook] = pickle.loads(kept.read_bytes())
    return made


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
    parts, code = [], cells(name)
    own: list[tuple[str, str]] = []  # the ID of a cell, or none for a text
    for number, part in enumerate(page.parts):
        if number % 2 == 0:
            own.append(("", part.replace(SLIDERS, "").strip()))
            parts.append(part.replace(SLIDERS, _sliders(lang)))
            continue
        source = re.sub(r'^LANG = "\w+"', f'LANG = "{lang}"', page.code(code[part]), flags=re.M)
        own.append((part, source))
        output = _output(page, *shown[part], f"{name[0]}-{part}.svg", made.pictures)
        block = f"```python\n{source}\n```\n\n{output}"
        if not part.startswith("solution"):
            parts.append(block)
        elif name != QUIZ:
            parts.append(_folded(block, lang))
    title, _, rest = "\n\n".join(parts).partition("\n")
    links = " · ".join(f"[{said}]({name}{end})" for said, end in zip(FILES[lang], ENDINGS, strict=True))
    made.markdown = f"---\nhide: [toc]\n---\n{title}\n\n{links}\n{rest}\n"
    student = [(cell, YOURS[lang] if cell.startswith("solution") else part) for cell, part in own]
    made.files = {
        f"{name}.py": "\n\n".join(f"# %% {cell}\n{part}" if cell else _comment(part) for cell, part in own) + "\n",
        f"{name}.ipynb": _notebook(student),
        f"{name}-teacher.ipynb": _notebook([own[0], *(("", hint) for hint in _hints(name, lang)), *own[1:]]),
        f"{name}-slides.html": _slides(page, lang, own, shown, made.pictures, name),
    }
    return made


def _comment(part: str) -> str:
    return "# %% [markdown]\n" + re.sub(r"^", "# ", part, flags=re.M).replace("# \n", "#\n")


def _sliders(lang: str) -> str:
    return f'<div class="plane" data-lang="{lang}"></div>\n<script src="../../assets/plane.js" defer></script>'


def _notebook(own: Sequence[tuple[str, str]]) -> str:
    """A notebook file without outputs. Links that lead to other pages of the site are left out."""
    made: list[dict[str, object]] = []
    for number, (cell, part) in enumerate(own):
        if cell:
            more = {"execution_count": None, "outputs": []}
            made.append({"cell_type": "code", "id": cell, "metadata": {}, "source": part, **more})
        elif part:
            said = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", part)
            made.append({"cell_type": "markdown", "id": f"text-{number}", "metadata": {}, "source": said})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    file = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(file, ensure_ascii=False, indent=1) + "\n"


def _hints(name: str, lang: str) -> list[str]:
    """What to ask the class: the row of the notebook in the last table of the course's first page."""
    page = (FOLDER / INDEX[lang]).read_text(encoding="utf-8") if (FOLDER / INDEX[lang]).exists() else ""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    rows = [row for row in rows if len(row) == 4]
    return [
        "\n".join(f"- **{head}**: {said}" for head, said in zip(rows[0][1:], row[1:], strict=True))
        for row in rows
        if row[0] == name[0]
    ]


def _slides(
    page: Text,
    lang: str,
    own: Sequence[tuple[str, str]],
    shown: Mapping[str, Shown],
    pictures: Mapping[str, bytes],
    name: str,
) -> str:
    """The page as slides: a slide for each heading, and one for each cell with its output and what is said of it."""
    slides: list[list[str]] = []
    heading = title = ""
    for cell, part in own:
        if cell.startswith("solution"):
            continue
        if not cell:
            for section in re.split(r"^(?=#{1,2} )", part, flags=re.M):
                if section.startswith("#"):
                    heading, _, section = section.partition("\n")
                    title = title or heading.lstrip("# ")
                    slides.append([_html(heading)])
                if slides and section.strip():
                    slides[-1].append(_html(section))
            continue
        printed, value = shown[cell]
        if value is not None and not type(value).__module__.startswith("altair"):
            printed += f"{value}\n"
        slide = [_html(heading if heading.startswith("## ") else f"#{heading}")]
        if printed.strip():
            slide.append(f'<pre class="output">{html.escape(page.translate(printed.rstrip()))}</pre>')
        if picture := pictures.get(f"{name[0]}-{cell}.svg"):
            slide.append(f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(picture).decode()}">')
        slide.append(f"<details><summary>{CODE[lang]}</summary><pre>{html.escape(part)}</pre></details>")
        slides.append(slide)
    template = (Path(__file__).parent / "slides.html").read_text(encoding="utf-8")
    sections = "\n".join(f"<section>{''.join(slide)}</section>" for slide in slides)
    for key, content in (("lang", lang), ("title", html.escape(title)), ("slides", sections)):
        template = template.replace(f"{{{key}}}", content, 1)
    return template


def _html(text: str) -> str:
    """Markdown as HTML. Links that lead to other pages of the site are left out."""
    import markdown

    said = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", joined(text))
    return str(markdown.markdown(said, extensions=["tables", "fenced_code"]))


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


_WIDE = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"


def joined(markdown: str) -> str:
    """Join the lines of a paragraph where both neighbours are Japanese."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    breaks = re.compile(
        rf"(?<=[。、）」：])\n[ \t]*(?![\s#|>]|```|[-*] |\d+\. )|(?<={_WIDE})\n[ \t]*(?={_WIDE}|\d(?!\d*\. ))"
    )
    return "".join(part if part.startswith("```") else breaks.sub("", part) for part in parts)
