"""What a step asks of an accelerator: no reading of values, bounded memory, few launches; pieces equal to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerator import Count, entries, gpt2_small, llama_8b, parameters
from test_filters import USABLE
from torch import Tensor, nn

import sabun
from sabun.optim import create, tensors, update
from sabun.optim import torch_internals as internals

PLAIN = ("sgd", "heavy-ball", "nesterov", "adamw", "nadamw", "lion", "muon", "mars", "soap", "sabun")


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device multiplies bfloat16, as every accelerator of the last years does."""
    monkeypatch.setattr(internals, "multiplies_bfloat16", lambda device: True)


def counted(name: str, shapes: Any, dtype: torch.dtype, **options: Any) -> Count:
    """A step after the first, which makes the state."""
    optimizer = create(name, parameters(shapes, dtype), **options)
    optimizer.step()
    with Count() as count:
        optimizer.step()
    return count


# (preset, dtype, options): launches with CUDA 12 and 13, GB read and written, MB of intermediates. Measured, rounded up
# by at most 10%.
BUDGETS: dict[tuple[str, torch.dtype, tuple[tuple[str, Any], ...]], tuple[float, ...]] = {
    ("sgd", torch.float32, ()): (10, 6, 1.5, 1),
    ("heavy-ball", torch.float32, ()): (18, 7, 3, 1),
    ("nesterov", torch.float32, ()): (29, 14, 4.6, 1),
    ("nadamw", torch.float32, ()): (72, 29, 11.6, 90),
    ("lion", torch.float32, ()): (39, 20, 5.6, 90),
    ("mars", torch.float32, ()): (65, 28, 10.6, 90),
    ("schedule-free-adamw", torch.float32, ()): (67, 33, 10.6, 90),
    ("adamw", torch.float32, ()): (62, 23, 9.6, 90),
    ("adamw", torch.float32, (("state_dtype", "bfloat16"),)): (1_220, 1_210, 28, 130),
    ("adamw", torch.float32, (("state_dtype", "8bit"),)): (2_600, 2_580, 47, 200),
    ("muon", torch.float32, ()): (158, 120, 15.5, 145),
    ("soap", torch.float32, ()): (860, 830, 27, 260),  # a step that refreshes no basis
    ("sabun", torch.float32, ()): (163, 120, 16, 145),
    ("sabun", torch.float32, (("capturable", True),)): (215, 165, 17, 180),
    ("sabun", torch.bfloat16, (("state_dtype", "float32"),)): (230, 220, 19.5, 160),
    ("sabun", torch.bfloat16, ()): (258, 245, 22, 200),
}


@pytest.mark.parametrize(("preset", "dtype", "options"), BUDGETS, ids=str)
@pytest.mark.usefixtures("units")
def test_a_step_of_gpt2_small_stays_within_its_budget(preset: str, dtype: torch.dtype, options: Any) -> None:
    *launches, moved, transient = BUDGETS[preset, dtype, options]
    count = counted(preset, gpt2_small(), dtype, **dict(options))
    assert entries(gpt2_small()) == 124_439_808
    # A budget that is far above what is needed is none.
    for version, budget in zip((12, 13), launches, strict=True):
        assert 0.9 * budget <= count.launches[version] <= budget
    assert 0.9 * moved <= count.moved / 1e9 <= moved
    assert count.transient / 1e6 <= transient


@pytest.mark.parametrize("options", [{}, {"state_dtype": "float32"}], ids=str)
@pytest.mark.usefixtures("units")
def test_a_step_of_eight_billion_parameters_needs_at_most_a_gigabyte(options: dict[str, Any]) -> None:
    assert entries(llama_8b()) == 8_030_261_248
    assert counted("sabun", llama_8b(), torch.bfloat16, **options).transient < 1e9


def test_the_count_sees_memory_and_the_reading_of_values() -> None:
    x = torch.empty(1000, device="meta")
    with Count() as count:
        y = x * 2
        z = y.view(10, 100).mT
        del y, z
        torch._foreach_mul([x] * 111, 2.0)
    assert count.transient == 111 * 4000
    assert count.launches == {12: 1 + 2, 13: 1 + 1}  # 64 and 448 tensors a launch, if another list is written
    assert count.moved == 8000 + 111 * 8000
    with pytest.raises(RuntimeError, match="meta"), Count():
        float(x.sum())


# ---------------------------------------------------------------------- learning rates on the device


