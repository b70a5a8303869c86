"""Count the source files that ``sabun poc run`` enters on a tiny study, and how often it reads and verifies the study.

    python benchmarks/files_entered.py

A file is entered when a function of it is called; what only an import runs does not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

import sabun
from sabun.cli import app

ROOT = Path(sabun.__file__).parent
COMMAND = ["poc", "run", "--no-tuning", "--seeds", "2", "--epochs", "1", "--candidate", "euler", "--quiet", "--out"]
OPENS = {("poc/evidence/cross_check.py", "load"), ("poc/store.py", "Store.open")}
"""The functions that read a study's records and log; the second is that of version 0.1."""


def main() -> None:
    """Run the study and print the counts."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    calls: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>" and frame.f_code.co_filename.startswith(str(ROOT)):
            calls[frame.f_code.co_filename[len(str(ROOT)) + 1 :], frame.f_code.co_qualname] += 1

    with tempfile.TemporaryDirectory() as directory:
        sys.setprofile(count)
        try:
            code = app.run([*COMMAND, directory])
        finally:
            sys.setprofile(None)
    files = {name for name, _ in calls}
    print(f"exit code {code}")
    print(f"files entered: {len(files)}")
    for name in sorted({name.rpartition("/")[0] for name in files}):
        inside = sorted(file.rpartition("/")[2] for file in files if file.rpartition("/")[0] == name)
        print(f"  {name or '.'}: {len(inside)}  {' '.join(inside)}")
    print(f"study read and verified: {sum(number for key, number in calls.items() if key in OPENS)} times")


if __name__ == "__main__":
    import piped

    piped.run(main)
