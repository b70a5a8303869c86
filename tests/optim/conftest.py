"""The device that tests of optimizers run on, and modules that they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ..warm import Warm

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """What ``--device`` says: the CPU, a GPU, or the simulated accelerator, whose tensors have no numbers (meta)."""
    name = request.config.getoption("device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return torch.device("meta" if name == "sim" else name)


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """What stands for ``python`` in the command of a rank or another process: as in ``tests/conftest.py``."""
    if not hasattr(os, "fork"):
        yield sys.executable
        return
    parts = ("fsdp", "optim", "checkpoint.state_dict", "tensor.parallel") if torch.distributed.is_available() else ()
    with Warm(*(f"torch.distributed.{part}" for part in parts)) as warm:
        yield warm.command
