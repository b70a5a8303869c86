"""The device that tests of optimizers run on, and modules that they share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """What ``--device`` says: the CPU, a GPU, or the simulated accelerator, whose tensors have no numbers (meta)."""
    name = request.config.getoption("device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return torch.device("meta" if name == "sim" else name)
