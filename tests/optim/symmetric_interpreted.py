"""Symmetric products in Triton's interpreter, on CPU tensors. Run by ``test_triton.py`` with TRITON_INTERPRET=1."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sabun import Optimizer
from sabun.errors import OptionError
from sabun.optim.preconditioners import orthogonal, symmetric_products
from sabun.optim.preconditioners.orthogonal import orthogonalize_all
from sabun.optim.preconditioners.stacks import orthogonalize_stacks
from sabun.optim.preconditioners.symmetric_products import blocks_of, symmetric_product

assert os.environ["TRITON_INTERPRET"] == "1"

SIZES = (1, 17, 64, 96, 130)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda X: X,
    "transposed": lambda X: X.mT.contiguous().mT,
    "every second column": lambda X: X.repeat_interleave(2, dim=-1)[..., ::2],
    "a part of a stack": lambda X: torch.cat([X, X])[len(X) :],
    "one matrix for all": lambda X: X[:1].expand_as(X),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_products_equal_whole_ones_in_float64(dtype: torch.dtype, form: str) -> None:
    """To rounding: one of the result, and in float32 those of a sum of as many terms as there are columns."""
    for n, rows in enumerate(SIZES):
        count, columns = 1 + n % 3, SIZES[(3 * n + 1) % 5]
        X = FORMS[form](drawn(count, rows, columns, dtype=dtype))
        plus = FORMS[form](drawn(count, rows, rows, dtype=dtype))
        plus = plus + plus.mT
        out = torch.full((count, 2 * rows, rows), torch.nan, dtype=dtype)[:, ::2]
        for given, added in ((symmetric_product(X, alpha=0.5), None), (None, plus)):
            exact = 0.5 * torch.bmm(X.double(), X.double().mT)
            if added is not None:
                exact += -1.5 * added.double() + 2.0 * torch.eye(rows, dtype=torch.float64)
                given = symmetric_product(X, plus=added, alpha=0.5, beta=-1.5, shift=2.0, out=out)
            assert given is not None
            assert given.dtype == dtype
            assert torch.equal(given, given.mT)
            size = exact.diagonal(dim1=1, dim2=2).amax() + 2
            rounding = torch.finfo(dtype).eps * exact.abs() + 2**-23 * (columns + 2) * size
            assert bool(((given.double() - exact).abs() <= rounding).all())


def test_of_a_product_that_is_symmetric_in_exact_arithmetic_one_triangle_is_computed() -> None:
    """That of G and B, where B is a polynomial in G: rounding makes the triangles of a whole product different."""
    X = drawn(2, 96, 130, dtype=torch.float32) / 130**0.5
    G = symmetric_product(X)
    B = symmetric_product(G, plus=G, alpha=2.0, beta=-4.0)
    found, whole = symmetric_product(G, B, G, beta=3.0), torch.baddbmm(G, G, B, beta=3.0)
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_the_lower_triangle_has_no_effect() -> None:
    plus = drawn(1, 130, 130).triu() + torch.full((130, 130), torch.nan).tril(-1)
    assert bool(symmetric_product(drawn(1, 130, 8), plus=plus).isfinite().all())


def test_each_block_on_or_above_the_diagonal_has_one_program() -> None:
    """With a program less an entry is missing; so none is idle, and each block has its own."""
    for rows in (1, 64, 65, 190, 300):
        blocks = -(-rows // 64)
        assert blocks_of(rows, torch.float32) == (blocks * (blocks + 1) // 2, blocks * blocks)
        out = torch.full((1, rows, rows), torch.nan)
        symmetric_product(torch.ones(1, rows, 2), out=out)
        assert bool((out == 2).all())


STACKS = [(2, 20, 20), (1, 50, 20), (1, 40, 200), (1, 70, 90)]


@pytest.mark.parametrize(("iteration", "steps"), [("newton-schulz", 5), ("polar-express", 6)])
def test_polar_factors_equal_those_by_whole_products_to_rounding(iteration: str, steps: int) -> None:
    """Stacks as on one device, and as owners of shards iterate them; some through their Gram matrix."""
    stacks = [drawn(*shape, seed=n) for n, shape in enumerate(STACKS)]
    stacks[0][1] = 0
    scales = [1.0, 0.5, 2.0, 3.0]
    options: dict[str, Any] = {"iteration": iteration, "steps": steps}
    ours, plain = ([one.clone() for one in stacks] for _ in range(2))
    eyes: dict[tuple[object, ...], Tensor] = {}
    orthogonalize_stacks(ours, scales, eyes, **options, symmetric=True)
    orthogonalize_stacks(plain, scales, {}, **options)
    assert not eyes
    owners = orthogonalize_all([one.clone() for one in stacks], **options, dtype="float32", symmetric=True)
    for found, owned, expected, scale in zip(ours, owners, plain, scales, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(owned * scale, expected, rtol=1e-4, atol=1e-5)
    assert not ours[0][1].any()


@pytest.mark.parametrize("options", [{}, {"fused": "auto"}, {"foreach": False}], ids=str)
def test_a_step_takes_the_kernel_whatever_else_is_asked_for(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.Size] = []

    def watched(X: Tensor, *given: Any, **named: Any) -> Tensor:
        taken.append(X.shape)
        return symmetric_product(X, *given, **named)

    monkeypatch.setattr(orthogonal, "symmetric_product", watched)
    found = []
    for on in (True, False):
        params = [nn.Parameter(drawn(12, 20)), nn.Parameter(drawn(30, 10)), nn.Parameter(drawn(4))]
        preconditioner = f"spectral(dtype='float32', row_normalization=True, symmetric_products={on})"
        optimizer = Optimizer(params, 0.1, scheme="nesterov", preconditioner=preconditioner, **options)
        for n in range(2):
            for p in params:
                p.grad = drawn(*p.shape, seed=n)
            optimizer.step()
        found.append([p.detach() for p in params])
        if not on:
            assert len(taken) == 2 * 2 * 2 * 5  # steps, matrices, products of an iteration, iterations
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_float64_is_refused_before_anything_changes() -> None:
    p = nn.Parameter(drawn(4, 4, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    optimizer = Optimizer([p], 0.1, preconditioner="spectral(symmetric_products=True)")
    with pytest.raises(OptionError, match=r"has no float64, in which .* Set dtype='float32'"):
        optimizer.step()
    assert not optimizer.state
    optimizer.param_groups[0]["preconditioner"] = "spectral(symmetric_products=True, dtype='float32')"
    optimizer.step()


def test_a_device_that_multiplies_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter does in bfloat16, whose bits it takes for integers."""
    monkeypatch.setattr(symmetric_products, "symmetric_product", lambda X: X)
    symmetric_products._reason.cache_clear()
    with pytest.raises(OptionError, match=r"multiplies torch\.bfloat16 wrongly"):
        symmetric_products.require(torch.device("cpu"), torch.bfloat16)
    symmetric_products._reason.cache_clear()
