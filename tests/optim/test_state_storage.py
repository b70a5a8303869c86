"""State in bfloat16 and in 8 bits, against plain formulas in float64 with the rounding simulated by NumPy."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_state import Array, are_neighbours, blocks_of, levels, value_of
from torch import Tensor, nn

import sabun
from sabun.errors import OptionError, StateError
from sabun.optim import create, state_storage, update
from sabun.optim.state_storage import decode, encode, store
from sabun.optim.tensors import scale_shape


def kept(x: Tensor, *, signed: bool, **noise: Any) -> Tensor:
    codes, scale = torch.empty(x.shape, dtype=torch.uint8), torch.empty(scale_shape(x.shape))
    if noise:
        store([codes], [scale], [x], signed=signed, **noise)
    else:
        encode(x, codes, scale, None, signed=signed)
    return decode(codes, scale, x.dtype, signed=signed)


def test_the_table_has_256_levels_in_a_byte() -> None:
    for signed, number in ((True, 256), (False, 255)):
        table = state_storage._levels(torch.device("cpu"), signed=signed)
        assert len(table) == number
        np.testing.assert_allclose(table.double().cpu().numpy(), levels(signed=signed), rtol=1e-7)
        assert bool((table.diff() > 0).all())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    rest=st.sampled_from([(1,), (7,), (255,), (256,), (257,), (300,), (513,), (3, 5), (2, 3, 50)]),
    low=st.integers(-44, 37),
    spread=st.integers(0, 40),
    signed=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_every_entry_is_rounded_to_a_neighbour(
    rows: int, rest: tuple[int, ...], low: int, spread: int, signed: bool, seed: int
) -> None:
    """Any shape and any magnitude: zeros, subnormal numbers, ranges of many decades, rows that are no whole blocks."""
    draw = np.random.default_rng(seed)
    shape = (rows, *rest)
    x = 10.0 ** np.minimum(low + spread * draw.random(shape), 38) * draw.choice([-1, 0, 1], shape)
    tensor = torch.tensor(np.abs(x) if not signed else x, dtype=torch.float32)
    x = tensor.double().cpu().numpy()
    for noise in ({}, {"stream": 1, "step": seed, "places": [3], "piece": 0}):
        are_neighbours(kept(tensor, signed=signed, **noise).double().cpu().numpy(), x, signed=signed)


# ---------------------------------------------------------------------- trajectories

SHAPE = (8, 600)
STREAMS = {"velocity_0": 1, "second_moment": 2}


def seed_of(step: int, stream: int) -> int:
    return (step * 1_000_003 + stream * 0x1E3779B97F4A7C15) % 2**63


def rounded(x: Array, storage: str, step: int, name: str) -> Array:
    """What is left of a state tensor after it was stored in a step, with the random numbers of that step."""
    generator = torch.Generator().manual_seed(seed_of(step, STREAMS[name]))
    if storage == "bfloat16":
        noise = torch.randint(0, 2**16, x.shape, generator=generator, dtype=torch.int32).cpu().numpy()
        bits = x.astype(np.float32).view(np.uint32) + noise.astype(np.uint32)
        return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    blocks = blocks_of(x)
    noise = torch.rand(blocks.shape, generator=generator).cpu().numpy()
    table = levels(signed=name == "velocity_0").astype(np.float32).astype(np.float64)
    at = np.abs(blocks).argmax(-1, keepdims=True)
    scale = np.take_along_axis(blocks, at, -1)
    relative = blocks / scale
    low = np.clip(np.searchsorted(table, relative, side="right") - 1, 0, len(table) - 2)
    share = (relative - table[low]) / (table[low + 1] - table[low])
    codes = low + (share > noise)
    return (table[codes] * scale.astype(np.float32)).reshape(len(x), -1)[:, : x.shape[1]]


@pytest.mark.cpu_only("its noise is that of a generator on the CPU")
@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_a_trajectory_is_the_formula_with_rounded_state(storage: str) -> None:
    """AdamW in float64, its velocity and second moment rounded after each step."""
    draw = np.random.default_rng(0)
    start = draw.standard_normal(SHAPE)
    p = torch.tensor(start, requires_grad=True)
    optimizer = create("adamw", [p], 0.01, state_dtype=storage)
    x, m, v = start.copy(), np.zeros(SHAPE), np.zeros(SHAPE)
    for step in range(1, 13):
        g = draw.standard_normal(SHAPE) * 10.0 ** draw.integers(-6, 2, SHAPE)
        p.grad = torch.tensor(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x * (1 - 0.01 * 0.01) - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(p.detach().cpu().numpy(), x, rtol=1e-9, atol=1e-11)
        m, v = rounded(m, storage, step, "velocity_0"), rounded(v, storage, step, "second_moment")
    assert optimizer.state[p]["second_moment"].dtype == (torch.bfloat16 if storage == "bfloat16" else torch.uint8)


def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to nearest, which draws nothing."""

    def store(tensors: Any, scales: Any, values: Any, *, signed: bool, **noise: Any) -> None:
        for i, (tensor, x) in enumerate(zip(tensors, values, strict=True)):
            if scales is None:
                tensor.copy_(x)
            else:
                encode(x, tensor, scales[i], None, signed=signed)

    monkeypatch.setattr(state_storage, "store", store)


