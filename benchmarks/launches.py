"""Launches and memory of a step of the preset on an accelerator: the tables of ``docs/large-models.md``.

``python benchmarks/launches.py``. Tensors are on the meta device, so nothing has numbers and no time is predicted; see
``tests/optim/accelerator.py``, by which ``tests/optim/test_accelerator.py`` holds a step to its budgets.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "optim"))

import torch  # noqa: E402
from accelerator import Count, entries, gpt2_small, llama_8b, parameters  # noqa: E402

from sabun.optim import buckets, create, matrix_stacks  # noqa: E402
from sabun.optim import torch_internals as internals  # noqa: E402
from sabun.optim.preconditioners import spectral, stacks  # noqa: E402
from sabun.optim.preconditioners.symmetric_products import blocks_of  # noqa: E402


def counted(shapes: Any, dtype: torch.dtype, **options: Any) -> str:
    """Launches with CUDA 12 and 13, and megabytes beside parameters, gradients and state, of the second step."""
    optimizer = create("sabun", parameters(shapes, dtype), **options)
    optimizer.step()
    with Count() as count:
        optimizer.step()
    return f"{count.launches[12]:,} | {count.launches[13]:,} | {count.transient / 1e6:.0f} MB |"


def kernel(state_dtype: str | None) -> str:
    """Bytes of state, launches, gigabytes, and bytes of an entry of a step of adamw by the kernel for an H100."""
    from triton_binary import RULES, U8, moved, of_a_step, parts, ptx

    optimizer = create("adamw", parameters(gpt2_small()), state_dtype=state_dtype)
    optimizer.step()
    held = sum(t.nbytes for one in optimizer.state.values() for t in one.values() if t.ndim)
    (built,) = optimizer._plans
    rules = {None: "adamw", "bfloat16": "state at random", "8bit": "8 bits"}
    total = [of_a_step(rules[bucket.storage], [p.shape for p in bucket.params]) for bucket in built.members]
    rule = rules[state_dtype]
    entry = sum(moved(parts(ptx(rule))[1], RULES[rule][3].count(U8)))
    return f"{held / entries(gpt2_small()):.2f} | {len(total)} | {sum(total) / 1e9:.1f} | {entry:g}"


def symmetric_products() -> None:
    """Multiplications with and without, and launches of a step; a whole product counts for one launch of the kernel."""
    print("\n| GPT-2 small, bfloat16 | blocks of XXᵀ | multiplications of an iteration, of those of whole products |")
    print(3 * "|---" + "|")
    total = [0.0, 0.0]
    for columns, number in ((768, 1), (2304, 1), (3072, 2)):
        some, all_ = blocks_of(768, torch.bfloat16)
        found = [768**2 * (share * (columns + 768) + columns) * number for share in (some / all_, 1)]
        total = [a + b for a, b in zip(total, found, strict=True)]
        print(f"| 768 × {columns} | {some} of {all_} | {found[0] / found[1]:.2f} |")
    print(f"| all of a layer | | {total[0] / total[1]:.2f} |")
    stacks.symmetric_product = lambda X, Y=None, plus=None, *, out=None, **_: torch.bmm(X, X.mT, out=out)
    spectral.require_symmetric_products = lambda device, dtype: None
    print("\n| GPT-2 small, symmetric_products | launches, CUDA 12 | launches, CUDA 13 | beside them |")
    print(4 * "|---" + "|")
    for on in (False, True):
        print(f"| {on} |", counted(gpt2_small(), torch.float32, symmetric_products=on), flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    internals.multiplies_bfloat16 = lambda device: True
    wide = {"state_dtype": "float32"}
    print("| preset sabun | parameters | options | launches, CUDA 12 | launches, CUDA 13 | beside them |")
    print(6 * "|---" + "|")
    for name, shapes, dtype, options in (
        ("GPT-2 small", gpt2_small(), torch.float32, {}),
        ("GPT-2 small", gpt2_small(), torch.float32, {"capturable": True}),
        ("GPT-2 small", gpt2_small(), torch.float32, {"row_normalization": True}),
        ("GPT-2 small", gpt2_small(), torch.bfloat16, wide),
        ("GPT-2 small", gpt2_small(), torch.bfloat16, {}),
        ("Llama 3 8B", llama_8b(), torch.bfloat16, wide),
        ("Llama 3 8B", llama_8b(), torch.bfloat16, {}),
    ):
        print(f"| {name} | {dtype} | {options or ''} |", counted(shapes, dtype, **options), flush=True)
    print("\n| GPT-2 small, float32, foreach | state | bytes of state | launches | GB moved | beside them |")
    print(6 * "|---" + "|")
    for preset in ("adamw", "sabun"):
        for state_dtype in (None, "bfloat16", "8bit"):
            optimizer = create(preset, parameters(gpt2_small()), state_dtype=state_dtype, fused=None)
            optimizer.step()
            held = sum(t.nbytes for one in optimizer.state.values() for t in one.values() if t.ndim)
            with Count() as count:
                optimizer.step()
            size = held / entries(gpt2_small())
            print(
                f"| {preset} | {state_dtype or 'float32'} | {size:.2f} | {count.launches[13]:,} | "
                f"{count.moved / 1e9:.1f} | {count.transient / 1e6:.0f} MB |",
                flush=True,
            )
    if importlib.util.find_spec("triton") is None:
        print("\nThe Triton kernel is not counted: Triton is not installed.")
    else:
        print(
            "\n| GPT-2 small, float32, Triton kernel | state | bytes of state | launches | GB moved | bytes an entry |"
        )
        print(6 * "|---" + "|")
        for state_dtype in (None, "bfloat16", "8bit"):
            print(f"| adamw | {state_dtype or 'float32'} | {kernel(state_dtype)} |", flush=True)
    symmetric_products()
    print("\n| workspace | entries of a piece | launches, CUDA 12 | launches, CUDA 13 | beside them |")
    print(5 * "|---" + "|")
    for workspace, bound in ((72, 21), (144, 21), (288, 32), (600, 64)):
        matrix_stacks.WORKSPACE, buckets._BOUND = workspace * 10**6, bound * 2**20
        print(f"| {workspace} MB | {bound}·2²⁰ |", counted(gpt2_small(), torch.float32), flush=True)


if __name__ == "__main__":
    import piped

    piped.run(main)
