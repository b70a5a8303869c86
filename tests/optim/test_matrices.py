"""Polar factors against the singular value decomposition, eigenbases against an eigensolver."""

from __future__ import annotations

import math

import pytest
import torch
from test_filters import USABLE
from torch.utils._pytree import tree_leaves

import sabun
from sabun.optim import AVERAGING, PRECONDITIONERS, Spectral
from sabun.optim import torch_internals as internals
from sabun.optim.preconditioners import orthogonal as matrices
from sabun.optim.preconditioners.orthogonal import (
    as_matrix,
    orthogonalize,
    orthogonalize_all,
    refresh_basis,
    singular_bases,
)
from sabun.optim.tensors import is_matrix


def random_matrix(rows: int, columns: int, condition: float, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))
    k = min(rows, columns)
    s = torch.logspace(0, -math.log10(condition), k, dtype=torch.float64)
    return (u[:, :k] @ torch.diag(s) @ v[:, :k].T).to(dtype)


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (4, 9), (9, 4)])
def test_the_singular_vectors_stay_and_the_values_go_to_one(rows: int, columns: int) -> None:
    G = random_matrix(rows, columns, 20.0)
    u, _, vt = torch.linalg.svd(G, full_matrices=False)
    for iteration, steps, low, high in (("newton-schulz", 5, 0.65, 1.25), ("polar-express", 8, 0.999, 1.001)):
        X = orthogonalize(G, iteration=iteration, steps=steps)
        middle = u.T @ X @ vt.T
        values = middle.diagonal()
        assert torch.allclose(middle, torch.diag(values), atol=1e-9)
        assert low < float(values.min()) <= float(values.max()) < high
    torch.testing.assert_close(X, u @ vt, rtol=0, atol=1e-3)


def test_polar_express_reaches_small_singular_values() -> None:
    G = random_matrix(16, 16, 300.0)
    values = torch.linalg.svdvals(orthogonalize(G, iteration="polar-express", steps=8))
    assert float((values - 1).abs().max()) < 0.05
    assert float(torch.linalg.svdvals(orthogonalize(G, iteration="newton-schulz", steps=5)).min()) < 0.9


def test_newton_schulz_is_torchs_to_the_bit() -> None:
    torchs = pytest.importorskip("torch.optim._muon", reason="this torch has no Muon")
    for shape in ((8, 5), (5, 8), (6, 6)):
        G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        ours = orthogonalize(G, iteration="newton-schulz", steps=5, dtype="bfloat16")
        assert torch.equal(ours, torchs._zeropower_via_newtonschulz(G, (3.4445, -4.7750, 2.0315), 5, 1e-7).float())


def test_a_stack_is_each_of_its_matrices_and_scale_does_not_matter() -> None:
    stack = torch.stack([random_matrix(5, 7, c) for c in (2.0, 10.0, 50.0)])
    together = orthogonalize(stack, iteration="newton-schulz", steps=5)
    for matrix, found in zip(stack, together, strict=True):
        torch.testing.assert_close(orthogonalize(matrix, iteration="newton-schulz", steps=5), found)
        torch.testing.assert_close(orthogonalize(1e-4 * matrix, iteration="newton-schulz", steps=5), found)
    assert not orthogonalize(torch.zeros(3, 4), iteration="newton-schulz", steps=5).any()


