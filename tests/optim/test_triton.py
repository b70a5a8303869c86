"""The Triton kernels: equal to foreach in Triton's interpreter, and compiled for an H100 without one.

What a compiled kernel reads and writes is counted in its PTX. No time is measured: that needs the device.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerator import entries, gpt2_small
from torch import nn

from sabun import Optimizer, schemes
from sabun.errors import SabunWarning
from sabun.optim import PRECONDITIONERS
from sabun.optim.averaging import AVERAGING
from sabun.optim.compiled import formula, triton_elementwise
from sabun.optim.compiled.triton_elementwise import BLOCK, WARPS, make, source
from sabun.optim.filters import realize

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
# (scheme, preconditioner, group, dtypes of p, state and g, those at random); the average by the same name
PLAIN: dict[str, Any] = {"maximize": False, "weight_decay": 0.0, "decoupled": True}
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
}


@needs_triton
def test_in_the_interpreter() -> None:
    """All tests of ``triton_interpreted.py``: the interpreter is chosen for a process, when Triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\b\d\d passed", done.stdout)


# ---------------------------------------------------------------------- compiled for compute capability 9.0


@lru_cache
def ptx(name: str, *, aligned: bool = True) -> str:
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    scheme, preconditioner, group, dtypes, at_random = RULES[name]
    averaging = AVERAGING.make(name) if name in AVERAGING else None
    filter_ = realize(schemes.get(scheme), None, "rest")
    rule = formula.rule_of(filter_, PRECONDITIONERS.make(preconditioner), group, averaging)
    real = "*fp64" if F64 in dtypes else "*fp32"
    kernel = ASTSource(
        make(source(rule, dtypes, at_random=at_random)),
        {
            "addresses": "*i64",
            "plan": "*i64",
            "numbers": real,
            "tensors": "i32",
            "chunk": "i32",
            "BLOCK": "constexpr",
            "ALIGNED": "constexpr",
        },
        {"BLOCK": BLOCK, "ALIGNED": aligned},
    )
    options = {"num_warps": WARPS, "enable_fp_fusion": True}
    compiled = compile(kernel, target=GPUTarget("cuda", 90, 32), options=options)
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
    """The accesses of a program before its loop, in the loop over whole blocks, and after it."""
    lines = text.splitlines()
    labels = {line.split(":")[0]: n for n, line in enumerate(lines) if line.startswith("$L__BB")}
    loops = [
        (labels[target], n)
        for n, line in enumerate(lines)
        if "bra" in line and (target := line.rstrip(" ;\t").split()[-1]) in labels and labels[target] < n
    ]
    ((first, last),) = loops
    return accesses(lines[:first]), accesses(lines[first:last]), accesses(lines[last:])


def expected(dtypes: Sequence[torch.dtype]) -> tuple[int, int]:
    """Bytes of an entry that must be read and written: each operand once, and all but the gradient."""
    sizes = [dtype.itemsize for dtype in dtypes]
    return sum(sizes), sum(sizes[:-1])


@needs_triton
@pytest.mark.parametrize("name", RULES)
def test_each_operand_is_read_once_and_written_once(name: str) -> None:
    """In the loop over whole blocks as in the part for the last entries; whole blocks in accesses of 8 or 16 bytes."""
    _, loop, last = parts(ptx(name))
    dtypes = RULES[name][3]
    for part in (loop, last):
        read, written = (sum(part[kind]) * WARPS * 32 / BLOCK for kind in ("ld", "st"))
        assert (read, written) == expected(dtypes)
    assert {*loop["ld"], *loop["st"]} == {16}


@needs_triton
def test_addresses_that_are_not_aligned_are_read_as_they_are() -> None:
    _, loop, _ = parts(ptx("adamw", aligned=False))
    assert {*loop["ld"], *loop["st"]} == {4}
    assert sum(loop["ld"]) * WARPS * 32 / BLOCK == 16


@needs_triton
@pytest.mark.parametrize(("name", "torch_fused"), [("adamw", 7), ("nesterov", 6)])
def test_bytes_of_a_step_of_gpt2_small(name: str, torch_fused: int) -> None:
    """At most 1.05 of torch's fused step, by the kernel's own loads and stores.

    torch's fused AdamW reads p, g, m, v and writes p, m, v; its fused SGD with momentum reads p, g, m and writes
    p, g, m. What a program reads before its loop (pointers, plan, rates) counts 32 bytes, the least that a device
    fetches, for each load and warp; the plan and the addresses are sent anew.
    """
    n = entries(gpt2_small())
    head, loop, _ = parts(ptx(name))
    of_an_entry = (sum(loop["ld"]) + sum(loop["st"])) * WARPS * 32 / BLOCK
    table = triton_elementwise.TritonTable(
        params=[], pointers=[], lengths=[math.prod(shape) for _, shape in gpt2_small()], shapes=[], strides=[],
        dtypes=(), contiguous=True,
    )  # fmt: skip
    planned = table.schedule()
    moved = n * of_an_entry + table.programs * len(head["ld"]) * WARPS * 32 + 2 * 8 * (len(planned) + 6 * 148)
    assert head["st"] == []
    assert moved / (4 * torch_fused * n) <= 1.05
    assert moved / (4 * torch_fused * n) >= 0.8


@needs_triton
@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="the command uses internals of torch 2.13")
def test_inductor_reads_and_writes_each_operand_once_in_one_kernel() -> None:
    command = [sys.executable, "benchmarks/inductor_code.py", "adamw", "nesterov"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {
        "adamw": {"kernels": 1, "loads": 4, "stores": 3},
        "nesterov": {"kernels": 1, "loads": 3, "stores": 2},
    }


# ---------------------------------------------------------------------- without Triton, and without a device


def test_without_a_device_of_triton_it_says_so_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_elementwise, "takes", lambda device: False)
    p, twin = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, plain = Optimizer([p], 0.1, fused="triton"), Optimizer([twin], 0.1)
    p.grad, twin.grad = torch.ones(3), torch.ones(3)
    with pytest.warns(SabunWarning, match="Triton is not installed, or has no kernels for the device 'cpu'"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    plain.step()
    plain.step()
    assert torch.equal(p, twin)
    assert optimizer.compile_s == 0
