"""What ``torch.compile`` around a training step sees of an optimizer step: one opaque call.

A step decides by step number, learning rate and the presence of gradients, which a tracer takes for constants: it would
trace anew for every new value until it gives up. The step has its own compiled path (``fused=True``) that takes those
as numbers; a tracer gains nothing here. Equal, then, with and without ``torch.compile``, and never traced again.
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
    """``torch.compiler.disable``, put off to the first call: it imports the compiler, which takes a second."""
    hidden: Callable[_P, _T] | None = None

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        nonlocal hidden
        if hidden is None:
            disable: Callable[[Callable[_P, _T]], Callable[_P, _T]] = torch.compiler.disable
            hidden = disable(function)
        return hidden(*args, **kwargs)

    return call
