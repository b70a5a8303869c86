"""The Kronecker preconditioner in every dtype, against singular values and against float64; bad first gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import sabun
from sabun.errors import GradientError

LOW = (torch.float32, torch.bfloat16, torch.float16)


def gradients(shape: tuple[int, ...], steps: int, dtype: torch.dtype, size: float = 1e-2) -> list[Tensor]:
    """Random gradients about a mean that is the same in all steps, as values of ``dtype``."""
    generator = torch.Generator().manual_seed(shape[0])
    mean = torch.randn(shape, generator=generator)
    return [(size * (mean + 0.5 * torch.randn(shape, generator=generator))).to(dtype) for _ in range(steps)]


def updates(data: list[Tensor], **options: object) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The update u of each step in float64, from parameters that are set to 0 before it; and the state at the end."""
    p = torch.zeros_like(data[0]).requires_grad_()
    optimizer = sabun.Optimizer([p], 1.0, scheme="heavy-ball", preconditioner="kronecker(refresh_every=3)", **options)
    found = []
    for g in data:
        p.grad = g.clone()
        optimizer.step()
        found.append(-p.detach().double())
        p.data.zero_()
    return found, optimizer.state[p]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("dtype", [*LOW, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "size"), [((16, 8), 1e-2), ((8, 40), 30.0), ((12, 12), 1.0), ((6, 3, 3, 3), 1.0)])
def test_the_first_update_is_the_orthogonal_factor_of_the_gradient(
    shape: tuple[int, ...], size: float, dtype: torch.dtype
) -> None:
    """In its own singular vectors a gradient is diagonal, and each entry is divided by its own size."""
    (g,) = gradients(shape, 1, dtype, size)
    u, _, vt = torch.linalg.svd(g.double().flatten(1), full_matrices=False)
    (found,), state = updates([g])
    torch.testing.assert_close(found.flatten(1), u @ vt, rtol=0, atol=1e-2 if dtype.itemsize == 2 else 1e-4)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {t.dtype for key, t in state.items() if key.startswith(("factor", "basis", "second"))} == {wanted}


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("shape", [(16, 8), (12, 12)], ids=str)
def test_ten_updates_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    data = gradients(shape, 10, dtype)
    expected, _ = updates([g.double() for g in data])
    found, _ = updates(data)
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert cosine(a, b) > (0.99 if dtype.itemsize == 2 else 0.999), n
        assert float(a.norm()) == pytest.approx(float(b.norm()), rel=0.02), n


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_first_gradient_that_is_not_finite_is_one_error_and_changes_nothing(bad: float) -> None:
    p, q = torch.ones(4, 5, requires_grad=True), torch.ones(6, 4, requires_grad=True)
    optimizer = sabun.Optimizer([p, q], 0.1, scheme="heavy-ball", preconditioner="kronecker")
    p.grad, q.grad = torch.ones(4, 5), torch.ones(6, 4)
    q.grad[2, 1] = bad
    with pytest.raises(GradientError, match="not finite"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4, 5))
    for held in optimizer.state.values():
        assert all(not t.any() for t in held.values())
    # The next gradient is the first one.
    twins = [copy.deepcopy(t.detach()).requires_grad_() for t in (p, q)]
    other = sabun.Optimizer(twins, 0.1, scheme="heavy-ball", preconditioner="kronecker")
    for group, made in (((p, q), optimizer), (twins, other)):
        for t in group:
            t.grad = torch.randn(t.shape, generator=torch.Generator().manual_seed(3))
        made.step()
    assert torch.equal(p, twins[0])
    assert torch.equal(q, twins[1])
