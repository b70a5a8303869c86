"""Kernels in Triton, from their text: a module that has them needs no Triton until one is made."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import linecache
import os
from typing import Any

import torch

__all__ = ["kernel", "takes"]


@functools.lru_cache(maxsize=256)
def kernel(text: str) -> Any:
    """The function ``step`` of a text, not yet compiled. Raises ImportError or OSError if Triton cannot be loaded."""
    import triton
    import triton.language as tl

    name = f"<sabun kernel {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    # Triton reads the text of a function as ``inspect`` does.
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"triton": triton, "tl": tl, "__name__": __name__}
    exec(compile(text, name, "exec"), scope)
    return scope["step"]


@functools.lru_cache(maxsize=64)
def takes(device: torch.device) -> bool:
    """Whether Triton has kernels for a device: those of CUDA and ROCm, and the CPU where it interprets."""
    if importlib.util.find_spec("triton") is None:
        return False
    return device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
