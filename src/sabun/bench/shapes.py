"""The tensors that a step is measured on: lists of shapes, taken from models that people train.

To an optimizer a model is a list of tensors. The catalogue has a transformer (few large matrices, many vectors), a
convolutional network (kernels), a thousand small tensors, where calls cost more than arithmetic, and small matrices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sabun.errors import OptionError, unknown

__all__ = ["SHAPES", "Shape", "cut", "load", "parameters"]

Shape = tuple[int, ...]
_FIX = 'Give a JSON file with [[768, 768], [768]] or {"weight": [768, 768]}.'


def _gpt2_small() -> list[Shape]:
    """GPT-2, 124M: 12 blocks of width 768, the output layer tied to the embedding (148 tensors)."""
    width = 768
    block: list[Shape] = [
        (width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,),
        (width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,),
    ]  # fmt: skip
    return [(50257, width), (1024, width), *block * 12, (width,), (width,)]


def _resnet18() -> list[Shape]:
    """ResNet-18 with 1,000 classes, 11.7M: kernels and the two vectors of every batch normalisation (62 tensors)."""

    def conv(out: int, into: int, size: int) -> list[Shape]:
        return [(out, into, size, size), (out,), (out,)]

    shapes = conv(64, 3, 7)
    into = 64
    for out in (64, 128, 256, 512):
        shapes += conv(out, into, 3) + conv(out, out, 3)
        if out != into:
            shapes += conv(out, into, 1)
        shapes += conv(out, out, 3) + conv(out, out, 3)
        into = out
    return [*shapes, (1000, 512), (1000,)]


def _many_small() -> list[Shape]:
    """1,000 tensors of 1,000 entries: the cost of a step besides memory traffic."""
    return [(1000,)] * 1000


def _mixed() -> list[Shape]:
    """27.5M parameters in 150 tensors of 150 different shapes, which cannot be grouped by shape."""
    sides = [96 + 12 * i for i in range(50)]
    return [*[(n, n) for n in sides], *[(n,) for n in sides], *[(n, 2 * n) for n in sides]]


def _small_matrices() -> list[Shape]:
    """Hidden matrices of small networks: perceptrons of width 32 and 64, a kernel, two blocks of a transformer of width
    48 (13 tensors)."""
    block: list[Shape] = [(144, 48), (48, 48), (192, 48), (48, 192)]
    return [(64, 64), (64, 64), (32, 30), (32, 32), (32, 16, 3, 3), *block * 2]


SHAPES: Mapping[str, Callable[[], list[Shape]]] = {
    "gpt2-small": _gpt2_small,
    "resnet18": _resnet18,
    "many-small": _many_small,
    "mixed": _mixed,
    "small-matrices": _small_matrices,
}


def load(name: str) -> list[Shape]:
    """The shapes of that name in :data:`SHAPES`, or those of a JSON file.

    The file holds ``[[768, 768], …]`` or ``{"name": [768, 768], …}``; for a model of yours write
    ``json.dump({n: list(p.shape) for n, p in model.named_parameters()}, file)``. Raises OptionError for an unknown
    name, a file that cannot be read, and an entry that is not a shape.
    """
    if name in SHAPES:
        return SHAPES[name]()
    path = Path(name)
    if path.suffix != ".json":
        raise unknown(
            OptionError, "shapes", name, SHAPES, see="Or give the path of a .json file with a list of shapes."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"cannot read shapes from {name}: {error}.", fix=_FIX) from error
    entries = list(data.values()) if isinstance(data, dict) else data
    if not isinstance(entries, list) or not entries:
        raise OptionError(f"{name} does not contain a list of shapes.", fix=_FIX)
    for entry in entries:
        if not isinstance(entry, list) or any(type(n) is not int or n < 1 for n in entry):
            raise OptionError(f"{name}: {entry!r} is not a shape.", fix="A shape is a list of whole numbers >= 1.")
    return [tuple(entry) for entry in entries]


def parameters(shapes: Sequence[Shape]) -> int:
    """Number of scalars in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def cut(shapes: Sequence[Shape], limit: int) -> list[Shape]:
    """``shapes`` without its largest tensors, so that at most ``limit`` parameters are left, in the same order.

    Among equals the last is dropped first, so a model loses its upper blocks. At least one tensor is kept.
    """
    left = list(shapes)
    total = parameters(left)
    by_size = sorted(range(len(left)), key=lambda i: (math.prod(left[i]), i), reverse=True)
    dropped: set[int] = set()
    for i in by_size[:-1]:
        if total <= limit:
            break
        dropped.add(i)
        total -= math.prod(left[i])
    return [shape for i, shape in enumerate(left) if i not in dropped]
