"""A largest learning rate by shape: equal to the reference, closed forms, and where it cannot be had."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sabun
from sabun import Optimizer
from sabun.errors import OptionError
from sabun.optim.reference import Reference

SHAPES: tuple[tuple[int, ...], ...] = ((64, 64), (30, 32), (8,), (), (16, 4, 3, 3), (1, 7), (10, 200))


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(0.1 * torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]


def run(params: list[nn.Parameter], optimizer: Any, rates: list[float]) -> list[Tensor]:
    for n, lr in enumerate(rates):
        for i, p in enumerate(params):
            noise = torch.Generator().manual_seed(1_000 * n + i)
            p.grad = p.detach() + torch.randn(p.shape, generator=noise, dtype=torch.float64)
        for group in getattr(optimizer, "optimizer", optimizer).param_groups:
            group["lr"] = lr
        optimizer.step()
    return [p.detach().clone() for p in params]


def falling(lr: float) -> list[float]:
    return [lr * (1 - n / 8) for n in range(8)]


def warm(lr: float) -> list[float]:
    return [lr * (n + 1) / 4 for n in range(4)] + falling(lr)[1:5]


@pytest.mark.parametrize("schedule", [falling, warm])
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("preconditioner", ["spectral", "adam", "sign", "kronecker"])
def test_equals_the_reference(
    preconditioner: str, fused: bool | None, schedule: Callable[[float], list[float]]
) -> None:
    """At rates that are within the limit of all shapes, of some, and of none. kronecker: its QR amplifies rounding."""
    for lr in (1e-4, 0.02, 1.0):
        ours, slow = parameters(), parameters()
        options: dict[str, Any] = {
            "scheme": "nesterov",
            "preconditioner": preconditioner,
            "step_limit": 0.05,
            "weight_decay": 0.1,
        }
        got = run(ours, Optimizer(ours, lr, fused=fused, **options), schedule(lr))
        expected = run(slow, Reference(slow, lr, **options), schedule(lr))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9 if preconditioner == "kronecker" else 1e-12)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((5, 64), 192**-0.5), ((5, 76), 192**-0.5), ((5, 77), (3 * 2**6.5) ** -0.5), ((2, 4, 4, 4), 192**-0.5),
        ((1, 3, 64), 192**-0.5), ((1, 64), 192**-0.5), ((7,), 0.05), ((), 0.05),
    ],
)  # fmt: skip
def test_sign_moves_by_the_limit_exactly(shape: tuple[int, ...], size: float) -> None:
    """2^6.25 = 76.1: below it a fan-in counts as 64, above as 64·√2. A batch of one before a
    table is none of its dimensions. At half the largest rate, half the limit."""
    for peak, limit in ((1.0, 0.1), (1e-4, 0.1)):
        p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        optimizer = Optimizer([p], peak, preconditioner="sign", step_limit=limit)
        for lr, share in ((peak, 1.0), (peak / 2, 0.5)):
            before = p.detach().clone()
            optimizer.param_groups[0]["lr"] = lr
            p.grad = torch.ones_like(p)
            optimizer.step()
            expected = torch.full_like(before, share * min(peak, limit * size))
            torch.testing.assert_close(before - p.detach(), expected, rtol=1e-12, atol=0)


def test_beyond_the_limit_the_rate_does_not_matter() -> None:
    """With a constant β: one that follows the schedule follows the shares of the largest rate, which are equal too."""
    results = []
    for lr in (1.0, 37.0):
        params = parameters()
        options: dict[str, Any] = {"scheme": "look-ahead(0.8, 2)", "momentum_end": 0.95, "preconditioner": "spectral"}
        results.append(run(params, Optimizer(params, lr, step_limit=0.1, weight_decay=0.1, **options), falling(lr)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_within_the_limit_nothing_changes_a_bit() -> None:
    results = []
    for limit in (None, 1e6):
        params = parameters()
        optimizer = Optimizer(params, 0.05, scheme="nesterov", preconditioner="adam", step_limit=limit)
        results.append(run(params, optimizer, falling(0.05)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_checkpoint_keeps_the_largest_rate() -> None:
    rates = warm(1.0)
    options: dict[str, Any] = {"scheme": "nesterov", "preconditioner": "adam", "step_limit": 0.05}
    straight = parameters()
    expected = run(straight, Optimizer(straight, 1.0, **options), rates)
    params = parameters()
    optimizer = Optimizer(params, 1.0, **options)
    for n, lr in enumerate(rates):
        if n == 5:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = Optimizer(params, 1.0, **options)
            optimizer.load_state_dict(saved)
        for i, p in enumerate(params):
            noise = torch.Generator().manual_seed(1_000 * n + i)
            p.grad = p.detach() + torch.randn(p.shape, generator=noise, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def test_a_limit_that_is_changed_holds_from_the_next_step() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Optimizer([p], 1.0, preconditioner="sign", step_limit=0.1)
    for limit, moved in ((0.1, 0.005), (0.2, 0.01), (None, 1.0)):
        before = p.detach().clone()
        optimizer.param_groups[0]["step_limit"] = limit
        p.grad = torch.ones_like(p)
        optimizer.step()
        torch.testing.assert_close(before - p.detach(), torch.full_like(before, moved))


def test_a_preconditioner_whose_updates_have_any_size_is_refused() -> None:
    params = parameters()
    with pytest.raises(OptionError, match="known size"):
        Optimizer(params, 0.1, step_limit=0.1)
    with pytest.raises(OptionError, match="known size"):
        Optimizer([{"params": params[:1], "preconditioner": None}], 0.1, preconditioner="adam", step_limit=0.1)


def test_a_preconditioner_that_is_changed_later_is_refused_before_anything_moves() -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = Optimizer(params, 0.1, preconditioner="adam", step_limit=0.1)
    optimizer.param_groups[0]["preconditioner"] = None
    with pytest.raises(OptionError, match="step_limit=None"):
        run(params, optimizer, [0.1])
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


@pytest.mark.parametrize("control", ["stability", "balance"])
def test_with_a_step_control_it_is_refused(control: str) -> None:
    with pytest.raises(OptionError, match="step_limit=None"):
        Optimizer(parameters(), 0.1, preconditioner="adam", step_control=control, step_limit=0.1)


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan, True, "0.1"])
def test_a_wrong_limit_is_refused(wrong: object) -> None:
    with pytest.raises(OptionError, match="step_limit must be"):
        Optimizer(parameters(), 0.1, preconditioner="adam", step_limit=wrong)  # type: ignore[arg-type]


def _limits(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The limit of each group, the same for the rest of the group."""
    for group in optimizer.param_groups:
        assert "step_limit" not in (group["rest"] or {})
    return [group["step_limit"] for group in optimizer.param_groups]


def test_a_preset_takes_a_limit_for_all_its_parameters() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    assert _limits(sabun.create("sabun", model)) == [None]
    assert _limits(sabun.create("sabun", model, step_limit=0.3)) == [0.3]
    assert _limits(sabun.create("muon", model, step_limit=0.125)) == [0.125]