@pytest.mark.parametrize("preset", PLAIN)
def test_a_learning_rate_on_the_device_is_not_read(preset: str) -> None:
    shapes = [("body.0.weight", (8, 4)), ("body.0.bias", (8,)), ("body.1.weight", (8, 8)), ("head.weight", (3, 8))]
    named = parameters(shapes)
    optimizer = create(preset, named)
    rate = torch.empty((), device="meta")
    for group in optimizer.param_groups:
        group["lr"] = rate
    for _ in range(2):
        optimizer.step()
    optimizer.param_groups[0]["step_limit"] = 1.0
    if optimizer.param_groups[0]["preconditioner"].rms is not None:
        with pytest.raises(RuntimeError, match="meta"):
            optimizer.step()


def path(make: Any, dtype: torch.dtype = torch.float64, steps: int = 6) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 14), nn.Tanh(), nn.Linear(14, 14), nn.Tanh(), nn.Linear(14, 3)).to(dtype)
    optimizer = make(model)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(dtype) + p.detach()
        optimizer.step()
    held = [t for p in model.parameters() for key, t in sorted(optimizer.state[p].items())]
    return [*(p.detach() for p in model.parameters()), *held]


@pytest.mark.parametrize("preset", PLAIN)
def test_a_learning_rate_that_is_not_read_makes_the_same_step(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = path(lambda model: create(preset, model, lr=0.03, weight_decay=0.2))
    monkeypatch.setattr(sabun.Optimizer, "_rate", lambda self, group: group["lr"])
    rate = torch.tensor([0.03], dtype=torch.float64)
    found = path(lambda model: create(preset, model, lr=rate, weight_decay=0.2))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9 if preset == "soap" else 1e-12, atol=1e-12)


# ---------------------------------------------------------------------- pieces


@pytest.mark.parametrize("bound", [40, 5])
@pytest.mark.parametrize(
    "options",
    [
        *({"scheme": scheme} for scheme in USABLE),
        {"scheme": "taylor-4", "preconditioner": "adam", "averaging": "ema"},
        {"scheme": "nesterov", "preconditioner": "adam", "averaging": "schedule-free", "maximize": True},
        {"scheme": "look-ahead(0.9, 2)", "preconditioner": "sign", "decoupled": False, "start_up": "hold"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pieces_make_the_same_step_to_the_bit(
    options: dict[str, Any], bound: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several parameters in a piece, and several pieces of a parameter: rows, and parts where rows are too few."""

    def make(model: nn.Module) -> sabun.Optimizer:
        return sabun.Optimizer(model.parameters(), 0.05, weight_decay=0.1, **options)

    sizes: list[int] = []
    expected = path(make, dtype, steps=4)
    monkeypatch.setattr(update, "bound_on", lambda device: bound)
    make_piece = update._piece

    def watching(*given: Any) -> Any:
        piece = make_piece(*given)
        sizes.append(sum(x.numel() for x in piece.stored.params))
        return piece

    monkeypatch.setattr(update, "_piece", watching)
    found = path(make, dtype, steps=4)
    assert max(sizes) <= max(bound, 14)  # at least one row
    assert len(sizes) > 4
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_pieces_are_rounded_at_random_with_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "bound_on", lambda device: 512)
    p = torch.ones(4, 512, dtype=torch.bfloat16, requires_grad=True)
    optimizer = sabun.Optimizer([p], 2**-10, stochastic_rounding=True)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    rows = p.detach().unbind()
    assert all(not torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])


# ---------------------------------------------------------------------- transfers of the step controls


@pytest.mark.parametrize(
    ("control", "transfers"), [("balance", 1), ("embedded-error", 1), ("stability(probe_every=3)", 1)]
)
def test_a_step_control_reads_the_device_once_a_step(
    control: str, transfers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of parameters; a probe of the curvature reads it twice more for each of its products."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(5)))
    optimizer = sabun.Optimizer(model.parameters(), 0.01, scheme="heavy-ball", step_control=control)
    x = torch.randn(12, 6)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    reads: list[int] = []
    fetch = tensors.numbers

    def watching(given: Any) -> list[float]:
        reads[-1] += 1
        return fetch(given)

    monkeypatch.setattr(tensors, "numbers", watching)
    for module in ("balance", "embedded_error"):
        monkeypatch.setattr(f"sabun.optim.control.{module}.numbers", watching)
    items: list[int] = []

    class Items(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            items.append(function is torch.ops.aten._local_scalar_dense.default)
            return function(*args, **(kwargs or {}))

    for _ in range(6):
        reads.append(0)
        with Items():
            optimizer.step(closure)
    assert sum(items) == 0
    probes = [n - transfers for n in reads]
    assert probes == ([16, 0, 0, 2, 0, 0] if control.startswith("stability") else [0] * 6)
