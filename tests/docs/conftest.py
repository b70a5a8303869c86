"""Makes the collector of fenced blocks, and the tools that build the site, importable by the tests of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "docs" / "tools")]


@pytest.fixture(autouse=True, scope="session")
def _course_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The notebooks run once: for the site, and for the tests of all workers."""
    own = tmp_path_factory.getbasetemp()
    os.environ["SABUN_COURSE"] = str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "course")