@pytest.mark.parametrize(("rows", "columns"), [(32, 80), (200, 40), (64, 576)])
@pytest.mark.parametrize(("iteration", "steps"), [("newton-schulz", 5), ("polar-express", 3), ("polar-express", 5)])
@pytest.mark.parametrize("rank", [None, 3])
def test_long_matrices_go_through_their_gram_matrix_to_the_same_factor(
    rows: int, columns: int, iteration: str, steps: int, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    G = random_matrix(rows, columns, 1e3)
    if rank is not None:  # most eigenvalues of the Gram matrix are rounding errors then, of either sign
        G = G[:, :rank] @ G[:rank, :]
    found = {dtype: orthogonalize(G, iteration=iteration, steps=steps, dtype=dtype) for dtype in ("float32", "float64")}
    stacked = orthogonalize(torch.stack([G, G]), iteration=iteration, steps=steps, dtype="float32")
    monkeypatch.setattr(matrices, "gram_pays", lambda *_: False)
    plain = orthogonalize(G, iteration=iteration, steps=steps, dtype="float64")
    scale = float(plain.norm())
    assert 0 < float((found["float64"] - plain).norm()) < 1e-9 * scale
    for result in (found["float32"], *stacked):
        # Newton–Schulz lifts a relative singular value of 10⁻³ five hundredfold, and with it the error of its square.
        assert 1e-9 * scale < float((result - plain).norm()) < 2e-3 * scale


def test_stacks_of_several_shapes_together_are_what_each_is_alone() -> None:
    """Long ones of the same width share their products, upright or not; square, small and 16-bit ones do not."""
    shapes = [(2, 32, 96), (32, 128), (3, 128, 32), (32, 32), (40, 128), (200, 40), (2, 5, 9)]
    stacks = [torch.stack([random_matrix(*s[-2:], 30.0, torch.float32)] * (s[0] if len(s) == 3 else 1)) for s in shapes]
    stacks.append(stacks[1].bfloat16())
    found = orthogonalize_all(stacks, iteration="newton-schulz", steps=5)
    for stack, together in zip(stacks, found, strict=True):
        alone = orthogonalize(stack, iteration="newton-schulz", steps=5)
        assert (together.shape, together.dtype) == (stack.shape, stack.dtype)
        assert together.is_contiguous()
        assert torch.equal(together, alone)
        u, _, vt = torch.linalg.svd(stack[0].double(), full_matrices=False)
        if stack.dtype == torch.float32:  # the factor is that of this matrix, and of none beside it
            values = (u.mT @ together[0].double() @ vt.mT).diagonal()
            assert 0.65 < float(values.min()) <= float(values.max()) < 1.25


@pytest.mark.cpu_only("arithmetic that is chosen for a CPU")
def test_long_matrices_keep_float32_where_their_gram_matrix_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "multiplies_bfloat16", lambda device: True)
    few, many = [(3.4445, -4.7750, 2.0315)] * 5, [(3.4445, -4.7750, 2.0315)] * 12
    for shape, coefficients, expected in [
        ((96, 384), few, torch.float32),
        ((512, 128), few, torch.float32),
        ((96, 384), many, torch.bfloat16),  # too many iterations for the Gram matrix
        ((128, 256), few, torch.bfloat16),  # too short for it
        ((192, 768), few, torch.bfloat16),
    ]:
        assert matrices.arithmetic(torch.empty(shape), coefficients) == expected


def test_many_iterations_do_not_go_through_the_gram_matrix() -> None:
    G = random_matrix(40, 200, 10.0)[:, :4] @ random_matrix(4, 200, 10.0)
    for steps in (6, 8, 12, 50):
        for iteration in ("newton-schulz", "polar-express"):
            for dtype in ("float32", "float64"):
                X = orthogonalize(G, iteration=iteration, steps=steps, dtype=dtype)
                assert float(torch.linalg.matrix_norm(X, 2)) < 1.3


@pytest.mark.cpu_only("arithmetic that is chosen for a CPU")
@pytest.mark.parametrize("units", [True, False])
def test_small_matrices_keep_float32_however_they_are_stacked(units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "multiplies_bfloat16", lambda device: units)
    large = torch.bfloat16 if units else torch.float32
    for shape, expected in [((64, 64), torch.float32), ((256, 64), torch.float32), ((512, 512), large)]:
        for transposed in (shape, shape[::-1]):
            assert matrices.arithmetic(torch.empty(transposed), ()) == expected
            assert matrices.arithmetic(torch.empty(9, *transposed), ()) == expected
            assert matrices.arithmetic(torch.empty(transposed, dtype=torch.float64), ()) == torch.float64


def test_an_accelerator_is_asked_for_its_bfloat16_units_and_float64_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.empty(8, 512, 512, device="meta")
    for units, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(internals, "multiplies_bfloat16", lambda device, units=units: units)
        assert matrices.arithmetic(meta, ()) == expected
        assert matrices.arithmetic(meta.double(), ()) == torch.float64


