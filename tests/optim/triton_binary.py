"""The Triton kernels compiled for an H100, without one, and what they read and write there by their PTX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from sabun import schemes
from sabun.optim import PRECONDITIONERS
from sabun.optim.averaging import AVERAGING
from sabun.optim.compiled import formula
from sabun.optim.compiled.triton_elementwise import BLOCK, WARPS, TritonTable, make, source
from sabun.optim.filters import realize
from sabun.optim.preconditioners.symmetric_products import SOURCE, launch_of
from sabun.optim.triton_source import kernel

__all__ = ["RULES", "U8", "WIDTH", "accesses", "moved", "of_a_step", "parts", "ptx", "symmetric_product_ptx"]

F32, BF16, F64, U8 = torch.float32, torch.bfloat16, torch.float64, torch.uint8
WIDTH = 256  # entries of a block in 8 bits
PLAIN: dict[str, Any] = {"maximize": False, "weight_decay": 0.0, "decoupled": True}
# (scheme, preconditioner, group, dtypes of p, state, scales and g, those at random); the average by the same name
RULES: dict[str, tuple[str, str, dict[str, Any], Sequence[torch.dtype], Sequence[int]]] = {
    "nesterov": ("nesterov", "none", PLAIN, (F32, F32, F32), ()),
    "adamw": ("heavy-ball", "adam", PLAIN, (F32, F32, F32, F32), ()),
    "lion": ("lion", "sign", PLAIN, (BF16, BF16, BF16), ()),
    "bfloat16": ("heavy-ball", "adam", PLAIN, (BF16, F32, F32, BF16), ()),
    "at random": ("nesterov", "adam", PLAIN, (BF16, F32, F32, BF16), (0,)),
    "schedule-free": ("euler", "adam", PLAIN, (BF16, F32, F32, BF16), (0,)),
    "ema": ("nesterov", "none", PLAIN, (F32, F32, F32, F32), ()),
    "float64": ("taylor-4", "adam", {**PLAIN, "maximize": True}, (F64,) * 5, ()),
    "state at random": ("heavy-ball", "adam", PLAIN, (F32, BF16, BF16, F32), (1, 2)),
    "8 bits": ("heavy-ball", "adam", PLAIN, (F32, U8, U8, F32, F32, F32), (1, 2)),
    "8 bits, nesterov": ("nesterov", "none", PLAIN, (BF16, U8, F32, BF16), (0, 1)),
    "8 bits, schedule-free": ("euler", "adam", PLAIN, (BF16, U8, F32, F32, BF16), (1,)),
    "8 bits, float64": ("taylor-4", "adam", PLAIN, (F64, U8, U8, U8, F32, F32, F32, F64), (1, 2, 3)),
}


@lru_cache
def ptx(name: str, *, aligned: bool = True) -> str:
    """The PTX of a rule; the binary is built, too."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    scheme, preconditioner, group, dtypes, at_random = RULES[name]
    average = name.split(", ")[-1]
    averaging = AVERAGING.make(average) if average in AVERAGING else None
    filter_ = realize(schemes.get(scheme), None, "rest")
    rule = formula.rule_of(filter_, PRECONDITIONERS.make(preconditioner), group, averaging)
    real = "*fp64" if F64 in dtypes else "*fp32"
    coded = U8 in dtypes
    constants = {"BLOCK": BLOCK, "ALIGNED": aligned, **({"BLOCK": BLOCK // WIDTH, "WIDTH": WIDTH} if coded else {})}
    types = {"addresses": "*i64", "plan": "*i64", "numbers": real, **({"levels": "*fp32"} if coded else {})}
    kernel = ASTSource(
        make(source(rule, dtypes, at_random=at_random)),
        {**types, "tensors": "i32", "chunk": "i32", **dict.fromkeys(constants, "constexpr")},
        constants,
    )
    options = {"num_warps": WARPS, "enable_fp_fusion": True}
    compiled = compile(kernel, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"][:4] == b"\x7fELF"
    text: str = compiled.asm["ptx"]
    return text


def symmetric_product_ptx(dtype: torch.dtype) -> str:
    """The PTX of the kernel for contiguous matrices of 768 × 3072; the binary is built, too."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    made = kernel(SOURCE)
    launch = launch_of(768, dtype)
    options = {name: launch.pop(name) for name in ("num_warps", "num_stages")} | {"enable_fp_fusion": True}
    # As a launch has it: a number that is 1 is a constant, and the others are multiples of 16.
    constants = {**launch, "ADDED": True, "x_column": 1, "y_column": 1, "plus_column": 1, "out_column": 1}
    matrices = dict.fromkeys(("x", "y", "plus", "out"), "*bf16" if dtype == BF16 else "*fp16")
    kinds = matrices | dict.fromkeys(("alpha", "beta", "shift"), "fp32") | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "i32") for name in made.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(made.arg_names)
        if signature[name] not in ("constexpr", "fp32") and name not in ("blocks", "programs")
    }
    compiled = compile(
        ASTSource(made, signature, constants, aligned), target=GPUTarget("cuda", 90, 32), options=options
    )
    assert compiled.asm["cubin"][:4] == b"\x7fELF"
    text: str = compiled.asm["ptx"]
    return text


ACCESS = re.compile(r"^\s*(@%p\d+ )?(ld|st)\.global(?:\.v(\d))?\.[bfus](\d+)")


def accesses(lines: Sequence[str]) -> dict[str, list[int]]:
    """Bytes of every access of a thread to global memory, by "ld" and "st"."""
    found: dict[str, list[int]] = {"ld": [], "st": []}
    for line in lines:
        assert "atom." not in line
        assert "local" not in line  # registers do not suffice
        if (match := ACCESS.match(line)) is not None:
            found[match[2]].append(int(match[3] or 1) * int(match[4]) // 8)
    return found


def parts(text: str) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """The accesses of a program before its loop, in the loop over whole blocks, and after it.

    In 8 bits all blocks are in the loop.
    """
    lines = text.splitlines()
    labels = {line.split(":")[0]: n for n, line in enumerate(lines) if line.startswith("$L__BB")}
    loops = [
        (labels[target], n)
        for n, line in enumerate(lines)
        if "bra" in line and (target := line.rstrip(" ;\t").split()[-1]) in labels and labels[target] < n
    ]
    ((first, last),) = loops
    return accesses(lines[:first]), accesses(lines[first:last]), accesses(lines[last:])


def moved(found: dict[str, list[int]], scales: int = 0) -> tuple[float, float]:
    """Bytes that the accesses of one pass read and write, for an entry.

    The scales of a pass in 8 bits are four numbers side by side, which every warp reads, in accesses of 4 bytes of a
    thread. They count 32 bytes for each warp, the least that a device fetches.
    """
    totals = []
    for kind in ("ld", "st"):
        sizes = [*found[kind]]
        for _ in range(scales):
            sizes.remove(4)
        totals.append((sum(sizes) * 32 + 32 * scales) * WARPS / BLOCK)
    return totals[0], totals[1]


def of_a_step(name: str, shapes: Sequence[Sequence[int]]) -> float:
    """Bytes that a launch over tensors of these shapes reads and writes.

    What a program reads before its loop (pointers, plan, rates) counts 32 bytes, the least that a device fetches, for
    each load and warp; with 8 bits it reads two tables of levels, too. Plan and addresses are sent anew.
    """
    head, loop, _ = parts(ptx(name))
    dtypes = RULES[name][3]
    scales = dtypes.count(U8)
    table = TritonTable(
        params=[], pointers=[], lengths=[math.prod(shape) for shape in shapes], shapes=[torch.Size(s) for s in shapes],
        strides=[], dtypes=(), contiguous=True, columns=[math.prod(s[1:]) for s in shapes] if scales else [],
    )  # fmt: skip
    planned = len(table.schedule()) + (len(dtypes) + 2 + bool(scales)) * len(shapes)
    assert head["st"] == []
    before = table.programs * (len(head["ld"]) * WARPS * 32 + bool(scales) * 2 * 4 * 256)
    return sum(table.lengths) * sum(moved(loop, scales)) + before + 2 * 8 * planned
