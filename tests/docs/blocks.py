"""Fenced blocks of a page, and how they are run.

    ```python       runs; the blocks of a page share their names. With ``# file: NAME`` on top it is written to NAME.
    ```console      ``$ `` commands run in order, ``> `` continues one. What they print is compared with the lines
                    below, where … stands for any text, also over several lines.
    ```diff         is of somebody's own file, and so cannot run.
    ```text         is nothing that a reader could type: a formula, a tree, a list.

``<!-- not run: REASON -->`` before a block is the one way out. All blocks of a page run in one empty folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:^<!-- not run: ([^>]+?) -->\n+)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """``line`` is where the block begins in its page; ``excuse`` why it is not run."""

    kind: str
    text: str
    line: int
    excuse: str | None

    @property
    def file(self) -> str | None:
        return self.text.partition("\n")[0][8:] if self.text.startswith("# file: ") else None


def blocks(page: str) -> Iterator[Block]:
    """The blocks that a reader can run."""
    for match in BLOCK.finditer(page):
        if match[2] in ("python", "console", "diff"):
            yield Block(match[2], match[3], page.count("\n", 0, match.start(3)), match[1])


def indented(page: str) -> list[str]:
    """Code blocks that Markdown makes of indentation alone: first lines. They say nothing of what they are."""
    outside = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?:\A|\n\n)(?: {4}|\t)(\S.*)", outside)


def commands(text: str) -> list[tuple[str, str]]:
    """(command, expected output) pairs of a console block."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> "):
            found[-1] = (found[-1][0] + "\n" + line[2:], [])
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(output)) for command, output in found]


def matches(expected: str, output: str) -> bool:
    """Equal, where … stands for any text, also over several lines. Lines of progress, which a slow machine prints, are
    left out."""
    output = re.sub(r"^.* runs done, about .* left\n", "", output, flags=re.MULTILINE)
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, output.strip("\n"), re.DOTALL) is not None


class Shell:
    """A terminal in an empty folder: ``cd`` lasts, and standard error comes before standard output.

    ``tools`` is a directory that comes first on the path.
    """

    def __init__(self, folder: Path, tools: Path | None = None) -> None:
        self.folder = folder
        self.plain = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.path = self.plain if tools is None else f"{tools}{os.pathsep}{self.plain}"
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        for name in list(self.environment):
            if name.startswith("SABUN_") and name not in ("SABUN_DATA", "SABUN_CHROMIUM"):
                del self.environment[name]

    def type(self, command: str, expected: str) -> None:
        """Run ``command``; it must succeed and print what is expected."""
        path = self.plain if "timeout " in command else self.path  # a kill must reach the process itself
        done = subprocess.run(
            ["bash", "-c", f'{command}\ncode=$?; pwd > "$SHELL_WHERE"; exit $code'],
            cwd=self.folder,
            env={**self.environment, "PATH": path, "SHELL_WHERE": str(self.folder / ".where")},
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stderr + done.stdout
        assert done.returncode == 0, f"$ {command}\n{output}"
        assert matches(expected, output), f"$ {command}\n{output}\nexpected:\n{expected}"
        where = self.folder / ".where"
        self.folder = Path(where.read_text(encoding="utf-8").strip())
        where.unlink()


def warm_tools(folder: Path, command: str) -> Path:
    """``sabun`` and ``python FILE.py`` as forks of a process that has torch and the like imported (tests/warm.py)."""
    (folder / "entry.py").write_text("from sabun.cli import main\n\nmain()\n", encoding="utf-8")
    scripts = {
        "sabun": f'exec {command} {folder / "entry.py"} "$@"',
        "python": f'case "$1" in *.py) exec {command} "$@" ;; *) exec {sys.executable} "$@" ;; esac',
    }
    for name, line in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def run(page: Path, folder: Path, tools: Path | None = None) -> int:
    """Run the blocks of a page in ``folder``; how many commands and blocks that were."""
    shell, scope, ran = Shell(folder, tools), {"__name__": "__page__"}, 0
    here = Path.cwd()
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.excuse is not None:
            continue
        if block.file is not None:
            (shell.folder / block.file).write_text(block.text, encoding="utf-8")
            continue
        assert block.kind != "diff", f"line {block.line}: why is it not run?"
        ran += 1
        if block.kind == "console":
            for command, expected in commands(block.text):
                shell.type(command, expected)
            continue
        os.chdir(shell.folder)
        try:
            # Line numbers in a traceback are those of the page.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), scope)
        finally:
            os.chdir(here)
    return ran
