"""Small hidden matrices stepped in C: equal to the foreach step and to the reference, and to itself in any company."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sabun
from sabun import Optimizer
from sabun.bench.measurement import peak_extra_bytes
from sabun.errors import SabunWarning
from sabun.optim import Spectral
from sabun.optim.compiled import c_compiler, c_matrices
from sabun.optim.reference import Reference

pytestmark = pytest.mark.cpu_only("steps that are compiled for the CPU")

# Wide, tall, square; sizes that are a multiple of a vector and that are not; kernels; long enough for their Gram
# matrix on either side.
SHAPES: tuple[tuple[int, ...], ...] = (
    (64, 64), (30, 32), (33, 31), (2, 2), (3, 70), (16, 4, 3, 3), (48, 130), (200, 40), (100, 96),
)  # fmt: skip
ROWS = Spectral(row_normalization=True, beta2=0.95)
PRESET = {"scheme": "look-ahead(0.8, 2)", "momentum_end": 0.95, "preconditioner": ROWS}


def parameters(dtype: torch.dtype = torch.float64, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(0.1 * torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(params: list[nn.Parameter], n: int) -> None:
    """A field of full rank, far enough from it that no singular value is lost in rounding."""
    for i, p in enumerate(params):
        noise = torch.Generator().manual_seed(1_000 * n + i)
        p.grad = (p.detach().double() + torch.randn(p.shape, generator=noise, dtype=torch.float64)).to(p.dtype)


def run(params: list[nn.Parameter], optimizer: Any, steps: int) -> list[Tensor]:
    for n in range(steps):
        gradients(params, n)
        for group in getattr(optimizer, "optimizer", optimizer).param_groups:
            group["lr"] = 0.05 * (1 - n / 10)
        optimizer.step()
    return [p.detach().clone() for p in params]


def kernels(optimizer: Optimizer) -> int:
    """How many rules for matrices an optimizer has compiled or found compiled."""
    return sum(isinstance(kernel, c_matrices.MatrixKernel) for kernel in optimizer._engine.kernels.values())


@pytest.mark.parametrize(
    "options",
    [
        PRESET,
        {**PRESET, "weight_decay": 0.1},
        {"scheme": "nesterov", "weight_decay": 0.1, "decoupled": False},
        {"scheme": "heavy-ball", "maximize": True, "preconditioner": Spectral(row_normalization=True)},
        {"scheme": "look-ahead(0, 0.5)", "start_up": "unbiased"},
        {"scheme": "adams-bashforth-3"},
        {"scheme": "taylor-4", "preconditioner": Spectral(row_normalization=True)},
        {"scheme": "euler", "preconditioner": Spectral(steps=3)},
        {"scheme": "nesterov", "averaging": "ema(decay=0.5)"},
    ],
    ids=str,
)
def test_equals_foreach_and_the_reference(options: dict[str, Any]) -> None:
    """Five polynomials stretch an error by 3.4⁵ = 500 at worst, on numbers near 1, in each of eight steps: 1e-11."""
    options = {"preconditioner": "spectral", **options}
    ours, plain, slow = parameters(), parameters(), parameters()
    optimizer = Optimizer(ours, 0.05, fused=True, **options)
    other = Optimizer(plain, 0.05, **options)
    got, foreach = run(ours, optimizer, 8), run(plain, other, 8)
    reference = run(slow, Reference(slow, 0.05, **options), 8)
    for a, b, c in zip(got, foreach, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-11)
    for p, q in zip(ours, plain, strict=True):
        assert optimizer.state[p].keys() == other.state[q].keys()
        for name, held in optimizer.state[p].items():
            torch.testing.assert_close(held, other.state[q][name], rtol=0, atol=1e-11)
    assert kernels(optimizer) == 1, "the foreach step was taken instead"


def test_polar_express_equals_foreach() -> None:
    ours, plain = parameters(), parameters()
    options = {**PRESET, "preconditioner": replace(ROWS, iteration="polar-express")}
    optimizer = Optimizer(ours, 0.05, fused=True, **options)
    for a, b in zip(run(ours, optimizer, 8), run(plain, Optimizer(plain, 0.05, **options), 8), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert kernels(optimizer) == 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 130), columns=st.integers(2, 130), even=st.booleans(), scale=st.sampled_from([1e-12, 1, 1e6])
)
def test_equals_foreach_at_any_size(rows: int, columns: int, even: bool, scale: float) -> None:
    options = {"scheme": "nesterov", "preconditioner": Spectral(row_normalization=even), "weight_decay": 0.1}
    results = []
    for way in (True, None):
        params = parameters(shapes=((rows, columns),))
        optimizer = Optimizer(params, 0.05, fused=way, **options)
        for n in range(2):
            gradients(params, n)
            assert params[0].grad is not None
            params[0].grad *= scale
            optimizer.step()
        results.append(params[0].detach())
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


def test_float32_differs_from_float64_no_more_than_the_foreach_step_does() -> None:
    options = {**PRESET, "preconditioner": "spectral", "weight_decay": 0.1}
    exact = parameters()
    truth = run(exact, Optimizer(exact, 0.05, **options), 6)
    errors = {}
    for way in (True, None):
        params = parameters(torch.float32)
        got = run(params, Optimizer(params, 0.05, fused=way, **options), 6)
        errors[way] = [(a.double() - b).norm() for a, b in zip(got, truth, strict=True)]
    for ours, foreach in zip(errors[True], errors[None], strict=True):
        assert ours < 3 * foreach


def test_neither_threads_nor_company_change_a_bit() -> None:
    results = []
    for threads, alone in ((1, False), (3, False), (1, True)):
        torch.set_num_threads(threads)
        try:
            params = parameters(torch.float32)
            options: dict[str, Any] = {**PRESET, "preconditioner": "spectral", "fused": True}
            groups: Any = [{"params": [p]} for p in params] if alone else params
            results.append(run(params, Optimizer(groups, 0.05, **options), 4))
        finally:
            torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_threads_may_change_between_steps() -> None:
    params, twin = parameters(torch.float32), parameters(torch.float32)
    options: dict[str, Any] = {**PRESET, "preconditioner": "spectral", "fused": True}
    expected = run(twin, Optimizer(twin, 0.05, **options), 4)
    optimizer = Optimizer(params, 0.05, **options)
    run(params, optimizer, 2)
    torch.set_num_threads(3)
    try:
        for n in (2, 3):
            gradients(params, n)
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - n / 10)
            optimizer.step()
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def test_large_matrices_beside_small_ones_are_left_to_torch() -> None:
    shapes = ((20, 30), (140, 150), (30, 20))
    ours, plain = parameters(shapes=shapes), parameters(shapes=shapes)
    options = {**PRESET, "preconditioner": "spectral"}
    optimizer = Optimizer(ours, 0.05, fused=True, **options)
    got, expected = run(ours, optimizer, 4), run(plain, Optimizer(plain, 0.05, **options), 4)
    assert torch.equal(got[1], expected[1])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert [c_matrices.fits(p, optimizer.param_groups[0]["preconditioner"]) for p in ours] == [True, False, True]
    assert kernels(optimizer) == 1


def test_another_arithmetic_is_left_to_torch() -> None:
    params, twin = parameters(torch.float32), parameters(torch.float32)
    options = {**PRESET, "preconditioner": replace(ROWS, dtype="bfloat16")}
    optimizer = Optimizer(params, 0.05, fused=True, **options)
    got, expected = run(params, optimizer, 3), run(twin, Optimizer(twin, 0.05, **options), 3)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert kernels(optimizer) == 0


@pytest.mark.parametrize("changed", ["parameter", "gradient"])
def test_memory_order_does_not_matter(changed: str) -> None:
    results = []
    for last in (False, True):
        params = parameters(shapes=((16, 4, 3, 3), (12, 20)))
        if last and changed == "parameter":
            params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
        optimizer = Optimizer(params, 0.05, fused=True, **PRESET)
        for n in range(3):
            gradients(params, n)
            assert params[0].grad is not None
            if last and changed == "gradient":
                params[0].grad = params[0].grad.contiguous(memory_format=torch.channels_last)
            optimizer.step()
        results.append([p.detach().clone() for p in params])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_parameters_at_odd_addresses_and_what_lies_beside_them() -> None:
    memory = torch.full((1 + 20 * 30 + 1,), 7.0, dtype=torch.float64)
    ours, plain = parameters(shapes=((20, 30),)), parameters(shapes=((20, 30),))
    place = memory[1:-1].view(20, 30)
    place.copy_(ours[0].data)
    ours[0].data = place
    options = {**PRESET, "preconditioner": "spectral"}
    optimizer = Optimizer(ours, 0.05, fused=True, **options)
    got, expected = run(ours, optimizer, 3), run(plain, Optimizer(plain, 0.05, **options), 3)
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-11)
    assert memory[0] == memory[-1] == 7
    assert kernels(optimizer) == 1


def test_parameters_that_move_are_followed() -> None:
    params, twin = parameters(), parameters()
    optimizer = Optimizer(params, 0.05, fused=True, **PRESET)
    expected = run(twin, Optimizer(twin, 0.05, fused=True, **PRESET), 4)
    run(params, optimizer, 2)
    for p in params:
        p.data = p.data.clone()
    for n in (2, 3):
        gradients(params, n)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - n / 10)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def test_a_broken_gradient_stays_in_its_matrix_and_a_zero_one_moves_nothing() -> None:
    params = parameters(torch.float32, ((20, 30), (30, 20), (20, 20)))
    before = [p.detach().clone() for p in params]
    optimizer = Optimizer(params, 0.05, fused=True, **PRESET)
    gradients(params, 0)
    assert params[0].grad is not None
    params[0].grad[3, 4] = torch.nan
    params[1].grad = torch.zeros_like(params[1])
    optimizer.step()
    assert params[0].isnan().all()
    assert torch.equal(params[1], before[1])
    assert params[2].isfinite().all()
    assert not torch.equal(params[2], before[2])
    assert kernels(optimizer) == 1


def test_a_checkpoint_goes_from_compiled_to_foreach_and_back() -> None:
    options = {**PRESET, "preconditioner": "spectral"}
    straight = parameters()
    expected = run(straight, Optimizer(straight, 0.05, **options), 6)
    params = parameters()
    optimizer = Optimizer(params, 0.05, fused=True, **options)
    for n, way in enumerate((True, True, None, None, "native", "native")):
        if n in (2, 4):
            saved = copy.deepcopy(optimizer.state_dict())
            for group in saved["param_groups"]:
                group["fused"] = way
            optimizer = Optimizer(params, 0.05, fused=way, **options)
            optimizer.load_state_dict(saved)
        gradients(params, n)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - n / 10)
        optimizer.step()
    for a, b in zip(params, expected, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=1e-11)


def test_a_step_allocates_nothing() -> None:
    params = parameters(torch.float32)
    optimizer = Optimizer(params, 0.05, fused=True, **PRESET)
    run(params, optimizer, 2)
    assert peak_extra_bytes(optimizer.step, torch.device("cpu")) < 1024


def test_autograd_sees_that_a_parameter_has_changed() -> None:
    params = parameters(torch.float32, ((4, 6),))
    optimizer = Optimizer(params, 0.05, preconditioner="spectral", fused=True)
    loss = params[0].square().sum()
    gradients(params, 0)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_default_device_is_of_no_account() -> None:
    """The memory that the loops work in is the CPU's, whatever device new tensors are made on."""
    params, twin = parameters(), parameters()
    optimizer = Optimizer(params, 0.05, fused=True, **PRESET)
    expected = run(twin, Optimizer(twin, 0.05, fused=True, **PRESET), 1)
    gradients(params, 0)
    with torch.device("meta"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, expected, strict=True))


