"""State in bfloat16 and in 8 bits, loaded and stored by the step in C. That in Triton: ``triton_interpreted.py``."""

from __future__ import annotations

import numpy as np
import pytest
import stored_state
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sabun import Optimizer, create

pytestmark = pytest.mark.cpu_only("the step in C")


@settings(max_examples=40, deadline=None)
@given(
    columns=st.integers(16, 800),
    more=st.integers(0, 3),
    low=st.integers(-44, 36),
    spread=st.integers(0, 40),
    seed=st.integers(0, 2**20),
)
def test_every_entry_is_rounded_to_a_neighbour(columns: int, more: int, low: int, spread: int, seed: int) -> None:
    """Any shape and any magnitude, as the function that encodes. The velocity is half the first gradient, exactly."""
    draw = np.random.default_rng(seed)
    shape = (-(-4096 // columns) + more, columns)
    x = 10.0 ** np.minimum(low + spread * draw.random(shape), 37) * draw.choice([-1, 0, 1], shape)
    p = nn.Parameter(torch.zeros(shape))
    p.grad = 2 * torch.tensor(x, dtype=torch.float32)
    optimizer = Optimizer([p], 1e-3, scheme="heavy-ball", momentum=0.5, state_dtype="8bit", fused=True)
    optimizer.step()
    assert optimizer.compile_s > 0
    exact, found = (p.grad / 2).double().numpy(), stored_state.value_of(optimizer.state[p], "velocity_0")
    scale = optimizer.state[p]["velocity_0_scale"].double().numpy()[..., None]  # of two of one modulus it may be either
    assert (np.abs(scale) == np.abs(stored_state.largest_of(exact))).all()
    stored_state.are_neighbours(found.double().numpy(), exact, signed=True, scale=scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("preset", ["adamw", "nesterov", "schedule-free-adamw"])
def test_steps_store_neighbouring_levels(preset: str, dtype: torch.dtype) -> None:
    stored_state.stores_neighbours("native", preset, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_8_bits_are_rounded_without_bias(dtype: torch.dtype) -> None:
    stored_state.is_unbiased("native", dtype)


def test_bfloat16_is_rounded_without_bias() -> None:
    """Each entry to a neighbour, right on average over entries whose remainders are of any size."""
    stored_state.rounds_to_bfloat16("native")


def test_an_entry_that_is_not_finite_spoils_its_block() -> None:
    stored_state.spoils_a_block("native")


def test_zeros_stay_zeros() -> None:
    stored_state.zeros_stay("native")


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_checkpoints_move_between_c_and_foreach(storage: str) -> None:
    stored_state.moves_between("native", storage)


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_threads_change_nothing(storage: str) -> None:
    """A block is not divided, and an entry has the same noise on any thread."""
    found = []
    threads = torch.get_num_threads()
    for number in (1, 3):
        torch.set_num_threads(number)
        params = [torch.ones(shape, requires_grad=True) for shape in ((40, 1030), (300, 250))]
        optimizer = create("adamw", params, 0.05, state_dtype=storage, fused=True)
        for step in range(2):
            stored_state.give_gradients(params, step)
            optimizer.step()
        assert optimizer.compile_s > 0
        found.append([t for p in params for t in (p, *optimizer.state[p].values())])
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_c_cannot_take_is_the_foreach_step() -> None:
    """Blocks of another memory order, and bfloat16 parameters that are rounded at random themselves."""
    for p, options in (
        (torch.ones(64, 80).t(), {}),
        (torch.ones(64, 80, dtype=torch.bfloat16), {"stochastic_rounding": True}),
    ):
        p.requires_grad_().grad = torch.ones_like(p)
        optimizer = create("adamw", [p], 0.05, state_dtype="8bit", fused=True, **options)
        optimizer.step()
        assert optimizer.compile_s == 0
        assert optimizer.state[p]["velocity_0"].dtype == torch.uint8
