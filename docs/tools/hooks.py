"""Hooks of the mkdocs build: pages generated from code and data, and the notebooks of the course, which are run."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import catalogue  # noqa: E402
import course  # noqa: E402
import reference  # noqa: E402

# Pages of the site whose sources are outside docs/.
OUTSIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the pictures and notebook files of the course."""

    def add(path: str, content: str | bytes) -> None:
        files.append(File.generated(config, path, content=content))

    for name in reference.PACKAGES:
        add(f"reference/{name}.md", reference.page(name))
    add("reference/index.md", reference.front())
    add("reference/base.md", reference.base())
    add("reference/cli.md", catalogue.command_line())
    for path, source in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        add(path, text.replace("](docs/", "]("))
    for name in course.names():
        for lang, notebook in course.run(name).items():
            text = files.get_file_from_path(f"course/{lang}/{name}.md")
            if text is not None:
                files.remove(text)
            add(f"course/{lang}/{name}.md", notebook.markdown)
            for file, content in notebook.files.items():
                add(f"course/{lang}/{file}", content)
            for file, picture in notebook.pictures.items():
                add(f"course/{lang}/{file}", picture)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert tables generated from data and the link to the page in the other language, and join lines of Japanese
    text, where a line break would show as a space."""
    markdown = re.sub(r"<!-- generated: (\w+) -->", lambda match: catalogue.TABLES[match[1]](), markdown)
    path = page.file.src_uri
    other, label = (path[3:], "English") if path.startswith("ja/") else (f"ja/{path}", "日本語")
    if files.get_file_from_path(other):
        link = posixpath.relpath(other, posixpath.dirname(path) or ".")
        markdown = re.sub(r"^(# .+\n)", rf"\1\n[{label}]({link})\n", markdown, count=1)
    return course.joined(markdown) if _japanese(page) else markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the language of a Japanese page, by which browsers choose the shapes of its characters."""
    return output.replace('<html lang="en"', '<html lang="ja"', 1) if _japanese(page) else output


def _japanese(page: Page) -> bool:
    return "ja" in re.split(r"[/.-]", page.file.src_uri)
