"""Stacks of matrices on an accelerator: the step that a CPU makes, to rounding; here the CPU takes the same way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sabun
from sabun.optim import create, matrix_stacks, update
from sabun.optim.preconditioners.orthogonal import orthogonalize
from sabun.optim.preconditioners.stacks import WORKSPACE, orthogonalize_stacks, workspace

SHAPES = [(3, 20, 20), (2, 20, 50), (2, 50, 20), (1, 7, 9), (2, 40, 200), (1, 200, 40)]


@pytest.mark.parametrize(("iteration", "steps"), [("newton-schulz", 5), ("polar-express", 6)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.06)]
)
def test_stacks_are_the_polar_factors_times_their_scales(
    iteration: str, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Wide, tall and square matrices, some of which share products; float32 by the Gram matrix where that pays."""
    torch.manual_seed(0)
    given = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in SHAPES]
    given[0][1] = 0
    found, scales = [one.clone() for one in given], [1.0, 0.5, 2.0, 1.0, 3.0, 0.2]
    orthogonalize_stacks(found, scales, {}, iteration=iteration, steps=steps)
    for before, after, scale in zip(given, found, scales, strict=True):
        exact = scale * orthogonalize(before.double(), iteration=iteration, steps=steps)
        assert after.shape == before.shape
        assert float((after.double() - exact).norm() / exact.norm()) < tolerance
    assert not found[0][1].any()


def test_rounding_errors_in_bfloat16_are_at_most_two_and_a_half_times_those_of_a_cpu() -> None:
    torch.manual_seed(0)
    given = torch.randn(2, 128, 160)
    options: dict[str, Any] = {"iteration": "newton-schulz", "steps": 5}
    exact = orthogonalize(given.double(), **options)
    found = [given.bfloat16()]
    orthogonalize_stacks(found, [1.0], {}, **options)
    ours, plain = (
        float((one.double() - exact).norm() / exact.norm())
        for one in (found[0], orthogonalize(given, dtype="bfloat16", **options))
    )
    assert 0.004 < plain < ours < 2.5 * plain


class Network(nn.Module):
    """Matrices of equal and of transposed shapes, a kernel, fused and stacked matrices, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(6, 12)
        self.body = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.up, self.down, self.conv = nn.Linear(12, 30), nn.Linear(30, 12), nn.Conv2d(4, 8, 3)
        self.qkv = nn.Linear(12, 36)
        self.experts = nn.Parameter(torch.randn(3, 12, 10) / 4)
        self.head = nn.Linear(12, 5)


def trained(dtype: torch.dtype, preset: str = "sabun", steps: int = 4, **options: Any) -> list[Tensor]:
    torch.manual_seed(0)
    model = Network().to(dtype)
    layouts = {"qkv.weight": "matrix(split=3)", "experts": "stack"}
    optimizer = create(preset, model, lr=0.02, matrices=layouts, **{"fused": None, **options})
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = (torch.randn(p.shape, generator=generator) + p.detach()).to(dtype)
        optimizer.step()
    held = [t for p in model.parameters() for key, t in sorted(optimizer.state[p].items())]
    return [*(p.detach() for p in model.parameters()), *held]


@pytest.mark.parametrize("bound", [10_000, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "muon"},
        {"row_normalization": True, "averaging": "ema"},
        {"weight_decay": 0.1, "decoupled": False, "maximize": True},
        {"scheme": "taylor-4", "start_up": "hold"},
        {"scheme": "taylor-4", "maximize": True},
        {"averaging": "schedule-free", "iteration": "polar-express", "steps": 6},
        {"step_limit": 1.0},
    ],
    ids=str,
)
def test_stacks_make_the_step_of_a_cpu(options: dict[str, Any], bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(torch.float64, **options)
    taken: list[int] = []
    take = matrix_stacks.Stacks.take

    def watching(self: Any, positions: Any, cuts: Any, terms: Any) -> None:
        taken.append(len(positions))
        take(self, positions, cuts, terms)

    monkeypatch.setattr(matrix_stacks.Stacks, "take", watching)
    monkeypatch.setattr(update, "bound_on", lambda device: bound)
    monkeypatch.setattr(matrix_stacks, "WORKSPACE", 40 * bound)
    found = trained(torch.float64, **options)
    assert taken
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"state_dtype": "float32"}, {"stochastic_rounding": True}], ids=str)
def test_stacks_of_16_bit_parameters_round_what_they_store_once(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterated in float64, a 16-bit parameter differs by at most one rounding from what one in float32 would be."""
    exact = {**options, "preconditioner": "spectral(dtype='float64')"}
    expected = trained(torch.bfloat16, steps=1, **exact)
    monkeypatch.setattr(update, "bound_on", lambda device: 100)
    found = trained(torch.bfloat16, steps=1, **exact)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.double(), b.double(), rtol=2**-7, atol=1e-6)


@pytest.mark.cpu_only("the order of parameters, which on an accelerator is that of their shapes")
def test_runs_keep_shapes_together_and_divide_them_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [torch.zeros(shape, requires_grad=True) for shape in [(4, 8)] * 7 + [(8, 8)] * 2 + [(2, 3)]]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = sabun.Optimizer(params, 0.1, preconditioner="spectral(dtype='float32')")
    optimizer.step()
    (bucket,) = optimizer._plans[0].members
    one = workspace(torch.Size([4, 8]), 4)
    assert one == 4 * (4 * 8 + 4 * 8 + 4 * 4) < WORKSPACE
    assert workspace(torch.Size([8, 2, 2]), 4) == one
    monkeypatch.setattr(matrix_stacks, "WORKSPACE", 3 * one)
    assert matrix_stacks.runs(bucket) == [[0, 1, 2], [3, 4, 5], [6], [7], [8, 9]]
    monkeypatch.setattr(matrix_stacks, "WORKSPACE", 1)
    assert matrix_stacks.runs(bucket) == [[i] for i in range(10)]
