"""A benchmark whose output nobody reads to its end stops without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = [*ROOT.glob("*.py"), *(ROOT / "research").glob("*.py")]


@pytest.mark.parametrize(("body", "code"), [("print('x' * 100_000)", 0), ("print('x')", 0), ("return 3", 3)])
def test_a_reader_may_leave_first(body: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = f"import piped\ndef main():\n    {body}\npiped.run(main)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "")


def test_every_command_ends_so() -> None:
    commands = {path.name: text for path in SCRIPTS if '__name__ == "__main__"' in (text := path.read_text("utf-8"))}
    assert len(commands) > 20
    assert [name for name, text in commands.items() if "piped.run(" not in text.partition("__main__")[2]] == []
    assert [name for name, text in commands.items() if "ArgumentParser(" not in text] == [], "no --help"
