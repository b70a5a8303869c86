"""The Triton kernels: equal to foreach in Triton's interpreter, and compiled for an H100 without one.

What a compiled kernel reads and writes is counted in its PTX. No time is measured: that needs the device.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from accelerator import entries, gpt2_small
from torch import nn
from triton_binary import RULES, U8, WIDTH, accesses, moved, of_a_step, parts, ptx, symmetric_product_ptx

from sabun import Optimizer
from sabun.errors import SabunWarning
from sabun.optim.compiled import triton_elementwise

pytestmark = pytest.mark.cpu_only("Triton's interpreter, and code that is compiled without a device")

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
def test_in_the_interpreter() -> None:
    """All tests of two files: the interpreter is chosen for a process, when Triton is imported."""
    files = [str(HERE / f"{name}_interpreted.py") for name in ("triton", "symmetric")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\b\d{2,3} passed", done.stdout)


# ---------------------------------------------------------------------- compiled for compute capability 9.0


@needs_triton
@pytest.mark.parametrize("name", RULES)
def test_each_operand_is_read_once_and_written_once(name: str) -> None:
    """All but the gradient are written. In the loop in accesses of 16 bytes, or of 8 for codes, a byte an entry.

    Whole blocks and the last entries of a tensor are two parts. State in 8 bits has only the one, with four blocks and
    their scales in a pass.
    """
    _, loop, last = parts(ptx(name))
    dtypes = RULES[name][3]
    scales = dtypes.count(U8)
    sizes = [dtype.itemsize for dtype in dtypes]
    if scales:
        assert last == {"ld": [], "st": []}
        del sizes[-1 - scales : -1]
    for part in (loop,) if scales else (loop, last):
        more = scales * 32 / WIDTH
        assert moved(part, scales) == (sum(sizes) + more, sum(sizes[:-1]) + more)
    assert {*loop["ld"], *loop["st"]} == ({4, 8, 16} if scales else {16})


@needs_triton
def test_addresses_that_are_not_aligned_are_read_as_they_are() -> None:
    _, loop, _ = parts(ptx("adamw", aligned=False))
    assert {*loop["ld"], *loop["st"]} == {4}
    assert moved(loop)[0] == 16


@needs_triton
@pytest.mark.parametrize(("name", "torch_fused"), [("adamw", 7), ("nesterov", 6)])
def test_bytes_of_a_step_of_gpt2_small(name: str, torch_fused: int) -> None:
    """At most 1.05 of torch's fused step, by the kernel's own loads and stores.

    torch's fused AdamW reads p, g, m, v and writes p, m, v; its fused SGD with momentum reads p, g, m and writes
    p, g, m.
    """
    share = of_a_step(name, [shape for _, shape in gpt2_small()]) / (4 * torch_fused * entries(gpt2_small()))
    assert 0.8 <= share <= 1.05


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_symmetric_products_are_made_by_tensor_cores_in_one_loop(dtype: torch.dtype) -> None:
    """A program adds products of blocks in float32, and stores both in accesses of 16 bytes, without atomics."""
    text = symmetric_product_ptx(dtype)
    kind = "bf16" if dtype == torch.bfloat16 else "f16"
    assert re.search(rf"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.{kind}", text)
    assert {size for sizes in accesses(text.splitlines()).values() for size in sizes} == {16}


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
