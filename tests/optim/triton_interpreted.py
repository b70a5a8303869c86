"""The Triton kernels in Triton's interpreter, on CPU tensors. Run by ``test_triton.py`` with TRITON_INTERPRET=1.

The interpreter must be asked for before Triton is imported, and then holds for the whole process.
"""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import stored_state
import torch
from compiled_steps import SCHEMES, compare, gradients, parameters, run, step_together
from torch import nn

from sabun import Optimizer, create
from sabun.errors import SabunWarning
from sabun.optim.compiled import triton_elementwise

assert os.environ["TRITON_INTERPRET"] == "1"

OPTIONS: tuple[dict[str, Any], ...] = (
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled": False, "maximize": True},
    {"start_up": "hold"},
    {"start_up": "unbiased"},
    {"averaging": "ema(decay=0.8)", "weight_decay": 0.1},
    {"averaging": "tail(start=1)"},
    {"averaging": "schedule-free", "weight_decay": 0.1, "start_up": "unbiased"},
)


@pytest.mark.parametrize("preconditioner", [None, "adam", "sign"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_kernel_equals_foreach(scheme: str, preconditioner: str | None) -> None:
    compare({"scheme": scheme, "preconditioner": preconditioner}, fused="triton", steps=3, reference=False)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_of_the_step_is_in_the_kernel(options: dict[str, Any]) -> None:
    compare({"scheme": "look-ahead(0.9, 2)", "preconditioner": "adam", **options}, fused="triton", steps=3)


@pytest.mark.parametrize("state_dtype", [None, "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("preset", ["nesterov", "adamw", "lion", "schedule-free-adamw"])
def test_short_dtypes_equal_foreach_to_their_rounding(preset: str, dtype: torch.dtype, state_dtype: str | None) -> None:
    """Both compute in float32 and round what they store once; both go on from the same numbers after every step."""
    ours, twins = parameters(dtype), parameters(dtype)
    optimizer = create(preset, ours, 0.05, state_dtype=state_dtype, fused="triton")
    foreach = create(preset, twins, 0.05, state_dtype=state_dtype)
    step_together(ours, twins, optimizer, foreach, 2)
    assert optimizer.compile_s > 0


def test_what_is_not_finite_stays_so_as_in_foreach() -> None:
    values = [1.0, float("inf"), -float("inf"), float("nan"), 3.0e38, -0.0, 1e-45]
    for dtype in (torch.float32, torch.bfloat16):
        for at_random in (False, True):
            found = []
            for fused in (False, "triton"):
                p = nn.Parameter(torch.tensor(values, dtype=dtype).repeat(7))
                p.grad = torch.tensor(values, dtype=dtype).repeat_interleave(7)
                options = {"preconditioner": "adam", "stochastic_rounding": at_random, "fused": fused}
                Optimizer([p], 0.1, scheme="nesterov", **options).step()
                found.append(p.detach().float())
            for a, b in zip(*((x.isnan(), x == torch.inf, x == -torch.inf) for x in found), strict=True):
                assert torch.equal(a, b)


def test_the_gradient_scaler_skips_an_overflow() -> None:
    found = []
    for fused in (False, "triton"):
        params = parameters(torch.float32)
        optimizer = create("adamw", params, 0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for n in range(4):
            gradients(params, n)
            for p in params:
                p.grad = scaler.scale(p.grad)
            if n == 2:
                params[1].grad[3] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        found.append([*(p.detach() for p in params), torch.tensor(scaler.get_scale())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert found[1][-1] == 2.0


def test_tensors_longer_than_a_block_and_programs_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_elementwise, "BLOCK", 16)
    monkeypatch.setattr(triton_elementwise, "_PROGRAMS", 5)
    optimizer = compare({"scheme": "nesterov", "preconditioner": "adam"}, fused="triton", steps=3, reference=False)
    (table,) = optimizer._engine._tables.values()
    assert table.chunk == 5 * 16  # 21 blocks in all
    assert table.programs == 7  # of the tensor of 9 blocks two


def test_addresses_that_are_no_multiples_of_16() -> None:
    found = []
    for fused in (False, "triton"):
        flat = torch.linspace(-1, 1, 40)
        params = [nn.Parameter(flat[1:20]), nn.Parameter(flat[20:39].view(1, 19))]
        optimizer = create("adamw", params, 0.05, fused=fused)
        run(params, optimizer, 2)
        found.append(flat)
    (table,) = optimizer._engine._tables.values()
    assert not table.aligned
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_a_new_gradient_and_a_new_rate_compile_nothing() -> None:
    params, twins = parameters(), parameters()
    optimizer, plain = (
        Optimizer(p, 0.05, scheme="nesterov", preconditioner="adam", fused=fused)
        for p, fused in ((params, "triton"), (twins, False))
    )
    for n in range(5):
        for some, own in ((params, optimizer), (twins, plain)):
            gradients(some, n)
            if n == 3:
                some[1].grad = None
            own.param_groups[0]["lr"] = 0.05 / (n + 1)
            own.step()
    assert optimizer._engine.compiled == 1
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_a_learning_rate_in_a_tensor_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"preconditioner": "adam", "weight_decay": 0.1, "averaging": "ema"}
    params, twins = parameters(), parameters()
    plain = run(twins, Optimizer(twins, 0.05, **options), 3)
    monkeypatch.setattr(Optimizer, "_rate", lambda self, group: group["lr"])
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("it was read"))
    rate = torch.tensor([0.05], dtype=torch.float64)
    optimizer = Optimizer(params, 0.05, fused="triton", **options)
    optimizer.param_groups[0]["lr"] = rate
    found = run(params, optimizer, 3)
    assert optimizer.compile_s > 0
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-13)


def test_memory_order_complex_numbers_and_gaps() -> None:
    torch.manual_seed(0)
    kernel, matrix = torch.randn(4, 3, 5, 5), torch.randn(6, 4)
    found = []
    for fused in (False, "triton"):
        base = torch.arange(20.0).reshape(4, 5)
        params = [
            nn.Parameter(kernel.clone().to(memory_format=torch.channels_last)),
            nn.Parameter(matrix.clone().t()),
            nn.Parameter(torch.tensor([1 + 2j, -0.5j])),
        ]
        gaps = nn.Parameter(base[:, :2])
        optimizer = create("adamw", [*params, gaps], 0.1, fused=fused)
        other = create("adamw", params, 0.1, fused=fused)
        for n in range(2):
            for p in (*params, gaps):
                p.grad = (p.detach() * (0.3 + n)).contiguous()
            optimizer.step()  # a view with gaps in the bucket: foreach
            other.step()
        assert (other.compile_s > 0) is (fused == "triton")
        found.append([*(p.detach() for p in params), base])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_stochastic_rounding_is_unbiased_and_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a quarter of the spacing from 1: up in a quarter of the entries, whatever tensor, entry and step.

    Of n entries the share has the standard error √(3/16/n); the bound is five of them. Neighbours, tensors and steps
    are uncorrelated to five standard errors (1/√n) as well.
    """
    monkeypatch.setattr(triton_elementwise, "BLOCK", 2**14)
    n = 40_000
    up = 2**-7  # from 1 to the next bfloat16

    def marks(count: int, resumed: bool = False) -> list[torch.Tensor]:
        params = [nn.Parameter(torch.ones(n, dtype=torch.bfloat16)) for _ in range(2)]
        optimizer = Optimizer(params, up / 4, stochastic_rounding=True, fused="triton")
        out = []
        for step in range(count):
            for p in params:
                p.data.fill_(1.0)
                p.grad = -torch.ones_like(p)
            if resumed and step == 1:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = Optimizer(params, up / 4, stochastic_rounding=True, fused="triton")
                optimizer.load_state_dict(saved)
            optimizer.step()
            assert {x.item() for p in params for x in p.detach().unique()} == {1.0, 1.0 + up}
            out += [(p.detach() > 1).double() for p in params]
        assert optimizer.compile_s > 0
        return out

    found = marks(2)
    for x in found:
        assert abs(x.mean().item() - 0.25) < 5 * (3 / 16 / n) ** 0.5
        centred = x - x.mean()
        assert abs((centred[1:] * centred[:-1]).mean().item()) / (3 / 16) < 5 / n**0.5
    for i, a in enumerate(found):
        for b in found[:i]:
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 5 / n**0.5
    assert all(torch.equal(a, b) for a, b in zip(found, marks(2, resumed=True), strict=True))


def test_the_preset_takes_the_kernel_for_its_diagonal_part_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU "auto" means C; here the way is that of an accelerator."""
    from sabun.optim.compiled import engine

    monkeypatch.setattr(engine, "_ways", lambda fused, device: ("triton",) if fused else ())
    found = []
    for fused in (False, "auto"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 14), nn.Tanh(), nn.Linear(14, 14), nn.Tanh(), nn.Linear(14, 3))
        optimizer = create("sabun", model, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 9)).square().mean().backward()
            optimizer.step()
        assert (optimizer.compile_s > 0) is (fused == "auto")
        found.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_autograd_sees_that_a_parameter_has_changed() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([p], 0.1, scheme="nesterov", fused="triton")
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SabunWarning)
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_in_bfloat16_is_rounded_at_random_to_a_neighbour(dtype: torch.dtype) -> None:
    stored_state.rounds_to_bfloat16("triton", dtype)