def decayed(storage: str) -> float:
    """A second moment after 200 gradients of zero, of what it should be, on average over entries of many sizes."""
    p = torch.zeros(64, 256, requires_grad=True)
    optimizer = sabun.Optimizer([p], 1e-3, preconditioner="adam(beta2=0.999)", state_dtype=storage)
    p.grad = 10 ** (torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) - 1)
    exact = 0.001 * p.grad**2
    for _ in range(201):
        optimizer.step()
        p.grad = torch.zeros_like(p)
    return float((value_of(optimizer.state[p], "second_moment") / (exact * 0.999**200)).mean())


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_second_moments_decay_because_they_are_rounded_at_random(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decayed(storage) == pytest.approx(1, abs=0.01)
    if storage == "bfloat16":  # the blocks' scales decay by themselves
        nearest(monkeypatch)
        assert decayed(storage) > 1.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
@pytest.mark.parametrize("preset", ["adamw", "schedule-free-adamw", "sabun"])
def test_a_first_step_is_that_with_float32_state(preset: str, storage: str, dtype: torch.dtype) -> None:
    """It begins from zeros and rounds only what it leaves, whatever the dtype, the memory order and the decay."""
    for options in ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": False, "maximize": True}):
        found = []
        for state_dtype in ("float32", storage):
            draw = torch.Generator().manual_seed(0)
            flat = torch.randn(32, 300, generator=draw).to(dtype)
            kernels = torch.randn(64, 32, 3, 3, generator=draw).to(dtype, memory_format=torch.channels_last)
            params = [nn.Parameter(t.clone()) for t in (flat, flat.t(), kernels)]
            named = [(f"layers.{i}.weight", p) for i, p in enumerate(params)]
            optimizer = create(preset, named, 0.01, state_dtype=state_dtype, fused=None, **options)
            for p in params:
                p.grad = torch.randn(p.shape, generator=draw).to(dtype)
            optimizer.step()
            found.append([p.detach() for p in params])
        for a, b in zip(*found, strict=True):
            rtol, atol = (1e-12, 1e-12) if dtype == torch.float64 else (torch.finfo(dtype).eps, 1e-6)
            torch.testing.assert_close(b, a, rtol=rtol, atol=atol)


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
@pytest.mark.parametrize(
    "rule", [("adamw", {}), ("sabun", {}), ("taylor-4", {}), ("soap", {})], ids=lambda rule: rule[0]
)
def test_training_resumes_to_the_bit(rule: tuple[str, dict[str, Any]], storage: str) -> None:
    def setup() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 80), nn.Tanh(), nn.Linear(80, 64), nn.Tanh(), nn.Linear(64, 64))
        return model, create(rule[0], model, 0.01, state_dtype=storage, **rule[1])

    def go(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (model(x) - x.sin()).square().mean().backward()
            optimizer.step()

    model, optimizer = setup()
    go(model, optimizer, range(6))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    go(model, optimizer, range(6, 12))
    twin, resumed = setup()
    twin.load_state_dict(weights)
    resumed.load_state_dict(state)
    go(twin, resumed, range(6, 12))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    held = optimizer.state[model[0].weight]
    assert held["velocity_0"].dtype == (torch.uint8 if storage == "8bit" else torch.bfloat16)
    if storage == "8bit":
        assert held["velocity_0_scale"].shape == (80, 1)
    assert optimizer.state[model[0].bias]["velocity_0"].dtype == torch.float32


def test_blocks_of_another_memory_order_raise_no_warning() -> None:
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kept(torch.randn(80, 64).t(), signed=True)
    finally:
        torch.set_warn_always(False)


def test_small_tensors_vectors_and_complex_numbers_keep_their_state() -> None:
    shapes = {(64, 64): True, (4096, 16): True, (4095, 1): False, (63, 65): False, (8192,): False, (4096, 15): False}
    params = {shape: torch.ones(shape, requires_grad=True) for shape in shapes}
    number = torch.ones(64, 64, dtype=torch.complex64, requires_grad=True)
    optimizer = sabun.Optimizer([*params.values(), number], 0.1, scheme="nesterov", state_dtype="8bit")
    for p in (*params.values(), number):
        p.grad = torch.ones_like(p)
    optimizer.step()
    for shape, p in params.items():
        assert (optimizer.state[p]["velocity_0"].dtype == torch.uint8) == shapes[shape], shape
    assert optimizer.state[number]["velocity_0"].dtype == torch.complex64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_state_moves_between_its_dtypes(dtype: torch.dtype) -> None:
    """By an edit of the group; a checkpoint brings its own. From 8 bits to more is exact."""
    p = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    optimizer = create("adamw", [p], 1e-3)
    for step in range(3):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.step()
    first = copy.deepcopy(optimizer.state_dict())
    before = {name: optimizer.state[p][name].double() for name in STREAMS}
    p.grad = torch.zeros_like(p)
    for storage, expected in (("8bit", torch.uint8), ("bfloat16", torch.bfloat16), ("float32", None), ("8bit", None)):
        optimizer.param_groups[0].update(state_dtype=storage, lr=0.0)
        for _ in range(2):
            optimizer.step()
        held = optimizer.state[p]
        assert ("velocity_0_scale" in held) == (storage == "8bit")
        if expected is not None:
            assert held["velocity_0"].dtype == held["second_moment"].dtype == expected
        if storage == "float32":
            assert held["velocity_0"].dtype == held["second_moment"].dtype == torch.promote_types(dtype, torch.float32)
    exact = before["second_moment"] * 0.999**8
    assert float((value_of(held, "second_moment") / exact - 1).abs().mean()) < 0.05
    other = create("adamw", [p], 1e-3, state_dtype="8bit")
    other.load_state_dict(first)
    assert other.param_groups[0]["state_dtype"] is None
    assert other.state[p]["second_moment"].dtype == first["state"][0]["second_moment"].dtype


def test_velocities_of_float16_parameters_return_to_their_dtype() -> None:
    """float16 has three bits more than bfloat16 in as many bytes."""
    p = torch.ones(64, 64, dtype=torch.float16, requires_grad=True)
    optimizer = create("nesterov", [p], 1e-3, state_dtype="bfloat16")
    for state_dtype, expected in (("bfloat16", torch.bfloat16), (None, torch.float16)):
        optimizer.param_groups[0]["state_dtype"] = state_dtype
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.state[p]["velocity_0"].dtype == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("preset", ["adamw", "schedule-free-adamw", "soap", "sabun"])
def test_a_model_may_change_its_dtype_in_training(preset: str, dtype: torch.dtype) -> None:
    """``model.to(dtype)`` leaves the parameters in their places. Back again, little more than rounding is left."""

    def trained(*dtypes: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
        model = nn.Linear(64, 80, bias=False)
        model.weight.data = torch.randn(80, 64, generator=torch.Generator().manual_seed(0))
        optimizer = create(preset, [("layers.0.weight", model.weight)], 1e-3)
        for step, kind in enumerate(dtypes):
            model.to(kind)
            model.weight.grad = torch.randn(80, 64, generator=torch.Generator().manual_seed(step)).to(kind)
            optimizer.step()
        return model.weight.detach(), optimizer.state[model.weight]

    two = (torch.float32,) * 2
    weight, held = trained(*two, dtype, dtype, *two)
    torch.testing.assert_close(weight, trained(*two * 3)[0], rtol=0.02, atol=2e-3)
    assert {tensor.dtype for tensor in held.values()} == {torch.float32}


@pytest.mark.parametrize("storage", [None, "bfloat16", "8bit"])
@pytest.mark.parametrize(
    ("scheme", "former", "later"),
    [
        ("heavy-ball", "adam", "kronecker"),
        ("heavy-ball", "kronecker", "adam"),
        ("euler", "adam", "kronecker"),
        ("heavy-ball", "adam", "spectral(row_normalization=True)"),
    ],
)
def test_a_preconditioner_begins_anew_after_another(scheme: str, former: str, later: str, storage: str | None) -> None:
    """Two of them name a second moment, one of the entries and one in other bases, which has no blocks."""
    draw = torch.Generator().manual_seed(0)
    p = torch.randn(64, 80, generator=draw).requires_grad_()
    optimizer = sabun.Optimizer([p], 1e-3, scheme=scheme, preconditioner=former, state_dtype=storage)
    for _ in range(3):
        p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()
    twin = p.detach().clone().requires_grad_()
    fresh = sabun.Optimizer([twin], 1e-3, scheme=scheme, preconditioner=later, state_dtype=storage)
    optimizer.param_groups[0]["preconditioner"] = later
    for _ in range(3):
        p.grad = twin.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()
        fresh.step()
        assert torch.equal(p, twin)
    assert optimizer.state[p].keys() - {"step"} == fresh.state[twin].keys() - {"step"}


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
@pytest.mark.parametrize("preset", ["adamw", "sabun", "taylor-4"])
def test_pieces_change_nothing(preset: str, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator and on a CPU parameters are stepped in pieces, which are cut between rows for blocks."""
    nearest(monkeypatch)
    found = []
    for bound in (None, 700):
        monkeypatch.setattr(update, "bound_on", lambda device, bound=bound: bound)
        params = [
            torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
            for shape in ((40, 300), (1, 5000), (3, 2000), (7,))
        ]
        named = [(f"layers.{i}.weight", p) for i, p in enumerate(params)]
        exact = {"preconditioner": "spectral(dtype='float32')"} if preset == "sabun" else {}  # bfloat16 on a GPU
        optimizer = create(preset, named, 0.01, state_dtype=storage, fused=None, **exact)
        for step in range(4):
            for p in params:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        found.append(params)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 if preset == "sabun" else 0)


# ---------------------------------------------------------------------- refusals


def test_what_does_not_work_is_refused() -> None:
    p = torch.ones(64, 64, requires_grad=True)
    with pytest.raises(OptionError, match="'bfloat16' or '8bit'"):
        sabun.Optimizer([p], 0.1, state_dtype="int8")
    for storage in ("bfloat16", "8bit"):
        with pytest.raises(OptionError, match="fused='auto'"):
            sabun.Optimizer([p], 0.1, state_dtype=storage, fused="inductor")
        with pytest.raises(OptionError, match="capturable"):
            sabun.Optimizer([p], 0.1, state_dtype=storage, capturable=True)
    with pytest.raises(OptionError, match="step_control"):
        sabun.Optimizer([p], 0.1, state_dtype="8bit", step_control="stability")


def test_a_checkpoint_with_other_blocks_is_refused() -> None:
    p = torch.ones(64, 300, requires_grad=True)
    optimizer = create("adamw", [p], state_dtype="8bit")
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["velocity_0_scale"] = torch.ones(64, 1)
    with pytest.raises(StateError, match=r"velocity_0_scale .* has shape \(64, 1\)"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("given", "edit", "said"),
    [
        ({}, {"state_dtype": "8bits"}, "'bfloat16' or '8bit'"),
        ({"state_dtype": "8bit"}, {"fused": "inductor"}, "fused='auto'"),
        ({"capturable": True}, {"state_dtype": "bfloat16"}, "capturable"),
        ({}, {"foreach": "no"}, "foreach"),
    ],
)
def test_an_edit_of_a_group_is_checked_as_an_argument(given: dict[str, Any], edit: dict[str, Any], said: str) -> None:
    p = torch.ones(64, 64, requires_grad=True)
    optimizer = create("adamw", [p], 0.1, **given)
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = p.detach().clone()
    held = optimizer.state[p]["velocity_0"].clone()
    optimizer.param_groups[0].update(edit)
    with pytest.raises(OptionError, match=said):
        optimizer.step()
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["velocity_0"], held)


@pytest.mark.parametrize("scale", [None, torch.ones(64, 2, dtype=torch.float16)], ids=["missing", "float16"])
def test_a_checkpoint_in_8_bits_without_its_scales_is_refused(scale: Tensor | None) -> None:
    """Its codes would be taken for values."""
    p = torch.ones(64, 300, requires_grad=True)
    optimizer = create("adamw", [p], state_dtype="8bit")
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0].pop("velocity_0_scale")
    if scale is not None:
        state["state"][0]["velocity_0_scale"] = scale
    with pytest.raises(StateError, match=r"velocity_0 .* without the scales"):
        optimizer.load_state_dict(state)
