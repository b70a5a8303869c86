"""Shared by all tests: one torch thread a process, and a fixed locale-free environment."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from .warm import Warm

# Two cores shared by two workers: deadlines would measure the machine, not the code.
settings.register_profile("sabun", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sabun")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda", "sim"), default="cpu",
        help="of the tests in tests/optim: the CPU, a GPU, or a simulated accelerator with numbers",
    )  # fmt: skip


LONGEST = ("test_corpus.py", "test_ray.py")
"""Files with tests that take a minute: first, since one that begins last leaves the other workers without work."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first, and leave out what has no device to run on."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if config.getoption("device") != "cpu":
        chosen = [item for item in items if item.path.parent.name == "optim"]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_collection_finish() -> None:
    """Leave what the session has loaded out of every collection, and of the optimizer's search for modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Studies of tests are noted in a directory of their own, not in the user's."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _empty_directory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts are started in an empty directory: every run copies the one in which it is started, and this is large.

    They take tenths of a second, so the trainer looks more often whether they have ended.
    """
    if "python" in request.fixturenames:
        place = tmp_path_factory.mktemp("work") / "in" / "project"  # links stand for what is beside it and above
        place.mkdir(parents=True)
        monkeypatch.chdir(place)
        monkeypatch.setattr("sabun.poc.training.script.POLL", 0.005)


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """What stands for ``python`` in the command of a user's script: one that need not import torch every time."""
    if not hasattr(os, "fork"):
        yield sys.executable
        return
    with Warm("sklearn.datasets", "sklearn.preprocessing") as warm:
        yield warm.command
