"""Sessions: what CI runs, on any machine. ``nox -l`` lists them, ``nox -s tests-3.12`` runs one.

``make test`` is the session ``tests`` of one Python without nox. Arguments after ``--`` go to pytest.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["check", "tests"]

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
EVERYTHING = (
    ".[poc,transformers,lightning,accelerate,mlflow,tensorboard,parquet,slides,notebook,ray,ray-train,docs,dev]"
)
SUITE = ("-q", "-n", "2", "--dist", "worksteal")
# Two torch processes with two threads each slow one another down by orders of magnitude.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _install(session: nox.Session, *options: str) -> None:
    session.install(*options, "torch", "numpy")  # first, so that the CPU build is taken where the index has one
    session.install(*options, "-e", EVERYTHING)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite with the pinned versions."""
    _install(session, "-c", "constraints.txt")
    session.run("pytest", *(session.posargs or SUITE))


@nox.session(python=PYTHONS[0], venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """The whole suite with every direct dependency at its declared minimum."""
    # In one step: "torch" by itself would be resolved to the oldest torch that there is.
    session.install("--resolution", "lowest-direct", "-e", EVERYTHING)
    session.run("pytest", *(session.posargs or SUITE))


@nox.session(python=PYTHONS[-1])
def latest(session: nox.Session) -> None:
    """The whole suite with the newest versions."""
    _install(session)
    session.run("pytest", *(session.posargs or SUITE))


@nox.session(python=PYTHONS[0])
def check(session: nox.Session) -> None:
    """Lint, format, types and import contracts, as ``make check``."""
    _install(session, "-c", "constraints.txt")
    paths = ("src", "tests", "benchmarks", "examples", "docs", "noxfile.py")
    session.run("ruff", "check", *paths)
    session.run("ruff", "format", "--check", *paths)
    session.run("mypy")
    session.run("lint-imports")
    session.run("pytest", "-q", "tests/test_architecture.py")


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The documentation site, into site/; a warning is an error."""
    _install(session, "-c", "constraints.txt")
    session.run("mkdocs", "build", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=PYTHONS[0])
def build(session: nox.Session) -> None:
    """Source distribution and wheel, into dist/, with the check of their metadata."""
    session.install("-c", "constraints.txt", "build", "twine")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, sorted(Path("dist").iterdir())))


@nox.session(python=False)
def workflows(session: nox.Session) -> None:
    """The workflows of the forge: their syntax (actionlint) and their security (zizmor)."""
    session.run("actionlint", external=True)
    session.run("zizmor", "--offline", ".github/workflows", external=True)
