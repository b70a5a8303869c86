"""The convergence tests of PyTorch and of pytorch_optimizer, run with our presets in the place of their optimizers.

**PyTorch**, ``test/test_optim.py``: 20 steps on the square of a linear map, contiguous or not, alone, with schedulers
and with a learning rate for each group; the loss must fall (or rise, with ``maximize``). Not in the package ``torch``.

**pytorch_optimizer**, ``tests/test_optimizers.py``: logistic regression on 100 points, a network of two layers of
width 2; the loss must fall by a factor of 1.5 within 5 steps (its number for AdamW, whose rate there is 0.5, 500 times
the default), in float32, bfloat16 and complex64. In the source distribution on PyPI. Rates: the preset's own by
factors of 2, from 1/4 to 4,096 times; the fall is that of the best of them, which has to lie inside.

Their files are read where they are, or from a temporary folder; the list of optimizers is replaced in memory, by
``yardsticks.plugin``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sabun.optim import presets
from yardsticks.store import machine, write

__all__ = ["DOUBLINGS", "TestsMissingError", "measure", "of_package", "of_torch", "rows_of"]

DOUBLINGS = range(-2, 13)
STEPS = 5
TORCH_FILE = "https://raw.githubusercontent.com/pytorch/pytorch/v{version}/test/test_optim.py"
PACKAGE = "pytorch_optimizer"


class TestsMissingError(Exception):
    """Tests of another project could not be had or read; the message says how to give them."""

    __test__ = False  # not a test, in spite of its name


def of_torch(folder: Path, given: Path | None) -> Path:
    """PyTorch's test file: the given one, else that of this version from its repository. Raises TestsMissingError."""
    if given is not None:
        if not given.is_file():
            raise TestsMissingError(f"{given} is not a file.")
        return given
    address = TORCH_FILE.format(version=torch.__version__.partition("+")[0])
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            content = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise TestsMissingError(
            f"{address} cannot be read ({error}). Give the file of a checkout of PyTorch with --torch-tests PATH."
        ) from None
    path = folder / "test_optim.py"
    path.write_bytes(content)
    return path


def of_package(folder: Path, given: Path | None, version: str) -> Path:
    """The folder of pytorch_optimizer's source distribution, unpacked. Raises TestsMissingError."""
    if given is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                   "--no-build-isolation", "--dest", str(folder), f"{PACKAGE}=={version}"]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        given = next(iter(folder.glob("*.tar.gz")), None)
        if given is None:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise TestsMissingError(
                f"The source of {PACKAGE} {version} cannot be downloaded ({said[-1]}). "
                "Give its .tar.gz with --package-tests PATH."
            )
    try:
        with tarfile.open(given) as archive:
            archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise TestsMissingError(f"{given} is not a source distribution: {error}.") from None
    found = next(iter(folder.glob("*/tests/test_optimizers.py")), None)
    if found is None:
        raise TestsMissingError(f"{given} has no tests/test_optimizers.py.")
    return found.parents[1]


def run(which: str, place: Path, selection: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Run tests with the presets ``names``: what the plugin wrote. Raises TestsMissingError if none ran."""
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcomes.json"
        paths = [str(place if place.is_dir() else place.parent), str(here), str(here.parent / "src")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "yardsticks.plugin", "-p", "no:cacheprovider",
             "--import-mode=importlib", "-c", os.devnull, "--rootdir", paths[0], *selection],
            check=False, cwd=paths[0], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "YARDSTICK": which, "YARDSTICK_OUT": str(out),
                 "YARDSTICK_PRESETS": json.dumps(list(names)), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    if not found:
        raise TestsMissingError(f"No test of {place} ran:\n{(done.stdout + done.stderr).strip()[-1500:]}")
    return found


def rows_of(torch_outcomes: Sequence[Mapping[str, Any]], package: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a preset: PyTorch's tests passed of all, and for each type of pytorch_optimizer's the factor by which the
    loss fell at the preset's own rate and at the best rate, that rate, and whether the best lies inside."""
    rows = []
    for name in dict.fromkeys(outcome["preset"] for outcome in (*torch_outcomes, *package)):
        mine = [outcome for outcome in torch_outcomes if outcome["preset"] == name]
        counts = Counter(outcome["outcome"] for outcome in mine)
        row: dict[str, Any] = {
            "row": name, "torch": {"passed": counts["passed"], "of": len(mine)},
            "failed": sorted(f"{o['test']}: {o['said']}" for o in mine if o["outcome"] == "failed"),
        }  # fmt: skip
        for kind in ("float32", "bfloat16", "complex64"):
            runs = [o for o in package if o["preset"] == name and o["type"] == kind]
            if not runs:
                row[kind] = None
                continue
            falls = {o["doubling"]: (o["fall"] or 0.0) for o in runs}
            best = max(falls, key=lambda n: falls[n])
            row[kind] = {
                "own": float(f"{falls.get(0, 0.0):.3g}"), "best": float(f"{falls[best]:.3g}"),
                "rate": presets()[name].lr * 2.0**best, "inside": min(falls) < best < max(falls),
                "passed": any(o["outcome"] == "passed" for o in runs),
                "own_passed": any(o["outcome"] == "passed" for o in runs if o["doubling"] == 0),
                "said": "" if falls[best] else runs[0]["said"],
            }  # fmt: skip
        rows.append(row)
    return rows


def measure(records: Path, torch_tests: Path | None, package_tests: Path | None, names: Sequence[str]) -> None:
    """Both suites, then the records."""
    version = importlib.metadata.version(PACKAGE)
    with tempfile.TemporaryDirectory() as folder:
        package = of_package(Path(folder), package_tests, version)
        theirs = run("package", package, ["tests/test_optimizers.py", "-k", "test_training"], names)
        path = of_torch(Path(folder), torch_tests)
        ours = run("torch", path, [str(path.resolve()), "-k", "goes_right_direction or rosenbrock"], names)
        read = {"given": torch_tests is not None, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:12]}
    rows = rows_of(ours, theirs)
    about = {"yardstick": "convergence", PACKAGE: version, "torch_tests": read, "steps": STEPS, "machine": machine()}
    for row in rows:
        print(f"{row['row']:22} PyTorch {row['torch']['passed']} of {row['torch']['of']}, float32 {row['float32']}")
    if set(names) == set(presets()):
        write(records, about, rows)
        print(records)
