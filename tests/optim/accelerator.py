"""An accelerator without numbers: tensors on the meta device, and what a step asks of the device, counted.

A value cannot be read from a meta tensor, so a step that waits for the device fails. For everything else the shapes
suffice: operations, kernel launches as torch makes them on CUDA, bytes that kernels read and write, and the memory
that a step needs beyond parameters, gradients and state. No time is predicted.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LIMITS", "Count", "gpt2_small", "llama_8b", "parameters"]

# The limits of one launch over lists of tensors, as in torch's ATen/native/cuda/MultiTensorApply.cuh: tensors by the
# number of lists, blocks, and entries of a block. The arguments of a kernel are larger from CUDA 13 on.
_BLOCK = 65_536
LIMITS = {
    12: ({1: 110, 2: 64, 3: 48, 4: 36, 5: 30}, 320),
    13: ({1: 770, 2: 448, 3: 336, 4: 252, 5: 210}, 2_240),
}
# Operations of this name make another view of the same memory, or memory without contents.
_FREE = {
    "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "new_empty", "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class Count(TorchDispatchMode):
    """Counts inside its ``with`` block; ``transient`` is the largest memory at a time that was allocated inside."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = dict.fromkeys(LIMITS, 0)  # by the version of CUDA
        self.moved = self.transient = self._live = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors((args, kwargs))
        known = {t.untyped_storage()._cdata for t in inputs}
        out = function(*args, **(kwargs or {}))
        outputs = _tensors(out)
        name = function.__name__.split(".")[0]
        for t in outputs:
            storage = t.untyped_storage()
            if storage._cdata not in known:
                known.add(storage._cdata)
                self._live += storage.nbytes()
                self.transient = max(self.transient, self._live)
                weakref.finalize(storage, self._freed, storage.nbytes())
        on_device = [t for t in inputs if t.is_meta]
        if (on_device or name == "eye") and name not in _FREE:
            written = outputs or (_tensors(args[0]) if name.endswith("_") else [])
            for cuda in LIMITS:
                self.launches[cuda] += _launches(name, args, kwargs or {}, cuda)
            self.moved += sum(t.nbytes for t in [*on_device, *written])
        return out

    def _freed(self, size: int) -> None:
        self._live -= size


def _launches(name: str, args: Any, kwargs: Any, cuda: int) -> int:
    if name in ("baddbmm", "addmm") and kwargs.get("beta", 1) != 0:
        return 2  # the copy of the sum's first term, and the product
    if name == "eye":
        return 2  # zeros, and the diagonal
    if not name.startswith("_foreach"):
        return 1
    lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
    most_tensors, most_blocks = LIMITS[cuda]
    return _packed(
        [t.numel() for t in lists[0]], most_tensors[min(5, len(lists) + (not name.endswith("_")))], most_blocks
    )


def _packed(sizes: list[int], most_tensors: int, most_blocks: int) -> int:
    """Launches over tensors one after the other: one ends with its last tensor or its last block."""
    launches = tensors = blocks = 0
    for size in sizes:
        tensors += 1
        left = -(-size // _BLOCK)
        while left:
            now = min(left, most_blocks - blocks)
            left, blocks = left - now, blocks + now
            if blocks == most_blocks or (tensors == most_tensors and not left):
                launches, blocks, tensors = launches + 1, 0, 1 if left else 0
    return launches + bool(blocks)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def parameters(
    shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: torch.dtype = torch.float32
) -> list[tuple[str, Tensor]]:
    """Named parameters of these shapes with gradients, on the meta device."""
    named = []
    for name, shape in shapes:
        p = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
        p.grad = torch.empty_like(p)
        named.append((name, p))
    return named


def gpt2_small() -> list[tuple[str, tuple[int, ...]]]:
    """The 148 tensors of GPT-2 small, 124 million entries."""
    d = 768
    shapes: list[tuple[str, tuple[int, ...]]] = [("wte.weight", (50_257, d)), ("wpe.weight", (1_024, d))]
    for layer in range(12):
        for norm in ("ln_1", "ln_2"):
            shapes += [(f"h.{layer}.{norm}.weight", (d,)), (f"h.{layer}.{norm}.bias", (d,))]
        for name, rows, columns in (
            ("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, 4 * d), ("mlp.c_proj", 4 * d, d)
        ):  # fmt: skip
            shapes += [(f"h.{layer}.{name}.weight", (rows, columns)), (f"h.{layer}.{name}.bias", (columns,))]
    return [*shapes, ("ln_f.weight", (d,)), ("ln_f.bias", (d,))]


def llama_8b() -> list[tuple[str, tuple[int, ...]]]:
    """The 291 tensors of Llama 3 8B."""
    d, wide, vocabulary = 4_096, 14_336, 128_256
    shapes: list[tuple[str, tuple[int, ...]]] = [("embed_tokens.weight", (vocabulary, d))]
    for layer in range(32):
        for name, rows, columns in (
            ("self_attn.q_proj", d, d), ("self_attn.k_proj", d // 4, d), ("self_attn.v_proj", d // 4, d),
            ("self_attn.o_proj", d, d), ("mlp.gate_proj", wide, d), ("mlp.up_proj", wide, d),
            ("mlp.down_proj", d, wide),
        ):  # fmt: skip
            shapes.append((f"layers.{layer}.{name}.weight", (rows, columns)))
        shapes += [(f"layers.{layer}.{norm}.weight", (d,)) for norm in ("input_layernorm", "post_attention_layernorm")]
    return [*shapes, ("norm.weight", (d,)), ("lm_head.weight", (vocabulary, d))]


def entries(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """Number of entries of all tensors."""
    return sum(math.prod(shape) for _, shape in shapes)
