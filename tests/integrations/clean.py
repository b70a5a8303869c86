"""Every example in an environment of its own, as its page says: ``make examples``, or with names of examples behind it.

Installation and command come from the table in ``examples/README.md``, word by word. Minutes each, over the network,
so that the suite only checks that table against the pages (``tests/docs/test_examples.py``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEFORE = "pip install -c constraints.txt torch==2.13.0 numpy"


def rows() -> dict[str, tuple[str, str]]:
    """Example → its installation and its command."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| \[(\S+\.py)\]\(\1\) \| [^|]+ \| `([^`|]+)` \| `([^`|]+)` \|$", text, re.MULTILINE)
    return {name: (installation, command) for name, installation, command in found}


def run(name: str, installation: str, command: str) -> bool:
    """In a new environment; what the example prints is shown, what pip prints only where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SABUN_"))}
        environment = {**kept, "PATH": f"{folder}/bin{os.pathsep}{kept['PATH']}", "VIRTUAL_ENV": folder}
        for step in (BEFORE, installation, command):
            begin = time.monotonic()
            done = subprocess.run(
                step, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            told = done.stdout if step == command else ""
            sys.stdout.write(f"{name}: {step}: {time.monotonic() - begin:.0f} s\n{told}")
            sys.stdout.flush()
            if done.returncode:
                sys.stdout.write(f"{name}: FAILED ({done.returncode})\n{done.stdout}{done.stderr}\n")
                return False
    return True


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(rows())
    failed = [name for name in wanted if not run(name, *rows()[name])]
    sys.exit(len(failed))
