"""Checkpoints that an earlier version of sabun stored: they load, and training continues to the stored weights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FIXTURES = Path(__file__).parents[1] / "fixtures"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_checkpoints", FIXTURES / "make_checkpoints.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_checkpoints = _script()
STORED = sorted(path.stem for path in (FIXTURES / "checkpoints").glob("*.pt"))


def test_every_optimizer_of_the_script_is_stored() -> None:
    assert set(STORED) == set(make_checkpoints.OPTIMIZERS)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_checkpoint_loads_and_continues(name: str, device: torch.device) -> None:
    stored = torch.load(FIXTURES / "checkpoints" / f"{name}.pt", weights_only=True)
    model = make_checkpoints.network().to(device)
    optimizer = make_checkpoints.OPTIMIZERS[name](model)
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_checkpoints.train(model, optimizer, make_checkpoints.BEFORE, make_checkpoints.AFTER)
    torch.set_num_threads(threads)
    exact = stored["arithmetic"] == make_checkpoints.arithmetic() and device.type == "cpu"
    tolerance = 1e-12 if device.type == "cpu" else 1e-10  # a step control amplifies sums in another order
    for key, expected in stored["after"].items():
        if exact:
            assert torch.equal(model.state_dict()[key], expected), key
        else:
            torch.testing.assert_close(model.state_dict()[key].cpu(), expected, rtol=tolerance, atol=tolerance)
