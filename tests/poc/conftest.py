"""A finished study, and a copy of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sabun.poc import study as studies

from .helpers import small


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished study, which no test may change."""
    path = tmp_path_factory.mktemp("finished") / "s"
    studies.run(small(), path)
    return path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of ``finished``."""
    shutil.copytree(finished, tmp_path / "s")
    return tmp_path / "s"
