"""Every figure that README, guide and statistics quote from the demonstration, made anew by one command.

    python benchmarks/readme.py [--out runs] [--repeats 20]

Runs the demonstration (``make poc``) and the study against plain Euler in the directory OUT, or what is missing of
them, and the repeats of the demonstration with other seeds (``demo_stability.py``; ``--repeats 0`` leaves them out).
Writes the tables behind the markers ``<!-- table: NAME -->`` of both READMEs and of docs/statistics.md, and the
pictures of the report in docs/images.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
READMES = {"en": ROOT / "README.md", "ja": ROOT / "README.ja.md"}
STATISTICS = ROOT / "docs" / "statistics.md"
PICTURES = {"en": "report.png", "ja": "report.ja.png"}
TABLE = re.compile(r"^\|.*\|\n(?:\|.*\|\n)+", re.MULTILINE)
SABUN = [sys.executable, "-m", "sabun"]
STUDIES = {
    "make poc": ("demonstration", []),
    "order": (
        "order",
        ["--task", "digits", "--baseline", "euler"]
        + [part for arm in ("taylor-4", "adams-bashforth-2", "wide-2-4", "nesterov") for part in ("--candidate", arm)],
    ),
}
"""Marker of a table → the directory of its study, and the options of ``sabun poc run``."""


def table(study: Path, language: str) -> str:
    """The table of the study's ``report.md``, without the escapes that a pull request needs."""
    subprocess.run([*SABUN, "poc", "report", str(study), "--lang", language, "--quiet"], check=True)
    return found((study / "report.md").read_text(encoding="utf-8"))


def found(text: str) -> str:
    """The first table in ``text``."""
    match = TABLE.search(text)
    if match is None:
        raise SystemExit("there is no table in the output.")
    return re.sub(r"\\(.)", r"\1", match.group())


def filled(text: str, marker: str, made: str) -> str:
    """``text`` with ``made`` in the place of the first table behind the marker."""
    head, mark, rest = text.partition(f"<!-- table: {marker} -->")
    if not mark:
        raise SystemExit(f"there is no marker for {marker!r}.")
    return head + mark + TABLE.sub(lambda _: made, rest, count=1)


def photograph(study: Path) -> None:
    """Take the pictures of the first page of the study's report, with Debian's chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for language, name in PICTURES.items():
            table(study, language)  # writes the report in this language
            page = browser.new_page(viewport={"width": 1120, "height": 1180}, device_scale_factor=1.5)
            page.goto((study / "report.html").resolve().as_uri())
            page.screenshot(path=str(ROOT / "docs" / "images" / name))
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-pictures", action="store_true")
    given = parser.parse_args()
    for place, options in STUDIES.values():
        subprocess.run([*SABUN, "poc", "run", *options, "--out", str(given.out / place), "--quiet"], check=True)
    for language, path in READMES.items():
        text = path.read_text(encoding="utf-8")
        for marker, (place, _) in STUDIES.items():
            text = filled(text, marker, table(given.out / place, language))
        path.write_text(text, encoding="utf-8")
    if given.repeats:
        command = [sys.executable, str(ROOT / "benchmarks" / "demo_stability.py"), "--repeats", str(given.repeats)]
        command += ["--out", str(given.out / "demo-stability")]
        made = found(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        text = STATISTICS.read_text(encoding="utf-8")
        STATISTICS.write_text(filled(text, "demonstration", made), encoding="utf-8")
    if not given.no_pictures:
        photograph(given.out / "demonstration")


if __name__ == "__main__":
    import piped

    piped.run(main)