@pytest.mark.parametrize(("capability", "units"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_units_are_those_of_the_device(
    capability: tuple[int, int], units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    internals.multiplies_bfloat16.cache_clear()
    try:
        assert internals.multiplies_bfloat16(torch.device("cuda", 0)) == units
        assert not internals.multiplies_bfloat16(torch.device("meta"))  # says nothing
    finally:
        internals.multiplies_bfloat16.cache_clear()


def test_bfloat16_comes_back_as_it_came() -> None:
    G = random_matrix(6, 4, 5.0).bfloat16()
    X = orthogonalize(G, iteration="newton-schulz", steps=5)
    assert X.dtype == torch.bfloat16


def test_an_update_is_as_large_as_adamws() -> None:
    """Root mean square about 0.2, which is what AdamW's entries come to in practice (Liu et al. 2025)."""
    for shape in ((64, 64), (32, 128), (16, 3, 3, 3)):
        p = torch.zeros(shape, requires_grad=True)
        optimizer = sabun.Optimizer([p], 1.0, preconditioner="spectral")
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        assert 0.13 < float(p.detach().square().mean().sqrt()) < 0.25


def test_row_normalization_makes_rows_alike_and_keeps_the_norm() -> None:
    """A constant gradient of rank 2: the polar factor has rows of unequal length until they are divided by it."""
    G = random_matrix(6, 2, 3.0) @ random_matrix(2, 9, 2.0)
    updates = []
    for even in (False, True):
        p = torch.zeros(6, 9, dtype=torch.float64).requires_grad_()
        p.grad = G.clone()
        sabun.Optimizer([p], 1.0, preconditioner=Spectral(row_normalization=even, eps=0.0)).step()
        updates.append(p.detach())
    lengths = [update.norm(dim=1) for update in updates]
    assert float(lengths[0].max() / lengths[0].min()) > 1.2
    torch.testing.assert_close(lengths[1], lengths[1].mean().expand(6), rtol=1e-12, atol=0)
    torch.testing.assert_close(updates[1].norm(), updates[0].norm(), rtol=1e-12, atol=0)
    # A gradient of zero moves nothing.
    p = torch.ones(6, 9, requires_grad=True)
    p.grad = torch.zeros(6, 9)
    sabun.Optimizer([p], 1.0, preconditioner="spectral(row_normalization=True)").step()
    assert torch.equal(p.detach(), torch.ones(6, 9))


def test_kernels_are_flattened_and_vectors_are_no_matrices() -> None:
    assert as_matrix(torch.zeros(4, 3, 2, 2)).shape == (4, 12)
    for shape, expected in (
        ((4, 3), True),
        ((4, 3, 1, 1), True),
        ((4, 1), False),
        ((1, 4), False),
        ((4,), False),
        ((), False),
    ):
        assert is_matrix(torch.Size(shape)) == expected


LOW_RANK = {
    "full": random_matrix(5, 8, 10.0),
    "of rank 2": random_matrix(6, 2, 3.0) @ random_matrix(2, 9, 2.0),
    "with dead rows and columns": torch.nn.functional.pad(random_matrix(4, 6, 3.0), (2, 1, 1, 0)),
    "square": random_matrix(7, 7, 10.0),
}


@pytest.mark.parametrize("name", LOW_RANK)
def test_the_bases_of_a_matrix_are_its_singular_vectors(name: str) -> None:
    M = torch.as_tensor(LOW_RANK[name])
    rows, columns = M.shape
    turned, Q, P = singular_bases(M, both=True)
    assert P is not None
    one = torch.eye(columns, dtype=M.dtype)
    for found, wanted in ((Q.T @ Q, one[:rows, :rows]), (P.T @ P, one), (Q.T @ M @ P, turned)):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13 * max(1, float(M.norm())))
    assert torch.equal(turned, torch.zeros_like(M).diagonal_scatter(turned.diagonal()))
    torch.testing.assert_close(turned.diagonal().abs(), torch.linalg.svdvals(M), rtol=1e-12, atol=1e-12)
    only, again, none = singular_bases(M, both=False)
    assert none is None
    assert torch.equal(again, Q)
    torch.testing.assert_close(only, Q.T @ M, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOW_RANK)
def test_the_bases_of_a_matrix_hardly_change_when_its_entries_are_rounded(name: str) -> None:
    """Up to signs, which Adam does not see; that is so in the directions of which the matrix says nothing, too."""
    M = torch.as_tensor(LOW_RANK[name])
    generator = torch.Generator().manual_seed(5)
    other = M * (1 + 1e-15 * torch.randn(M.shape, generator=generator, dtype=M.dtype))
    for a, b in zip(singular_bases(M, both=True)[1:], singular_bases(other, both=True)[1:], strict=True):
        assert a is not None
        assert b is not None
        torch.testing.assert_close((a * b).sum(0).abs(), torch.ones(len(a), dtype=M.dtype), rtol=0, atol=1e-12)
        torch.testing.assert_close(a * (a * b).sum(0).sign(), b, rtol=0, atol=1e-12)


def test_a_matrix_of_zeros_has_the_unit_vectors_as_bases() -> None:
    turned, Q, P = singular_bases(torch.zeros(3, 4), both=True)
    assert not turned.any()
    assert torch.equal(Q, torch.eye(3))
    assert torch.equal(P, torch.eye(4))


def test_refreshed_bases_converge() -> None:
    A = random_matrix(8, 8, 10.0)
    factor = A @ A.T
    vectors = torch.linalg.eigh(factor).eigenvectors
    turned = torch.linalg.qr(vectors + 0.1 * random_matrix(8, 8, 2.0)).Q
    for _ in range(200):
        turned, _order = refresh_basis(factor, turned)
    overlap = (turned * vectors.flip(1)).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(8, dtype=torch.float64), atol=1e-8, rtol=0)


def test_directions_without_gradient_keep_their_basis() -> None:
    """A factor of rank 2 in 6 dimensions: rounding must not choose the other four directions anew."""
    g = random_matrix(6, 2, 3.0)
    factor = g @ g.T
    basis = singular_bases(torch.nn.functional.pad(g, (0, 4)), both=False)[1]
    refreshed, order = refresh_basis(factor, basis)
    # The order among directions of equal (no) weight is free; the second moment is permuted along with it.
    kept = (refreshed * basis.index_select(1, order)).sum(0).abs()
    torch.testing.assert_close(kept, torch.ones(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_kronecker_forgets_a_side_that_is_too_long() -> None:
    p = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = sabun.Optimizer([p], 0.1, preconditioner="kronecker(max_factor=4)", scheme="heavy-ball")
    for _ in range(12):
        p.grad = p.detach() - 1
        optimizer.step()
    assert set(optimizer.state[p]) == {"velocity_0", "second_moment", "factor_left", "basis_left", "step"}


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize("scheme", USABLE)
@pytest.mark.parametrize("averaging", AVERAGING)
def test_the_memory_between_steps_is_what_is_declared(preconditioner: str, scheme: str, averaging: str) -> None:
    """Bytes of state, measured, against the copies that scheme, preconditioner and average declare."""
    rows, columns = 48, 32
    p = torch.randn(rows, columns).requires_grad_()
    optimizer = sabun.Optimizer([p], 0.1, scheme=scheme, preconditioner=preconditioner, averaging=averaging)
    for _ in range(2):
        p.grad = torch.randn(rows, columns)
        optimizer.step()
    held = sum(t.untyped_storage().nbytes() for k, t in optimizer.state[p].items() if k != "step")
    declared = (
        sabun.schemes.get(scheme).state_copies
        + PRECONDITIONERS[preconditioner].copies(rows, columns)
        + len(AVERAGING[averaging].like)
    )
    assert held == round(declared * p.untyped_storage().nbytes())


@pytest.mark.parametrize(
    "scheme", ["euler", "heavy-ball", "nesterov", "look-ahead(0.9, 2)", "adams-bashforth-2", "taylor-4"]
)
def test_a_step_without_preconditioner_allocates_nothing_of_the_size_of_the_parameters(scheme: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            before = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
            out = function(*args, **(kwargs or {}))
            for t in _tensors(out):
                if t.untyped_storage().data_ptr() not in before:
                    self.entries = max(self.entries, t.numel())
            return out

    p = torch.randn(100, 100).requires_grad_()
    optimizer = sabun.Optimizer([p], 0.1, scheme=scheme, weight_decay=0.1)
    p.grad = torch.randn(100, 100)
    optimizer.step()
    with Largest() as largest:
        optimizer.step()
    assert largest.entries <= 1
    with Largest() as largest:
        p.grad.add(1.0)
    assert largest.entries == 10_000  # the measurement does see an allocation


def _tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
