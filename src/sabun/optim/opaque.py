"""An optimizer step as one opaque call inside ``torch.compile``.

A step branches on its number, the learning rate and the presence of gradients. A tracer takes those for constants and
would retrace for every new value. The compiled step (``fused=True``) has them as operands, so nothing is lost: the
step is not traced, and its result is the same with and without ``torch.compile``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["opaque"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def opaque(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Apply ``torch.compiler.disable`` at the first call, because it imports the compiler, which takes a second."""
    hidden: Callable[_P, _T] | None = None

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        nonlocal hidden
        if hidden is None:
            disable: Callable[[Callable[_P, _T]], Callable[_P, _T]] = torch.compiler.disable
            hidden = disable(function)
        return hidden(*args, **kwargs)

    return call
