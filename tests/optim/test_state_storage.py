"""State in bfloat16 and in 8 bits, against plain formulas in float64 with the rounding simulated by NumPy."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import sabun
from sabun.errors import OptionError, StateError
from sabun.optim import create, state_storage, update
from sabun.optim.state_storage import decode, encode, scale_shape, store

Array = NDArray[np.float64]


def levels(*, signed: bool) -> Array:
    """The table, decade by decade: midpoints of equal intervals, halved in number from one to the next smaller."""
    positive = [1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1.0, 2 ** ((6 if signed else 7) - decade) + 1) * 10.0**-decade
        positive.extend((edges[1:] + edges[:-1]) / 2)
    if not signed:
        return np.sort(positive)
    negative = np.sort([-x for x in positive])[:-1]
    return np.sort([*positive, 0.0, *negative])


def blocks_of(x: Array) -> Array:
    rows = x.reshape(len(x), -1)
    number = max(1, math.ceil(rows.shape[1] / 256))
    length = math.ceil(rows.shape[1] / number)
    padded = np.zeros((len(rows), number * length))
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(len(rows), number, length)


def neighbours(x: Array, *, signed: bool) -> tuple[Array, Array]:
    """The next levels below and above every entry, in its own units; equal at the ends of the table."""
    blocks, table = blocks_of(x), levels(signed=signed)
    at = np.abs(blocks).argmax(-1, keepdims=True)
    scale = np.take_along_axis(blocks, at, -1)
    relative = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0)
    clipped = np.clip(relative, table[0], table[-1])
    above = np.searchsorted(table, clipped, side="left")
    below = np.searchsorted(table, clipped, side="right") - 1
    ends = []
    for index in (below, above):
        flat = (table[index] * scale).reshape(len(x), -1)[:, : x[0].size]
        ends.append(flat.reshape(x.shape))
    return np.minimum(*ends), np.maximum(*ends)


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
        np.testing.assert_allclose(table.double().numpy(), levels(signed=signed), rtol=1e-7)
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
    x = tensor.double().numpy()
    below, above = neighbours(x, signed=signed)
    largest = np.abs(blocks_of(x)).max(-1, keepdims=True, initial=0)
    # Rounding of float32: of the quotient, which may choose the next level, and of the product.
    slack = np.broadcast_to(2e-6 * largest + 2e-45, blocks_of(x).shape).reshape(rows, -1)
    slack = slack[:, : x[0].size].reshape(shape)
    for noise in ({}, {"stream": 1, "step": seed, "places": [3], "piece": 0}):
        found = kept(tensor, signed=signed, **noise).double().numpy()
        near = np.minimum(np.abs(found - below), np.abs(found - above))
        assert (near <= slack + 1e-6 * np.abs(found)).all()
        assert np.isfinite(found).all()
        if signed:
            assert (found[x == 0] == 0).all()
        else:
            assert (found >= 0).all()
        assert (found[blocks_of_max(x)] == x[blocks_of_max(x)]).all()


def blocks_of_max(x: Array) -> NDArray[np.bool_]:
    """Where an entry is the largest of its block, which is stored exactly."""
    blocks = blocks_of(x)
    mask = (np.abs(blocks) == np.abs(blocks).max(-1, keepdims=True, initial=0)).reshape(len(x), -1)
    return mask[:, : x[0].size].reshape(x.shape)
