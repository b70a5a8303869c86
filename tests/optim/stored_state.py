"""State in 8 bits against plain formulas in float64: the table, the blocks, and what a compiled step stores.

A compiled step draws numbers of its own. So what it stores is held against the two neighbouring levels of what the
foreach step gives with float32 state, and against the probabilities of the two.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sabun import Optimizer, create
from sabun.optim.state_storage import decode

Array = NDArray[np.float64]

# Of one block and of several, of whole ones and of a last one that is padded; of rows with more dimensions.
SHAPES = ((64, 64), (17, 257), (9, 3, 172), (16, 256), (200, 24))


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


def largest_of(x: Array) -> Array:
    """The entry of largest modulus of each block, with its sign."""
    blocks = blocks_of(x)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)


def neighbours(x: Array, *, signed: bool, scale: Array | None = None) -> tuple[Array, Array]:
    """The next levels below and above every entry, in its own units; equal at the ends of the table."""
    blocks, table = blocks_of(x), levels(signed=signed)
    scale = largest_of(x) if scale is None else scale
    relative = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0)
    clipped = np.clip(relative, table[0], table[-1])
    above = np.searchsorted(table, clipped, side="left")
    below = np.searchsorted(table, clipped, side="right") - 1
    ends = []
    for index in (below, above):
        flat = (table[index] * scale).reshape(len(x), -1)[:, : x[0].size]
        ends.append(flat.reshape(x.shape))
    return np.minimum(*ends), np.maximum(*ends)


def blocks_of_max(x: Array) -> NDArray[np.bool_]:
    """Where an entry is the largest of its block, which is stored exactly."""
    blocks = blocks_of(x)
    mask = (np.abs(blocks) == np.abs(blocks).max(-1, keepdims=True, initial=0)).reshape(len(x), -1)
    return mask[:, : x[0].size].reshape(x.shape)


def are_neighbours(found: Array, x: Array, *, signed: bool, scale: Array | None = None) -> None:
    """Each of ``found`` is next to what ``x`` is among the levels of its block, whose scale may be given."""
    scale = largest_of(x) if scale is None else scale
    below, above = neighbours(x, signed=signed, scale=scale)
    # Rounding of float32: of the quotient, which may choose the next level, and of the product.
    slack = np.broadcast_to(2e-6 * np.abs(scale) + 2e-45, blocks_of(x).shape).reshape(len(x), -1)
    slack = slack[:, : x[0].size].reshape(x.shape)
    near = np.minimum(np.abs(found - below), np.abs(found - above))
    assert (near <= slack + 1e-6 * np.abs(found)).all()
    assert np.isfinite(found).all()
    if signed:
        assert (found[x == 0] == 0).all()
    else:
        assert (found >= 0).all()
    assert (found[blocks_of_max(x)] == x[blocks_of_max(x)]).all()


def value_of(held: Mapping[str, Tensor], name: str) -> Tensor:
    scale = held.get(f"{name}_scale")
    if scale is None:
        return held[name].float()
    return decode(held[name], scale, torch.float32, signed=name != "second_moment")


# ---------------------------------------------------------------------- what compiled steps have in common


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in SHAPES]


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    """Of sizes over several decades."""
    draw = torch.Generator().manual_seed(seed)
    for p in params:
        given = torch.randn(p.shape, generator=draw) * 10 ** (3 * torch.randn(p.shape, generator=draw))
        p.grad = given.to(p.dtype)


def stores_neighbours(fused: str, preset: str, dtype: torch.dtype = torch.float32, **options: Any) -> None:
    """Three steps; before each both go on from the numbers that the compiled one has stored.

    Scales are those of the float32 result to its last digits: the two steps round it differently.
    """
    ours, twins = parameters(dtype=dtype), parameters(dtype=dtype)
    optimizer = create(preset, ours, 0.05, state_dtype="8bit", fused=fused, **options)
    foreach = create(preset, twins, 0.05, state_dtype="float32", fused=None, **options)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(twins, step)
        optimizer.step()
        foreach.step()
        for p, q in zip(ours, twins, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-6)
            q.data.copy_(p.data)
            held = optimizer.state[p]
            for name in ("velocity_0", "second_moment"):
                if name not in held:
                    continue
                expected, found = foreach.state[q][name].double().numpy(), value_of(held, name)
                assert held[name].dtype == torch.uint8
                scale = held[f"{name}_scale"].double().numpy()[..., None]
                largest = np.copysign(largest_of(expected), scale)  # of two entries of one modulus it may be either
                np.testing.assert_allclose(scale, largest, rtol=1e-6)
                assert (np.abs(blocks_of(expected) - scale).min(-1, keepdims=True) <= 1e-6 * np.abs(largest)).all()
                below, above = neighbours(expected, signed=name != "second_moment", scale=largest)
                slack = np.broadcast_to(2e-6 * np.abs(largest), blocks_of(expected).shape).reshape(len(expected), -1)
                slack = slack[:, : expected[0].size].reshape(expected.shape)
                near = np.minimum(np.abs(found.numpy() - below), np.abs(found.numpy() - above))
                assert (near <= slack).all()
                assert name != "second_moment" or bool((found > 0).all())
                foreach.state[q][name].copy_(found)
    assert optimizer.compile_s > 0


def is_unbiased(fused: str, dtype: torch.dtype = torch.float32) -> None:
    """Rows of the same numbers: of n rows the share that is rounded up has the standard error √(s(1 − s)/n).

    The bounds are five standard errors of what is compared: of the mean over all entries, and of the sum of squares
    of the 256 standardised shares. Parameters, steps and columns of the state draw independently of one another.
    """
    n = 300
    row = torch.randn(256, generator=torch.Generator().manual_seed(0)).to(dtype)
    ups = []
    for _ in range(2):
        params = [nn.Parameter(torch.zeros(n, 256, dtype=dtype)) for _ in range(2)]
        optimizer = Optimizer(params, 0.1, scheme="heavy-ball", preconditioner="adam(beta2=0.9)", momentum=0.5,
                              state_dtype="8bit", fused=fused)  # fmt: skip
        for p in params:
            p.grad = row.expand(n, 256).clone()
        for _ in range(2):
            optimizer.step()
            for p in params:
                held = optimizer.state[p]
                for name, exact in (("velocity_0", 0.5 * row), ("second_moment", 0.1 * row**2)):
                    below, above = neighbours(exact[None].double().numpy(), signed=name == "velocity_0")
                    gap = above - below
                    inner = gap[0] > 0
                    share = ((exact.double().numpy() - below) / np.where(gap, gap, 1))[0][inner]
                    found = value_of(held, name).double().numpy()[:, inner]
                    marks = found > (below + above)[0][inner] / 2
                    spread = share * (1 - share)
                    assert abs((marks - share).sum()) < 5 * math.sqrt(n * spread.sum())
                    squares = ((marks.sum(0) - n * share) ** 2 / np.maximum(n * spread, 0.5)).sum()
                    assert squares < inner.sum() + 5 * math.sqrt(2 * inner.sum())
                    centred = ((marks - share) / np.sqrt(np.maximum(spread, 1e-3)))[:, :200].ravel()
                    ups.append(centred)
                for key in ("velocity_0", "second_moment"):  # the second step stores the same numbers as the first
                    held[key].zero_()
                    held[f"{key}_scale"].zero_()
        assert optimizer.compile_s > 0
    half = len(ups) // 2
    for i, a in enumerate(ups[:half]):
        assert np.array_equal(a, ups[half + i])  # a second run draws as the first
        for b in ups[:i]:
            assert abs(float(np.corrcoef(a, b)[0, 1])) < 5 / math.sqrt(len(a))


def rounds_to_bfloat16(fused: str, dtype: torch.dtype = torch.float32) -> None:
    """What is stored is one of the two neighbours of what float32 gives, and right on average."""
    start = torch.linspace(-2, 2, 64 * 80).view(64, 80).to(dtype)
    p, wide = nn.Parameter(start.clone()), nn.Parameter(start.float())
    p.grad = torch.linspace(1, 3, 64 * 80).view(64, 80).flip(0).to(dtype)
    wide.grad = p.grad.float()
    optimizer = create("adamw", [p], 0.05, state_dtype="bfloat16", fused=fused)
    exact = create("adamw", [wide], 0.05)
    optimizer.step()
    exact.step()
    assert optimizer.compile_s > 0
    steps = {}
    for name in ("velocity_0", "second_moment"):
        found, expected = optimizer.state[p][name], exact.state[wide][name]
        assert found.dtype == torch.bfloat16
        spacing = 2.0 ** (expected.abs().log2().floor() - 7)
        steps[name] = (found.float() - expected) / spacing
        assert float(steps[name].abs().max()) < 1.001
        assert abs(float(steps[name].mean())) < 0.03  # of a standard deviation of at most 0.5/√5120 = 0.007
        assert float(steps[name].abs().mean()) > 0.1
    assert abs(float(torch.corrcoef(torch.stack([s.flatten() for s in steps.values()]))[0, 1])) < 0.1
    torch.testing.assert_close(
        p.float(), wide.to(dtype).float(), rtol=1e-6 if dtype == torch.float32 else 0.01, atol=1e-6
    )


def spoils_a_block(fused: str) -> None:
    """An entry that is not finite makes its block so, and leaves the others as they are."""
    for bad in (math.inf, -math.inf, math.nan):
        found = []
        for given in (None, bad):
            p = nn.Parameter(torch.ones(16, 515))
            optimizer = create("adamw", [p], 0.05, state_dtype="8bit", fused=fused)
            draw = torch.Generator().manual_seed(0)
            p.grad = torch.randn(p.shape, generator=draw)
            if given is not None:
                p.grad[3, 200] = p.grad[7, 514] = given
            optimizer.step()
            assert optimizer.compile_s > 0
            found.append(
                (p.detach(), *(value_of(optimizer.state[p], name) for name in ("velocity_0", "second_moment")))
            )
        spoilt = torch.zeros(16, 515, dtype=torch.bool)
        spoilt[3, 172:344] = spoilt[7, 344:] = True
        for good, other in zip(found[0][1:], found[1][1:], strict=True):
            assert not bool(other[spoilt].isfinite().any())
            assert torch.equal(other[~spoilt], good[~spoilt])
        entry = torch.zeros_like(spoilt)
        entry[3, 200] = entry[7, 514] = True
        assert torch.equal(found[0][0][~entry], found[1][0][~entry])


def zeros_stay(fused: str) -> None:
    """Blocks without a gradient, and with zeros among others; the smallest numbers of float32."""
    p, twin = (nn.Parameter(torch.ones(16, 256)) for _ in range(2))
    optimizer = create("adamw", [p], 0.05, state_dtype="8bit", fused=fused)
    foreach = create("adamw", [twin], 0.05)
    for own, other in ((p, optimizer), (twin, foreach)):
        own.grad = torch.zeros(16, 256)
        own.grad[1, ::3] = -0.0
        own.grad[2, ::5] = 1.0
        own.grad[3] = 1e-38
        own.grad[4] = 1e-44
        other.step()
    assert optimizer.compile_s > 0
    torch.testing.assert_close(p, twin)
    for name in ("velocity_0", "second_moment"):
        found = value_of(optimizer.state[p], name)
        assert bool(found.isfinite().all())
        assert bool((found[[0, 1]] == 0).all())
        if name == "velocity_0":
            assert torch.equal(found[2], foreach.state[twin][name][2])
        else:
            assert bool((found[2] > 0).all())


def moves_between(fused: str, storage: str) -> None:
    """A checkpoint goes from the compiled step to foreach and back; resumed, it goes on to the bit."""

    def trained(kinds: list[Any], steps: list[int], saved: Any = None) -> tuple[list[nn.Parameter], Any, Any]:
        params = parameters()
        optimizer = create("adamw", params, 0.01, state_dtype=storage, fused=kinds[0])
        done = 0
        for kind, number in zip(kinds, steps, strict=True):
            if done:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = create("adamw", params, 0.01, state_dtype=storage, fused=kind)
                optimizer.load_state_dict(saved)
                for group in optimizer.param_groups:
                    group["fused"] = kind
            for _ in range(number):
                done += 1
                give_gradients(params, done)
                optimizer.step()
                assert (optimizer.compile_s > 0) is (kind is not None)
        return params, optimizer, saved

    straight, optimizer, _ = trained([fused], [3])
    resumed, other, _ = trained([fused, fused], [2, 1])
    for a, b in zip(straight, resumed, strict=True):
        assert torch.equal(a, b)
        for name, value in optimizer.state[a].items():
            assert torch.equal(value, other.state[b][name])
    mixed, _, _ = trained([fused, None, fused], [1, 1, 1])
    for a, b in zip(straight, mixed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)