@pytest.mark.parametrize("metric", ["spectral", "adam"])
def test_a_parameter_that_shrinks_in_its_place_is_not_read_beyond_its_end(metric: str) -> None:
    """Same address, fewer rows: the foreach step says what does not fit, and so does the compiled one."""
    for fused in (None, True):
        p = nn.Parameter(torch.ones(32, 32))
        optimizer = Optimizer([p], 0.05, scheme="nesterov", preconditioner=metric, fused=fused)
        p.grad = torch.eye(32)
        optimizer.step()
        rest = p.data[16:].clone()
        whole = p.data
        p.grad = None
        p.data = p.data[:16]
        p.grad = torch.ones(16, 32)
        with pytest.raises(RuntimeError):
            optimizer.step()
        assert torch.equal(whole[16:], rest)


def test_an_arithmetic_that_is_changed_later_is_obeyed() -> None:
    params, twin = parameters(torch.float32), parameters(torch.float32)
    optimizer = Optimizer(params, 0.05, fused=True, **PRESET)
    other = Optimizer(twin, 0.05, fused=True, **PRESET)
    run(params, optimizer, 2)
    run(twin, other, 2)
    optimizer.param_groups[0]["preconditioner"] = replace(ROWS, dtype="bfloat16")
    for group in other.param_groups:
        group |= {"preconditioner": replace(ROWS, dtype="bfloat16"), "fused": None}
    assert all(torch.equal(a, b) for a, b in zip(run(params, optimizer, 1), run(twin, other, 1), strict=True))


