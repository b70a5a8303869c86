"""The roll-back drill of docs/rollout.md, typed as it stands: commands run, files are written, outputs are compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[tuple[str, str]]:
    """(command, expected output) pairs of a console block; ``> `` continues a command."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> "):
            found[-1] = (found[-1][0] + "\n" + line[2:], [])
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(output)) for command, output in found]


def matches(expected: str, output: str) -> bool:
    """Equal, where … stands for any text, also over several lines."""
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, output.strip("\n"), re.DOTALL) is not None


def test_the_drill(tmp_path: Path) -> None:
    bin_ = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for variable in ("SABUN_KILL", "SABUN_ROLLOUT"):
        environment.pop(variable, None)
    text = PAGE.read_text(encoding="utf-8")
    drill = text[text.index("## The drill") : text.index("## The plan")]
    folder, ran = tmp_path, 0
    for kind, block in blocks(drill):
        if kind == "python":
            name = block.splitlines()[0].removeprefix("# file: ")
            (folder / name).write_text(block, encoding="utf-8")
            continue
        for command, expected in commands(block):
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            output = done.stderr + done.stdout
            assert done.returncode == 0, f"$ {command}\n{output}"
            assert matches(expected, output), f"$ {command}\n{output}\nexpected:\n{expected}"
            if command.startswith("mkdir drill"):
                folder = tmp_path / "drill"
            ran += 1
    assert ran > 20


def test_the_comparison_can_fail() -> None:
    assert matches("a … c", "a b\n c\n")
    assert not matches("a … c", "a b d")
    assert not matches("", "Traceback")
    assert commands("$ a\nb\n$ c\n> d\n") == [("a", "b"), ("c\nd", "")]


def test_every_event_that_the_page_names_exists() -> None:
    source = (Path(__file__).parents[2] / "src" / "sabun" / "rollout" / "guard.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`(guard\.[a-z-]+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) >= 5
    for event in named:
        assert f'"{event}"' in source
