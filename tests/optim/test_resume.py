"""50 steps, a checkpoint, a new process, 50 steps: the same bits as 100 steps, for every preset."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from capabilities import PRESETS

pytestmark = pytest.mark.cpu_only("processes that have no device")

WORKER = Path(__file__).with_name("resume_worker.py")


@pytest.fixture(scope="module")
def trained(python: str, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("resume")
    for begin in (0, 50):
        command = [*shlex.split(python), str(WORKER), str(directory), str(begin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("name", PRESETS)
def test_a_new_process_continues_to_the_bit(trained: Path, name: str) -> None:
    half, whole, resumed = (
        torch.load(trained / f"{name}-{part}.pt", weights_only=True) for part in ("50", "100", "100-resumed")
    )
    for key, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][key])
        assert not torch.equal(value, half["model"][key])
    for p, held in whole["optimizer"]["state"].items():
        assert held.keys() == resumed["optimizer"]["state"][p].keys()
        for key, value in held.items():
            assert torch.equal(value, resumed["optimizer"]["state"][p][key])
    assert whole["optimizer"]["param_groups"] == resumed["optimizer"]["param_groups"]
