"""The README's two tables, both languages, from stored studies.

    sabun poc run --task digits --out runs/digits
    sabun poc run --baseline euler --candidate taylor-4 --candidate adams-bashforth-2 --candidate wide-2-4 \\
        --candidate nesterov --out runs/order
    python benchmarks/readme.py runs/digits runs/order

Each takes the place of the table behind its marker, ``<!-- table: make poc -->`` and ``<!-- table: order -->``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
READMES = {"en": ROOT / "README.md", "ja": ROOT / "README.ja.md"}
TABLE = re.compile(r"^\|.*\|\n(?:\|.*\|\n)+", re.MULTILINE)


def table(study: Path, language: str) -> str:
    """The table of the study's ``report.md``, without the escapes that a pull request needs."""
    command = [sys.executable, "-m", "sabun", "poc", "report", str(study), "--lang", language, "--quiet"]
    subprocess.run(command, check=True)
    found = TABLE.search((study / "report.md").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{study}/report.md holds no table.")
    return re.sub(r"\\(.)", r"\1", found.group())


def filled(text: str, marker: str, made: str) -> str:
    """``text`` with ``made`` in the place of the first table behind the marker."""
    head, mark, rest = text.partition(f"<!-- table: {marker} -->")
    if not mark:
        raise SystemExit(f"there is no marker for {marker!r}.")
    return head + mark + TABLE.sub(lambda _: made, rest, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("digits", type=Path, help="the study of `make poc`")
    parser.add_argument("order", type=Path, help="the one against plain Euler")
    given = parser.parse_args()
    for language, path in READMES.items():
        text = path.read_text(encoding="utf-8")
        for marker, study in (("make poc", given.digits), ("order", given.order)):
            text = filled(text, marker, table(study, language))
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
