"""The simulated accelerator refuses what CUDA refuses, and the tests that tell most run on it in every run."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import simulated
import torch
from torch import Tensor, nn
from training import backward, batches, network

import sabun

TELLING = ("test_simulated.py", "test_devices.py", "test_stored_checkpoints.py")
"""Files that ``make test`` runs on the simulated accelerator."""

of_sim = pytest.mark.skipif("config.getoption('device') != 'sim'", reason="of --device sim")


@pytest.mark.cpu_only("starts the others on the simulated accelerator")
@pytest.mark.skipif(not simulated.is_possible(), reason="this torch has no devices that are written in Python")
def test_the_tests_that_tell_most_pass_on_the_simulated_accelerator() -> None:
    """In a process of its own: a device cannot be taken back."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "--device", "sim", *(str(here / name) for name in TELLING)]
    done = subprocess.run(command, cwd=here.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr


@of_sim
def test_gradients_and_copies_are_those_of_a_cpu(device: torch.device) -> None:
    """Through torch's autograd; by deepcopy, a file, the CPU, and views and operands that kernels resize."""
    ours, plain = network(), network().to("cpu")
    batch = batches(1)[0]
    backward(ours, batch)
    backward(plain, tuple(t.cpu() for t in batch))
    file = io.BytesIO()
    torch.save([*ours.parameters()], file)
    file.seek(0)
    twins = copy.deepcopy(ours).parameters(), torch.load(file)
    for p, expected, *copies in zip(ours.parameters(), plain.parameters(), *twins, strict=True):
        for found, of_cpu in ((p, expected), (p.grad, expected.grad), *((twin, expected) for twin in copies)):
            assert found.device == device
            for view in (lambda t: t, lambda t: t.flatten()[1::2], lambda t: t.abs(), lambda t: t.view(torch.int64)):
                assert torch.equal(view(found.detach()).cpu(), view(of_cpu.detach()))


@of_sim
def test_convolutions_are_those_of_a_cpu() -> None:
    layer, x = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), torch.randn(5, 2, 7, 7)
    twin = copy.deepcopy(layer).cpu()
    for module, batch in ((layer, x), (twin, x.cpu())):
        module(batch).square().sum().backward()
    for p, of_cpu in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad.cpu(), of_cpu.grad)


@of_sim
def test_complex_numbers_are_conjugated_as_on_a_cpu() -> None:
    """Conjugation and the sign of an imaginary part are bits of a tensor until they are resolved."""
    z = torch.randn(4, dtype=torch.complex128, requires_grad=True)
    twin = z.detach().cpu().requires_grad_()
    for t in (z, twin):
        (t.conj() * t * t).imag.sum().backward()
        (t.conj() * t.conj()).real.sum().backward()
    assert torch.equal(z.grad.cpu(), twin.grad)
    for function in (torch.conj, lambda t: t.conj().imag, lambda t: t.conj().clone(), lambda t: t.imag.neg()):
        assert torch.equal(function(z.detach()).cpu(), function(twin.detach()))
        assert torch.equal(function(twin.detach()).to(z.device), function(z.detach()))


@of_sim
def test_operands_on_different_devices_are_refused() -> None:
    x, cpu = torch.ones(3, 3), torch.ones(3, 3, device="cpu")
    for mixed in (
        lambda: x + cpu, lambda: x.add_(cpu), lambda: cpu.add_(x), lambda: x @ cpu, lambda: torch.cat([x, cpu]),
        lambda: torch._foreach_add_([x], [cpu]), lambda: torch._foreach_lerp_([x], [cpu], 0.5),
        lambda: torch.where(x > 0, x, cpu), lambda: torch.randn(3, generator=torch.Generator(), device=x.device),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    assert torch.equal(x * torch.tensor(2.0, device="cpu"), torch.full((3, 3), 2.0))  # numbers may be on the CPU
    assert torch.equal(x.copy_(cpu * 3), cpu.fill_(3).to(x.device))


@of_sim
def test_what_waits_for_the_device_is_an_error_where_it_is_forbidden() -> None:
    x = torch.ones(3)
    for wait in (
        lambda: float(x[0]), lambda: bool(x[0] > 0), lambda: x.cpu(), lambda: x.tolist(), lambda: torch.equal(x, x),
        lambda: x[x > 0], lambda: torch.tensor([1.0], device=x.device), lambda: torch.linalg.eigh(x.outer(x)),
        lambda: x.nonzero(),
    ):  # fmt: skip
        wait()
        with simulated.waits(False), pytest.raises(simulated.DeviceWaitError):
            wait()
    with simulated.waits(False):
        x.mul_(2).add_(torch.full_like(x, 1.0)).to(torch.float64)
        x.copy_(torch.ones(3, device="cpu"), non_blocking=True)


@of_sim
def test_only_what_a_test_makes_is_on_the_device_by_default(device: torch.device) -> None:
    def make() -> Tensor:
        return torch.zeros(1)

    of_library = FunctionType(make.__code__, {"torch": torch, "__name__": "sabun.optim.update"})
    assert make().device == nn.Linear(1, 1).weight.device == device
    assert of_library().device.type == "cpu"


@of_sim
@pytest.mark.parametrize("rest", [None, {"preconditioner": "adam", "lr_factor": 0.5}])
@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "nesterov", "momentum_end": 0.5},
        {"preconditioner": "adam", "step_limit": 1.0, "averaging": "schedule-free"},
    ],
)
def test_a_rate_on_the_device_whose_value_is_needed_is_read_once(options: dict[str, Any], rest: Any) -> None:
    model, rate = network(), torch.tensor(0.1, dtype=torch.float64)
    optimizer = sabun.Optimizer(model.named_parameters(), rate, rest=rest, **options)
    for batch in batches(3):
        optimizer.zero_grad()
        backward(model, batch)
        simulated.waited.clear()
        optimizer.step()
    assert len(simulated.waited) == 1


@of_sim
@pytest.mark.parametrize("late", [1, 4])
def test_parameters_that_join_are_one_wait(late: int) -> None:
    """Counters of a captured step are on the device, and are read together when the buckets are sorted anew."""
    params = [torch.ones(3, requires_grad=True) for _ in range(8)]
    optimizer = sabun.Optimizer(params, 0.1, preconditioner="adam", capturable=True)
    for p in params[late:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in params[:late]:
        p.grad = torch.ones_like(p)
    simulated.waited.clear()
    optimizer.step()
    assert len(simulated.waited) == 1