# ---------------------------------------------------------------------- state in 8 bits


@pytest.fixture
def large_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a pass of many blocks as for one of few."""
    monkeypatch.setattr(triton_elementwise, "BLOCK", 2**14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", ["adamw", "nesterov", "schedule-free-adamw"])
def test_state_in_8_bits_is_stored_at_neighbouring_levels(preset: str, dtype: torch.dtype, large_passes: None) -> None:
    stored_state.stores_neighbours("triton", preset, dtype)


def test_programs_of_several_passes_store_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_elementwise, "BLOCK", 2**12)
    monkeypatch.setattr(triton_elementwise, "_PROGRAMS", 7)
    stored_state.stores_neighbours("triton", "nesterov")


def test_8_bits_are_rounded_without_bias(large_passes: None) -> None:
    stored_state.is_unbiased("triton")


def test_an_entry_that_is_not_finite_spoils_its_block(large_passes: None) -> None:
    stored_state.spoils_a_block("triton")


def test_zeros_stay_zeros_in_8_bits(large_passes: None) -> None:
    stored_state.zeros_stay("triton")


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_checkpoints_move_between_the_kernel_and_foreach(storage: str, large_passes: None) -> None:
    stored_state.moves_between("triton", storage)


def test_8_bits_in_another_memory_order_take_the_foreach_step() -> None:
    """A block is of neighbours in a row."""
    p = nn.Parameter(torch.ones(64, 80).t())
    optimizer = create("adamw", [p], 0.05, state_dtype="8bit", fused="triton")
    p.grad = torch.ones(80, 64)
    optimizer.step()
    assert optimizer.compile_s == 0
    assert optimizer.state[p]["velocity_0"].dtype == torch.uint8


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_the_numbers_drawn_are_those_of_the_step_in_c(storage: str, large_passes: None) -> None:
    """Where rounding of the arithmetic does not decide between two neighbours."""
    found = []
    for fused in ("triton", "native"):
        params = stored_state.parameters()
        optimizer = create("adamw", params, 0.05, state_dtype=storage, fused=fused)
        for step in range(2):
            stored_state.give_gradients(params, step)
            optimizer.step()
        assert optimizer.compile_s > 0
        found.append([optimizer.state[p][name] for p in params for name in ("velocity_0", "second_moment")])
    for a, b in zip(*found, strict=True):
        assert float((a == b).double().mean()) > 0.99