# ---------------------------------------------------------------------- "auto", as the preset has it


@pytest.fixture
def no_kernels() -> Iterator[None]:
    c_compiler.library.cache_clear()
    yield
    c_compiler.library.cache_clear()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[Tensor]:
    x = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_the_preset_compiles_its_step_where_it_can() -> None:
    model, twin = _model(), _model()
    optimizer = sabun.create("sabun", model)
    assert isinstance(optimizer, Optimizer)
    got, expected = _train(model, optimizer), _train(twin, sabun.create("sabun", twin, fused=None))
    assert kernels(optimizer) == 1
    assert optimizer.compile_s > 0
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"])
def test_without_a_compiler_the_preset_goes_on_without_a_word(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CC", compiler)
    model, twin = _model(), _model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = _train(model, sabun.create("sabun", model))
    expected = _train(twin, sabun.create("sabun", twin, fused=None))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.usefixtures("no_kernels")
def test_without_a_place_to_compile_in_there_is_a_warning_for_those_who_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(c_compiler.tempfile, "TemporaryDirectory", full)
    params = parameters(shapes=((4, 6),))
    optimizer = Optimizer(params, 0.05, preconditioner="spectral", fused=True)
    gradients(params, 0)
    with pytest.warns(SabunWarning, match="No space left"):
        optimizer.step()
    model = _model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _train(model, sabun.create("sabun", model))
