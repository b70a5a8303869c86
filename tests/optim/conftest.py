"""The device that tests of optimizers run on, and modules that they share."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from torch.utils._device import _device_constructors

from sabun.optim import Optimizer, optimizer, state_storage, update
from sabun.optim.compiled import engine, inductor
from sabun.optim.preconditioners import kronecker

from ..warm import Warm

sys.path.insert(0, str(Path(__file__).parent))

import simulated


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """What ``--device`` says: the CPU, a GPU, or the simulated accelerator (:mod:`simulated`)."""
    return chosen(request.config)


def chosen(config: pytest.Config) -> torch.device:
    name = config.getoption("device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return simulated.set_up() if name == "sim" else torch.device(name)


WAITS = (
    (Optimizer, "_ready", False),
    (Optimizer, "_require_finite_beginning", True),  # a preconditioner that begins from its first gradient
    (kronecker, "_begin", True),
    (state_storage, "_levels", True),  # a table that is sent to the device once
    (Optimizer, "_rate", True),  # a control, an average or an option may need the value of a rate on the device
    (optimizer, "build", True),  # makes state, and reads what a checkpoint holds: in the first step
    (update, "step", False),
)
"""Functions of a step without a step control that must not wait for the device, and those that may."""


@pytest.fixture(autouse=True)
def _on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs on the device of ``--device``, but for those that are marked ``cpu_only``."""
    if request.config.getoption("device") == "cpu":
        yield
        return
    if marker := request.node.get_closest_marker("cpu_only"):
        pytest.skip(f"on a CPU only: {marker.args[0]}")
    place = chosen(request.config)
    if place.type == "sim":
        if marker := request.node.get_closest_marker("not_simulated"):
            pytest.skip(f"not simulated: {marker.args[0]}")
        for owner, name, allowed in WAITS:
            within = staticmethod if isinstance(vars(owner)[name], staticmethod) else (lambda function: function)
            monkeypatch.setattr(owner, name, within(simulated.waits(allowed)(getattr(owner, name))))
        monkeypatch.setattr(engine, "_ways", lambda fused, device: ())  # no compiler has code for it
    monkeypatch.setattr(inductor, "make_graph", outside(inductor.make_graph))
    with Made(place):
        yield


def outside(make_graph: Callable[..., inductor.Graph]) -> Callable[..., inductor.Graph]:
    """``make_graph`` with graphs that do not see the mode :class:`Made`, which ``torch.compile`` would trace."""

    def make(rule: Any) -> inductor.Graph:
        graph = make_graph(rule)
        run = graph.run

        def alone(*args: Any) -> None:
            with _pop_mode_temporarily():
                run(*args)

        graph.run = alone
        return graph

    return make


class Made(TorchFunctionMode):
    """Tensors that a test makes without naming a device are on this one; those that an optimizer makes are not.

    So a tensor that it makes for the CPU beside parameters on the device is found. Random numbers are drawn on the
    CPU, where the generators of the tests are, and are the same on every device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        constructs = function in _constructors() and kwargs.get("device") is None
        if not constructs or _caller().startswith("sabun.optim"):
            return function(*args, **kwargs)
        if function not in _ON_CPU:
            return function(*args, **{**kwargs, "device": self.device})
        made = function(*args, **kwargs)
        return made.detach().to(self.device).requires_grad_(made.requires_grad)


_ON_CPU = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal)


@functools.cache
def _constructors() -> frozenset[Any]:
    return frozenset({*_device_constructors(), *_ON_CPU})


def _caller() -> str:
    """The innermost module that is not torch's."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "torch":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """What stands for ``python`` in the command of a rank or another process: as in ``tests/conftest.py``."""
    if not hasattr(os, "fork"):
        yield sys.executable
        return
    parts = ("fsdp", "optim", "checkpoint.state_dict", "tensor.parallel") if torch.distributed.is_available() else ()
    with Warm(*(f"torch.distributed.{part}" for part in parts)) as warm:
        yield warm.command
