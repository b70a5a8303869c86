"""Products of matrices that are known to be symmetric, for one triangle and mirrored: one launch for a stack.

XXᵀ is symmetric, and so is every product of polynomials in it. A program computes a block on or above the diagonal and
stores it twice, as it is and transposed. With blocks of B × B an n × n product so takes (n/B)(n/B + 1)/2 of its (n/B)²
blocks, a share of (1 + B/n)/2 of the multiplications; n/B is rounded up. B is 128 in 16 bits and 64 in float32 and for
n ≤ 64. The columns of X are not divided among programs, so a few long matrices leave a large device idle.

The Muon of modded-nanogpt and that of Dion do the same; this kernel is written from the formula.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
from typing import Any

import torch
from torch import Tensor

from sabun.errors import OptionError
from sabun.optim.triton_source import kernel, takes

__all__ = ["SOURCE", "blocks_of", "launch_of", "require", "symmetric_product"]

_TYPES = (torch.bfloat16, torch.float16, torch.float32)

# Row r of the triangle and the one that is as much shorter than all rows make a row of one length together. Masks are
# of whole rows and columns, so that accesses can be as wide as the hardware has them; in a block on the diagonal the
# lower triangle is replaced before it is stored.
SOURCE = """\
@triton.jit(do_not_specialize=["blocks", "programs"])
def step(x, y, plus, out, rows, columns, x_batch, x_row, x_column, y_batch, y_row, y_column,
         plus_batch, plus_row, plus_column, out_batch, out_row, out_column, blocks, programs, alpha, beta, shift,
         ADDED: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    batch = (tl.program_id(0) // programs).to(tl.int64)
    program = tl.program_id(0) % programs
    even = 1 - blocks % 2
    r, c = program // (blocks + even), program % (blocks + even)
    shorter = c >= blocks - r
    top = tl.where(shorter, blocks - even - r, r) * BLOCK
    left = tl.where(shorter, c - even, r + c) * BLOCK
    at = tl.arange(0, BLOCK)
    above, beside, along = (top + at).to(tl.int64), (left + at).to(tl.int64), tl.arange(0, DEPTH).to(tl.int64)
    x_ = x + batch * x_batch + (above * x_row)[:, None] + (along * x_column)[None, :]
    y_ = y + batch * y_batch + (beside * y_row)[None, :] + (along * y_column)[:, None]
    of_x, of_y = (top + at < rows)[:, None], (left + at < rows)[None, :]
    inside = of_x & of_y
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for begin in range(0, columns, DEPTH):
        within = begin + tl.arange(0, DEPTH) < columns
        x_block = tl.load(x_, mask=of_x & within[None, :], other=0.0)
        y_block = tl.load(y_, mask=of_y & within[:, None], other=0.0)
        total = tl.dot(x_block, y_block, total, input_precision="ieee")
        x_ += DEPTH * x_column
        y_ += DEPTH * y_column
    total *= alpha
    if ADDED:
        plus_ = plus + batch * plus_batch + (above * plus_row)[:, None] + (beside * plus_column)[None, :]
        total += beta * tl.load(plus_, mask=inside, other=0.0).to(tl.float32)
    i, j = (top + at)[:, None], (left + at)[None, :]
    block = tl.where(i == j, total + shift, total).to(out.dtype.element_ty)
    turned = tl.trans(block)
    out_ = out + batch * out_batch
    to_block = out_ + (above * out_row)[:, None] + (beside * out_column)[None, :]
    tl.store(to_block, tl.where(i <= j, block, turned), mask=inside)
    if top != left:
        to_turned = out_ + (beside * out_row)[:, None] + (above * out_column)[None, :]
        tl.store(to_turned, turned, mask=(left + at < rows)[:, None] & (top + at < rows)[None, :])
"""


def launch_of(rows: int, dtype: torch.dtype) -> dict[str, int]:
    """Side of a block, depth of one product of blocks, warps and stages of a program."""
    if dtype.itemsize == 2 and rows > 64:
        return {"BLOCK": 128, "DEPTH": 64, "num_warps": 4, "num_stages": 3}
    return {"BLOCK": 64, "DEPTH": 32, "num_warps": 4, "num_stages": 3}


def blocks_of(rows: int, dtype: torch.dtype) -> tuple[int, int]:
    """Blocks that are computed of a product with this many rows, and all of its blocks."""
    blocks = -(-rows // launch_of(rows, dtype)["BLOCK"])
    return blocks * (blocks + 1) // 2, blocks * blocks


def symmetric_product(
    X: Tensor,
    Y: Tensor | None = None,
    plus: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    shift: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """α·XYᵀ + β·plus + shift·I of stacks of matrices, of which it is known that the result is symmetric.

    ``X`` and ``Y`` (n, rows, columns), ``plus`` and ``out`` (n, rows, rows) have any strides, and are in float32,
    bfloat16 or float16, all in one dtype. Y is X if it is left out. Sums are in float32, without TF32, and are rounded
    once. The result is symmetric to the bit: it is made of the upper triangles of XYᵀ and ``plus``. ``out`` shares no
    memory with X and Y.
    """
    Y = X if Y is None else Y
    out = X.new_empty((len(X), X.shape[-2], X.shape[-2])) if out is None else out
    rows, columns = X.shape[-2:]
    added = X if plus is None else plus
    launch = launch_of(rows, X.dtype)
    programs, _ = blocks_of(rows, X.dtype)
    on_device: Any = torch.cuda.device(X.device) if X.is_cuda else contextlib.nullcontext()
    with on_device:
        kernel(SOURCE)[(len(X) * programs,)](
            X, Y, added, out, rows, columns, *X.stride(), *Y.stride(), *added.stride(), *out.stride(),
            -(-rows // launch["BLOCK"]), programs, float(alpha), float(beta), float(shift),
            ADDED=plus is not None, enable_fp_fusion=True, **launch,
        )  # fmt: skip
    return out


def require(device: torch.device, dtype: torch.dtype) -> None:
    """Raise OptionError where matrices of this dtype cannot be multiplied by the kernel on this device."""
    if reason := _reason(device, dtype):
        cause, fix = reason
        raise OptionError(
            f"symmetric_products=True: {cause}.", fix=f"{fix}Without the option whole products are computed."
        )


@functools.lru_cache(maxsize=64)
def _reason(device: torch.device, dtype: torch.dtype) -> tuple[str, str] | None:
    """Why not, and what to do about it. A first small product shows whether Triton compiles the kernel, and is checked.

    Triton's interpreter fails in bfloat16, whose bits it takes for integers.
    """
    if dtype not in _TYPES:
        name = str(dtype).split(".")[1]
        return f"the kernel has no {name}, in which these matrices are iterated", "Set dtype='float32'. "
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and not takes(device)):
        return f"the kernel is for CUDA, and the parameters are on {device.type!r}", "Move the model to the GPU first. "
    if not takes(device):
        return "Triton is not installed", "Install it: pip install 'sabun[triton]'. "
    try:
        from triton.errors import TritonError

        product = symmetric_product(torch.ones((1, 128, 128), dtype=dtype, device=device))
    except ImportError as error:
        return f"Triton cannot be imported ({error})", "Install it: pip install 'sabun[triton]'. "
    except torch.OutOfMemoryError:
        raise
    except (TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:  # no C compiler among them
        first = next(iter(str(error).strip().splitlines()), "")[:200]
        return f"Triton cannot compile the kernel for {dtype} on this device ({first})", ""
    if not bool((product == 128).all()):
        return f"the kernel multiplies {dtype} wrongly on this device", ""
    return None
