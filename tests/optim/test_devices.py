"""Steps on the device that --device names: results of a CPU, and no wait for the device.

On a CPU the steps go the way of an accelerator: pieces and stacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import simulated
import torch
from test_stacks import Network
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim import create, update

PRESETS = ("sgd", "nesterov", "adamw", "nadamw", "lion", "mars", "schedule-free-adamw", "muon", "soap", "sabun")
REFUSES = {  # capturable=True
    "schedule-free-adamw": "its weights are computed on the CPU",
    "soap": "its bases are renewed every few steps",
}
LAYOUTS = {"qkv.weight": "matrix(split=3)", "experts": "stack"}


def walk(preset: str, device: torch.device, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """Parameters and state after four steps, on the CPU."""
    torch.manual_seed(0)
    model = Network().to(device, dtype)
    optimizer = create(preset, model, matrices=LAYOUTS, **{"fused": None, **options})
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(device, dtype)
        optimizer.step()
    held = [t for p in model.parameters() for _, t in sorted(optimizer.state[p].items())]
    return [t.detach().cpu() for t in (*model.parameters(), *held)]


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"averaging": "ema"}], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_makes_the_results_of_a_cpu(
    preset: str, options: dict[str, Any], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if preset in REFUSES and options:
        options = {"weight_decay": 0.1}
    ordinary = {key: value for key, value in options.items() if key != "capturable"}
    expected = walk(preset, torch.device("cpu"), torch.float64, **ordinary)
    if device.type == "cpu":
        monkeypatch.setattr(update, "bound_on", lambda device: 100)
    found = walk(preset, device, torch.float64, **options)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_does_not_wait_for_the_device(preset: str, capturable: bool, device: torch.device) -> None:
    """torch refuses to read a meta tensor; on CUDA and on the simulated accelerator a wait is made an error."""
    if capturable and preset in REFUSES:
        with pytest.raises(OptionError, match=REFUSES[preset]):
            create(preset, Network(), capturable=True)
        return
    device = torch.device("meta") if device.type == "cpu" else device
    model = Network().to(device)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer = create(preset, model, matrices=LAYOUTS, capturable=capturable)
    for _ in range(2):
        optimizer.step()
    with no_waits(device):
        for _ in range(2):
            optimizer.step()


@contextlib.contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        with simulated.waits(device.type == "meta"):
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
